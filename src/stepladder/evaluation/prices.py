"""The short lines beside a verdict's sentence, which every outcome has: price, break-even, latency, labels, base model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from stepladder.evaluation.compare import Contender, strongest_untuned
from stepladder.evaluation.cost import PRICED, cheaper_between, cost_per_thousand, kind, total_cost
from stepladder.evaluation.ruling import VerdictInputs


def facts(inputs: VerdictInputs, chosen: Contender | None) -> tuple[str, ...]:
    """The lines, from the contenders alone.

    Args:
        chosen: The recommended contender or the best bet, which is named first; None when the verdict names none.
    """
    shown = sorted(inputs.contenders, key=lambda rung: rung is not chosen)
    return (
        _price(shown),
        *_break_evens(inputs, chosen),
        _latency(shown),
        *_labels(shown),
        _base(inputs),
    )


def _price(shown: Sequence[Contender]) -> str:
    calls = shown[0].cost.calls
    share = f", set-up shared out over {calls:,.0f} calls" if calls > 0 else ""
    return f"Price of 1,000 calls{share}: {', '.join(f'{rung.rung} {cost_per_thousand(rung.cost)}' for rung in shown)}."


def _break_evens(inputs: VerdictInputs, chosen: Contender | None) -> Iterator[str]:
    """Each tuned contender against the chosen untuned one, or the chosen tuned one against the best untuned."""
    tuned = [rung for rung in inputs.contenders if rung.tuned]
    if not tuned:
        reason = f": {inputs.why_nothing_tuned}" if inputs.why_nothing_tuned else "."
        yield f"Break-even: not known, no tuned rung answered the test rows{reason}"
        return
    untuned = chosen if chosen is not None and not chosen.tuned else strongest_untuned(inputs.contenders)
    if untuned is None:
        yield "Break-even: not known, there is no untuned contender to weigh against."
        return
    for rung in [chosen] if chosen is not None and chosen.tuned else tuned:
        yield f"Break-even of {rung.rung} against {untuned.rung}: {break_even_text(untuned, rung)}."


def break_even_text(untuned: Contender, tuned: Contender) -> str:
    """From how many calls over the horizon `tuned` costs less in all than `untuned`."""
    if kind(tuned.cost) != kind(untuned.cost):
        return "not known, as a price is missing"
    between = cheaper_between(tuned.cost, untuned.cost)
    if between is None:
        return "never, its calls are not cheaper either"
    start, end = between
    unit = "money" if kind(tuned.cost) == PRICED else "machine time"
    expected = f" in {unit}; {tuned.cost.calls:,.0f} are expected"
    if end < math.inf:
        return f"it costs less only below {end:,.0f} calls{expected}"
    return f"{math.ceil(start):,} calls{expected}" if start > 0 else "0, it costs less from the first call on"


def _latency(shown: Sequence[Contender]) -> str:
    said = ", ".join(
        f"{rung.rung} {duration(rung.latency_p50_seconds)} (95th percentile {duration(rung.latency_p95_seconds)})"
        for rung in shown
    )
    return f"Latency of one answer: {said}."


def duration(seconds: float) -> str:
    """Seconds of one answer, with no more digits than a reader needs."""
    if seconds < 0.001:
        return "under 1 ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _labels(shown: Sequence[Contender]) -> Iterator[str]:
    """What labelling again costs where it cannot be added up, because the rest is known in machine time only."""
    apart = [rung for rung in shown if rung.cost.usd_labels > 0 and total_cost(rung.cost).unit != "usd"]
    if apart:
        said = ", ".join(f"{rung.cost.labels:,.0f} rows for {rung.rung} (${rung.cost.usd_labels:,.2f})" for rung in apart)
        yield f"To be labelled again as the facts change: {said}; set `machine_usd_per_hour` to have it added to the price."


def _base(inputs: VerdictInputs) -> str:
    size = inputs.base_parameters
    said = "of unknown size" if size is None else parameters_text(size)
    tried = "prompted models of `[model] compare` were tried too" if inputs.larger_models_compared else "no larger one was tried"
    return f"Base model: {said}; {tried}."


def parameters_text(size: int) -> str:
    """How large a model is, in millions of parameters where it has that many."""
    return f"{size / 1e6:,.0f} million parameters" if size >= 1e6 else f"{size:,} parameter{'s' if size != 1 else ''}"
