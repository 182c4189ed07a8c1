"""Cheaper contenders that score as well as the named one and were not taken: which, why, and what would settle it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.domain.verdict import Gain, Outcome, Route
from stepladder.evaluation import wording
from stepladder.evaluation.compare import Contender, Pairing
from stepladder.evaluation.cost import costs_less
from stepladder.evaluation.gains import PROVED, SAME, rows_to_prove
from stepladder.evaluation.planning import REACHED
from stepladder.evaluation.ruling import Ruling, VerdictInputs


@dataclass(frozen=True, slots=True)
class PassedOver:
    """In sentences: that the contender scores as well for less and why it was not taken; and what would settle it."""

    reason: str
    would_change: str


def passed_over(inputs: VerdictInputs, ruling: Ruling, eligible: Sequence[Contender], pairing: Pairing) -> list[PassedOver]:
    """The contenders that cost less in all than the recommended one (or the best bet) and score at most `minimum_gain` less."""
    if ruling.outcome is Outcome.NOT_REACHED:
        return []
    weighed = ruling.outcome is Outcome.UNDECIDED or ruling.route is Route.CHEAPEST
    said = ruling.against if weighed else None  # the sentence of the verdict says it
    return [
        _explain(inputs, ruling, rung, pairing)
        for rung in eligible
        if rung is not said
        and _has_failed(inputs, ruling, rung)
        and costs_less(rung.cost, ruling.rung.cost)
        and rung.mean >= ruling.rung.mean - inputs.minimum_gain - SAME
    ]


def _has_failed(inputs: VerdictInputs, ruling: Ruling, rung: Contender) -> bool:
    """Whether a rule kept it out: it is not one that the walk stood on before."""
    if inputs.target is None:
        return rung.rung in ruling.unproved
    return rung.tuned or ruling.odds[rung.rung] < REACHED


def _explain(inputs: VerdictInputs, ruling: Ruling, rung: Contender, pairing: Pairing) -> PassedOver:
    why, settled = _why(inputs, ruling, rung, pairing)
    named = ruling.rung
    scores = f"{rung.rung} scores {wording.percent(rung.mean)} and {named.rung} {wording.percent(named.mean)}"
    reason = f"{scores}, for {wording.price(rung)} instead of {wording.price(named)}. {rung.rung} was passed over: {why}."
    return PassedOver(reason, settled)


def _why(inputs: VerdictInputs, ruling: Ruling, rung: Contender, pairing: Pairing) -> tuple[str, str]:
    """Why it was not taken, and what would settle that."""
    if inputs.target is not None and ruling.odds[rung.rung] < REACHED:
        odds = f"the odds that it truly reaches {100 * inputs.target:.4g}% are {wording.odds(ruling.odds[rung.rung])}"
        return f"{odds}, and {wording.percent(REACHED)} are needed", _rows(inputs, rung, inputs.rows_to_decide(rung))
    if rung.tuned and ruling.outcome is Outcome.SUFFICIENT:
        taken_over = ruling.against if ruling.route is Route.CHEAPER_TO_RUN else None
        return _not_worse(inputs, pairing.gain(taken_over or ruling.rung, rung))
    return _lead(inputs, rung, ruling.unproved[rung.rung])


def _not_worse(inputs: VerdictInputs, move: Gain) -> tuple[str, str]:
    worse = f"at most {wording.points(inputs.minimum_gain)} worse than {move.baseline}"
    odds = wording.odds(move.probability_not_worse)
    return (
        f"that it is {worse} is not proved: odds {odds}, and {wording.percent(PROVED)} are needed",
        f"More test rows would tell whether {move.candidate} does as well.",
    )


def _lead(inputs: VerdictInputs, rung: Contender, move: Gain) -> tuple[str, str]:
    points = wording.points_below(move.interval.value, inputs.minimum_gain)
    lead = f"its lead over {move.baseline} ({points}; {wording.changes(move)})"
    large_enough = move.interval.value >= inputs.minimum_gain - SAME
    if move.probability_better < PROVED:
        needed = rows_to_prove(move) if large_enough else None
        return f"{lead} is not proved: odds {wording.odds(move.probability_better)}", _rows(inputs, rung, needed)
    asked = f"less than the {wording.points(inputs.minimum_gain)} of `minimum_gain`"
    return f"{lead} is {asked}", f"A smaller `minimum_gain` may take {rung.rung}."


def _rows(inputs: VerdictInputs, rung: Contender, needed: int | None) -> str:
    if needed is None:
        return f"No practical number of test rows would tell whether {rung.rung} does as well."
    return f"Whether {rung.rung} does as well is open. " + wording.rows_to_label(inputs.split_growth, rung.items, needed)
