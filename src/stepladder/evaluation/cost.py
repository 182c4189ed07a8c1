"""What adopting a rung costs, and in which order rungs are adopted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from stepladder.domain.task import UseSettings
from stepladder.domain.verdict import Cost


class Adoptable(Protocol):
    @property
    def tuned(self) -> bool: ...

    @property
    def cost(self) -> Cost: ...


AnyAdoptable = TypeVar("AnyAdoptable", bound=Adoptable)


@dataclass(frozen=True, slots=True)
class Amount:
    """Money when it is known, else seconds of this machine."""

    value: float
    unit: str  # "usd" or "seconds"

    def __str__(self) -> str:
        if self.unit == "usd":
            return f"${self.value:,.2f}" if self.value >= 0.01 or self.value == 0 else f"${self.value:.2g}"
        return _duration(self.value)


def _duration(seconds: float) -> str:
    for size, name in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} machine {name}"
    return f"{seconds:.3g} machine seconds"


def adoption_cost(
    use: UseSettings,
    *,
    prompt_tokens_per_call: float,
    completion_tokens_per_call: float,
    seconds_per_call: float,
    seconds_once: float = 0.0,
    tuned: bool = False,
    hosted: bool = False,
    training_usd: float | None = 0.0,
    labelled_rows: int = 0,
) -> Cost:
    """The cost of a rung over the horizon, from what was measured.

    Args:
        seconds_per_call, seconds_once: Of this machine; for a hosted model, the calls' own wall time.
        tuned: Training is repeated whenever the facts change.
        training_usd: What a hosted model's training was charged; None where that is not known.
        labelled_rows: Examples whose labels are part of this rung: they are labelled again whenever the facts change
            (docs/decisions/012). Without a price for labels they cost nothing.
    """
    machine = None if use.machine_usd_per_hour is None else use.machine_usd_per_hour / 3600
    if hosted:
        usd_per_call = hosted_usd(use, prompt_tokens_per_call, completion_tokens_per_call)
        usd_once = training_usd
    else:
        usd_per_call = None if machine is None else seconds_per_call * machine
        usd_once = None if machine is None else seconds_once * machine
    labels = labelled_rows * use.retrainings
    return Cost(
        seconds_once=seconds_once,
        seconds_per_call=seconds_per_call,
        usd_once=usd_once,
        usd_per_call=usd_per_call,
        prompt_tokens_per_call=prompt_tokens_per_call,
        completion_tokens_per_call=completion_tokens_per_call,
        retrainings=use.retrainings if tuned else 0.0,
        calls=use.calls,
        labels=labels,
        usd_labels=labels * (use.label_usd_each or 0.0),
        labelled_rows=labelled_rows,
        by_token=hosted,
    )


def repriced(cost: Cost, use: UseSettings, *, tuned: bool) -> Cost:
    """The same measured rung under another use. What a hosted model charges for a call stays as it was."""
    anew = adoption_cost(
        use,
        prompt_tokens_per_call=cost.prompt_tokens_per_call,
        completion_tokens_per_call=cost.completion_tokens_per_call,
        seconds_per_call=cost.seconds_per_call,
        seconds_once=cost.seconds_once,
        tuned=tuned,
        labelled_rows=cost.labelled_rows,
    )
    return replace(anew, usd_once=cost.usd_once, usd_per_call=cost.usd_per_call, by_token=True) if cost.by_token else anew


def hosted_usd(use: UseSettings, prompt_tokens: float, completion_tokens: float) -> float | None:
    """What a hosted model's tokens cost; None where a price is missing. No tokens cost nothing."""
    if prompt_tokens == completion_tokens == 0:
        return 0.0
    prompt_price, completion_price = use.usd_per_million_prompt_tokens, use.usd_per_million_completion_tokens
    if prompt_price is None or completion_price is None:
        return None
    return (prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6


TIME_ONLY, PRICED, UNPRICED = range(3)
"""What is known of a cost, from the cheapest on: this machine's time, dollars, neither (docs/decisions/019)."""


def kind(cost: Cost) -> int:
    """Which of the three a cost is. Amounts are compared within a kind alone."""
    if cost.usd_total is not None:
        return PRICED
    return UNPRICED if cost.by_token else TIME_ONLY


def _place(cost: Cost) -> tuple[int, float]:
    """Where a cost stands among all costs, whichever others there are."""
    return kind(cost), total_cost(cost).value


def order_for_adoption(rungs: Sequence[AnyAdoptable]) -> list[AnyAdoptable]:
    """Untuned before tuned, then by total cost over the horizon; equal costs keep the ladder's order."""
    return sorted(rungs, key=lambda rung: (rung.tuned, _place(rung.cost)))


def without_once(cost: Cost) -> Cost:
    """The calls and the labels alone."""
    return replace(cost, seconds_once=0.0, usd_once=None if cost.usd_once is None else 0.0)


def costs_less(cost: Cost, than: Cost) -> bool:
    """Whether it comes before the other in the order of cost: a lower total over the horizon, training included."""
    return _place(cost) < _place(than)


def total_cost(cost: Cost) -> Amount:
    """Everything over the horizon."""
    usd = cost.usd_total
    return Amount(cost.seconds_total, "seconds") if usd is None else Amount(usd, "usd")


def cost_per_thousand(cost: Cost) -> Amount:
    """Total cost per 1,000 calls: the calls themselves and their share of what is paid once or at each retraining."""
    if cost.calls > 0:
        total = total_cost(cost)
        return Amount(1_000 * total.value / cost.calls, total.unit)
    if cost.usd_per_call is not None:
        return Amount(1_000 * cost.usd_per_call, "usd")
    return Amount(1_000 * cost.seconds_per_call, "seconds")


def cheaper_between(cost: Cost, than: Cost) -> tuple[float, float] | None:
    """The number of calls over the horizon from which, and up to which, `cost` is the lower total; None for never."""
    if kind(cost) != kind(than):
        return (0.0, math.inf) if costs_less(cost, than) else None
    set_up = _once(cost) - _once(than)
    saving = _per_call(than) - _per_call(cost)
    if saving > 0:
        return max(0.0, set_up / saving), math.inf
    if set_up >= 0:
        return None
    return 0.0, set_up / saving if saving < 0 else math.inf


def when_it_pays(cost: Cost, than: Cost) -> str:
    """At which numbers of calls `cost` is the lower total, in words that follow "it pays"."""
    between = cheaper_between(cost, than)
    if between is None:
        return "at no number of calls" if kind(cost) == kind(than) else "at no number of calls that is known"
    start, end = between
    return f"from {start:,.0f} calls" if end == math.inf else f"only below {end:,.0f} calls"


def _once(cost: Cost) -> float:
    """All that does not grow with the calls: set-up, its repetitions, new labels."""
    return total_cost(replace(cost, calls=0.0)).value


def _per_call(cost: Cost) -> float:
    return cost.seconds_per_call if cost.usd_total is None or cost.usd_per_call is None else cost.usd_per_call
