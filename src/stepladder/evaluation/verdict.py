"""The rules: which rung is the cheapest that suffices, from the contenders' scores on the test split.

Everything here is reckoned from `VerdictInputs` alone, so a recorded verdict can be derived again without running anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.errors import EvaluationError
from stepladder.domain.verdict import Outcome, Route, Verdict
from stepladder.evaluation import wording
from stepladder.evaluation.compare import Contender, Pairing, strongest_untuned
from stepladder.evaluation.cost import order_for_adoption
from stepladder.evaluation.passed_over import passed_over
from stepladder.evaluation.planning import REACHED, false_pass_rate
from stepladder.evaluation.prices import facts
from stepladder.evaluation.ruling import Ruling, VerdictInputs
from stepladder.evaluation.statistics import probability_at_least
from stepladder.evaluation.walk import cheaper_to_run, taken_over, walk_up

MOST_UNGRADED = 0.02
MOST_CUT = 0.05
WARN_FROM_OPENINGS = 5
NEVER_CONFIRMED_FROM_OPENINGS = 20
MOST_FALSE_PASSES = 0.05
FEW_NAMED = 5
CLOSE = 0.05  # odds from which a tuned rung of one seed lost so closely that another seed could have won


def decide(inputs: VerdictInputs) -> Verdict:
    """The verdict on these contenders.

    With a target: the first in adoption order with P(score ≥ target) ≥ .9, NOT_REACHED when no P exceeds .1, else UNDECIDED.
    Without: walk up in adoption order and move only for a proved gain of at least `minimum_gain`; UNDECIDED while a dearer
    rung is more likely than not better by that much than all it has to beat. A tuned rung has to beat the strongest untuned
    contender too, not only the one the walk stands on. On a second route a tuned rung takes over when it is not worse and
    costs less in all.

    INVALID: a leak, over 2 % of the scores ungraded, or over 5 % cut answers in the rung the verdict names or, for a tuned
    one, in the untuned rung it has to beat; after cross-fitting also a fit on all rows that failed, since nothing is left then
    that could be shipped. Cut answers of others count as wrong and are mentioned: a plain prompt that
    rambles past the limit is a finding, not a fault of the measurement.

    Raises:
        EvaluationError: There are no contenders, two share a name, or they answered different numbers of rows.
    """
    _check(inputs)
    faults = _broken(inputs)
    if faults:
        return _invalid(inputs, faults)
    eligible = order_for_adoption([rung for rung in inputs.contenders if inputs.why_not(rung) is None])
    if not eligible:
        return _nobody(inputs)
    clusters = None if inputs.clusters is None else np.asarray(inputs.clusters, dtype=np.int64)
    pairing = Pairing(inputs.minimum_gain, clusters, inputs.cross_fit, inputs.seed)
    ruling = walk_up(eligible, pairing) if inputs.target is None else _with_target(inputs, eligible, pairing, clusters)
    faults = _cut(ruling, eligible)
    if faults:
        return _invalid(inputs, faults)
    if (fault := inputs.refit_faults.get(ruling.rung.rung)) is not None:
        return _nothing_to_ship(inputs, ruling.rung.rung, fault)
    doubts = (*_doubts(inputs, ruling, eligible), *_few_seeds(inputs, ruling, pairing))
    over = passed_over(inputs, ruling, eligible, pairing)
    decided = ruling.outcome in (Outcome.SUFFICIENT, Outcome.NOT_REACHED)
    interval = ruling.rung.interval(clusters, cross_fit=inputs.cross_fit, seed=inputs.seed)
    return Verdict(
        outcome=ruling.outcome,
        rung=ruling.rung.rung,
        route=ruling.route,
        confidence="confirmed" if decided and not doubts else "indicative",
        sentence=wording.sentence(inputs, ruling, interval),
        probability=ruling.probability,
        needed_test_rows=ruling.needed_test_rows,
        reasons=(*doubts, *(one.reason for one in over), *_remarks(inputs, ruling)),
        would_change=(*(one.would_change for one in over), *wording.would_change(inputs, ruling, eligible)),
        facts=facts(inputs, ruling.rung),
        gains=tuple(pairing.gain(ruling.rung, other) for other in inputs.contenders if other.rung != ruling.rung.rung),
    )


def _check(inputs: VerdictInputs) -> None:
    names = [rung.rung for rung in inputs.contenders]
    if not names:
        raise EvaluationError("there is no contender to decide about.")
    if len(set(names)) != len(names):
        raise EvaluationError("two contenders share a name.")
    if len({rung.items for rung in inputs.contenders}) > 1:
        raise EvaluationError("the contenders answered different numbers of rows.")


def _broken(inputs: VerdictInputs) -> tuple[str, ...]:
    """What makes every comparison worthless: leaks, and a grader that cannot judge."""
    ungraded = [rung for rung in inputs.contenders if rung.ungraded_share > MOST_UNGRADED]
    return (
        *(f"leak: {leak}" for leak in inputs.leaks),
        *(_without_scores(rung) for rung in ungraded),
    )


def _without_scores(rung: Contender) -> str:
    if 2 * rung.unanswered_share >= rung.ungraded_share:
        return f"no answers: {rung.rung} got none from its server to {wording.percent(rung.unanswered_share)} of the rows."
    return f"broken grader: {wording.percent(rung.ungraded_share)} of the answers of {rung.rung} have no score."


def _with_target(
    inputs: VerdictInputs, eligible: Sequence[Contender], pairing: Pairing, clusters: NDArray[np.int64] | None
) -> Ruling:
    assert inputs.target is not None
    odds = {
        rung.rung: probability_at_least(rung.scores, inputs.target, clusters, cross_fit=inputs.cross_fit, seed=inputs.seed)
        for rung in eligible
    }
    reaching = [rung for rung in eligible if odds[rung.rung] >= REACHED]
    if reaching:
        first = reaching[0]
        takeover = cheaper_to_run(first, reaching, pairing)
        if takeover is not None:
            return taken_over(first, takeover, pairing, odds)
        return Ruling(Outcome.SUFFICIENT, first, Route.TARGET, odds[first.rung], odds=odds)
    # Rows that are all right can still be too few to show a target near 1: that leaves the question open.
    if max(odds.values()) <= 1 - REACHED and all(rung.mean < inputs.target for rung in eligible):
        best = max(eligible, key=lambda rung: rung.mean)
        return Ruling(Outcome.NOT_REACHED, best, None, odds[best.rung], odds=odds)
    best = max(eligible, key=lambda rung: odds[rung.rung])
    still_open = [rung for rung in eligible if odds[rung.rung] > 1 - REACHED or rung.mean >= inputs.target]
    rows = _rows_to_decide(inputs, still_open)
    return Ruling(Outcome.UNDECIDED, best, None, odds[best.rung], needed_test_rows=rows, odds=odds)


def _rows_to_decide(inputs: VerdictInputs, open_ones: Sequence[Contender]) -> int | None:
    """The first size at which an open contender above the target is proved; with all below it, at which the last is ruled out."""
    assert inputs.target is not None
    above = [rung for rung in open_ones if rung.mean >= inputs.target]
    sizes = [inputs.rows_to_decide(rung) for rung in (above or open_ones)]
    known = [size for size in sizes if size is not None]
    if above:
        return min(known, default=None)
    return max(known) if len(known) == len(sizes) else None


def _cut(ruling: Ruling, eligible: Sequence[Contender]) -> tuple[str, ...]:
    """Cut answers in the rungs the verdict rests on."""
    basis = [ruling.rung]
    strongest = strongest_untuned(eligible)
    if ruling.rung.tuned and strongest is not None:
        basis.append(strongest)
    return tuple(
        f"cut answers: {wording.percent(rung.cut_share)} of the answers of {rung.rung} hit the token limit."
        for rung in basis
        if rung.cut_share > MOST_CUT
    )


def _doubts(inputs: VerdictInputs, ruling: Ruling, eligible: Sequence[Contender]) -> tuple[str, ...]:
    """Why the verdict is indicative and not confirmed."""
    doubts = []
    if inputs.cross_fit:
        doubts.append(
            "The rows were too few for a test split: they were cross-fitted, and the final refit is not itself measured."
        )
    doubts += [
        f"Accepted in `[data] accept`: {leak}. This says how the rungs fare only where users ask what stands there."
        for leak in inputs.accepted_leaks
    ]
    if inputs.learned_before:
        first = ", ".join(inputs.learned_before[:FEW_NAMED])
        doubts.append(
            f"{len(inputs.learned_before)} of the test rows learned or chose in an earlier climb ({first}); what was made there "
            "knows them."
        )
    for rung in eligible:
        if rung.tuned and rung.seeds == 1 and _matters(rung, ruling):
            doubts.append(f"{rung.rung} was trained with one seed; another seed may score differently.")
    if inputs.left_out and ruling.route is not Route.TARGET:
        doubts.append(
            f"No tuned rung was climbed, as the budget did not hold them ({', '.join(inputs.left_out)}): "
            "what a fine-tune would bring remains open."
        )
    if inputs.openings >= NEVER_CONFIRMED_FROM_OPENINGS:
        doubts.append(f"The test split was opened {inputs.openings} times; only new test rows can confirm anything now.")
    if ruling.route in (Route.TARGET, Route.CHEAPER_TO_RUN) and inputs.target is not None:
        rows = inputs.independent_rows(ruling.rung)
        chance = max(
            false_pass_rate(inputs.target, n, len(eligible), cross_fit=inputs.cross_fit) for n in {floor(rows), ceil(rows)}
        )
        if chance > MOST_FALSE_PASSES:
            doubts.append(
                f"With {len(eligible)} contenders and {wording.rows_tested(inputs, ruling.rung)}, the chance that one 5 points "
                f"under the target passes can be {wording.percent(chance)}."
            )
    return tuple(doubts)


def _few_seeds(inputs: VerdictInputs, ruling: Ruling, pairing: Pairing) -> tuple[str, ...]:
    """Whether seeds lie so far apart that a few of them prove nothing, however many the rows."""
    rung, against, target = ruling.rung, ruling.against, inputs.target
    found: list[tuple[Contender, str, float]] = []  # by claim about a rung: its odds with so few seeds
    most = rung if against is None else max(rung, against, key=lambda one: one.seeds)
    if against is not None and most.seeds > 1 and ruling.route in (Route.GAIN, Route.CHEAPER_TO_RUN):
        least = 0.0 if ruling.route is Route.GAIN else -inputs.minimum_gain
        claim = "is better" if ruling.route is Route.GAIN else f"is not {wording.points(inputs.minimum_gain)} worse"
        found.append((most, f"{rung.rung} {claim}", pairing.over_trainings(against, rung, least)))
    if target is not None and rung.seeds > 1 and ruling.route in (Route.TARGET, Route.CHEAPER_TO_RUN):
        found.append((rung, f"{rung.rung} reaches {100 * target:.4g}%", pairing.target_over_trainings(rung, target)))
    if target is not None and ruling.outcome is Outcome.NOT_REACHED:
        found += [
            (one, f"{one.rung} misses {100 * target:.4g}%", 1 - pairing.target_over_trainings(one, target))
            for one in inputs.contenders
            if one.rung in ruling.odds and one.seeds > 1
        ]
    return tuple(
        f"The {trained.seeds} trainings lie so far apart that with so few the odds that {claim} on average over all seeds are "
        f"{wording.odds(odds)} only; another seed would tell."
        for trained, claim, odds in found
        if odds < REACHED
    )


def _matters(tuned: Contender, ruling: Ruling) -> bool:
    """Whether another seed of this rung could turn the verdict: it won, or it lost closely."""
    if tuned is ruling.rung or tuned is ruling.against:
        return tuned is ruling.rung or ruling.odds.get(tuned.rung, 0.0) >= CLOSE
    settled_by_untuned = ruling.route is Route.TARGET and not ruling.rung.tuned
    return not settled_by_untuned and ruling.odds.get(tuned.rung, 0.0) >= CLOSE


def _remarks(inputs: VerdictInputs, ruling: Ruling) -> tuple[str, ...]:
    """What a reader should know besides."""
    out = [why for rung in inputs.contenders if (why := inputs.why_not(rung))]
    out += inputs.not_comparable
    out += [
        f"{wording.percent(rung.cut_share)} of the answers of {rung.rung} hit the token limit and count as wrong."
        for rung in inputs.contenders
        if rung.cut_share > MOST_CUT
    ]
    out += wording.missing_prices(inputs.contenders)
    if WARN_FROM_OPENINGS <= inputs.openings < NEVER_CONFIRMED_FROM_OPENINGS:
        out.append(f"The test split was opened {inputs.openings} times; each further choice on it flatters the chosen rung more.")
    return tuple(out)


def _invalid(inputs: VerdictInputs, faults: tuple[str, ...]) -> Verdict:
    sentence = f"This climb decides nothing: {faults[0]}"
    return Verdict(Outcome.INVALID, None, None, "indicative", sentence, reasons=faults, facts=facts(inputs, None))


def _nothing_to_ship(inputs: VerdictInputs, winner: str, fault: str) -> Verdict:
    sentence = (
        f"{winner} came out best across the folds, but there is nothing to put into use: its fit on all rows failed. {fault} "
        "The scores of the folds stand."
    )
    mend = "Mend what the message names and climb again, or leave the rung out with `[rungs] skip`."
    reasons = (f"failed refit of {winner}: {fault}",)
    return Verdict(
        Outcome.INVALID, None, None, "indicative", sentence, reasons=reasons, would_change=(mend,), facts=facts(inputs, None)
    )


def _nobody(inputs: VerdictInputs) -> Verdict:
    reasons = tuple(why for rung in inputs.contenders if (why := inputs.why_not(rung)))
    sentence = "No rung may be recommended: every contender breaks a limit you set or was ruled out."
    return Verdict(Outcome.NOT_REACHED, None, None, "indicative", sentence, reasons=reasons, facts=facts(inputs, None))
