"""The verdict in plain words, every figure with its uncertainty and every recommendation with its price."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from stepladder.data.placing import Growth
from stepladder.domain.learning_curve import LearningCurve
from stepladder.domain.verdict import Gain, Interval, Outcome, Route
from stepladder.evaluation.compare import Contender
from stepladder.evaluation.cost import TIME_ONLY, UNPRICED, cheaper_between, cost_per_thousand, costs_less, kind, total_cost
from stepladder.evaluation.gains import PROVED
from stepladder.evaluation.planning import REACHED, more_rows_for, smallest_provable_gain
from stepladder.evaluation.prices import parameters_text
from stepladder.evaluation.ruling import Ruling, VerdictInputs
from stepladder.evaluation.statistics import graded

SMALL_MODEL_PARAMETERS = 1_000_000_000


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def odds(probability: float) -> str:
    """A probability in whole per cent, never a certainty, and never rounded up to what the rules ask for."""
    if probability > 0.99:
        return "over 99%"
    if any(probability < asked <= round(probability, 2) for asked in (REACHED, PROVED)):
        return f"{math.floor(1_000 * probability) / 10:.1f}%"
    return "under 1%" if probability < 0.01 else percent(probability)


def points(gain: float) -> str:
    """A gain in points of a hundred."""
    value = round(100 * gain, 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{value:g} point" if value == 1 else f"{value:g} points"


def points_below(gain: float, asked: float) -> str:
    """As `points`, never rounded up to a larger gain that was asked for."""
    return f"just under {points(asked)}" if gain < asked and points(gain) == points(asked) else points(gain)


def score(interval: Interval) -> str:
    return f"{percent(interval.value)} (between {100 * interval.low:.0f} and {100 * interval.high:.0f})"


def price(contender: Contender) -> str:
    return f"{cost_per_thousand(contender.cost)} per 1,000 calls"


def changes(gain: Gain) -> str:
    return f"{gain.wins} rows fixed, {gain.losses} broken"


def sentence(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    """The verdict in one to three sentences."""
    writers = {Outcome.NOT_REACHED: _not_reached, Outcome.UNDECIDED: _undecided}
    routes = {
        Route.TARGET: _target,
        Route.GAIN: _gain,
        Route.CHEAPEST: _cheapest,
        Route.CHEAPER_TO_RUN: _cheaper_to_run,
    }
    write = routes[ruling.route] if ruling.route is not None else writers[ruling.outcome]
    return write(inputs, ruling, interval)


def _scores(interval: Interval) -> str:
    return f"scores {score(interval)} on {interval.items} rows"


def _target(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    return (
        f"{ruling.rung.rung} is enough: it {_scores(interval)}; the odds that it truly reaches {_target_text(inputs)} are "
        f"{odds(ruling.probability or 0.0)}. It costs {price(ruling.rung)}."
    )


def _gain(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    assert ruling.against is not None
    assert ruling.proof is not None
    proof = ruling.proof
    return (
        f"{ruling.rung.rung} is worth its price: it {_scores(interval)}, {points(proof.interval.value)} more than "
        f"{ruling.against.rung} ({changes(proof)}); the odds that it is really better are {odds(proof.probability_better)}, "
        f"by {points(inputs.minimum_gain)} or more {odds(proof.probability_minimum)}. "
        f"It costs {price(ruling.rung)} instead of {price(ruling.against)}."
    )


def _cheapest(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    start = f"Stay with {ruling.rung.rung}: it {_scores(interval)} and costs {price(ruling.rung)}"
    if ruling.against is None or ruling.proof is None:
        return f"{start}; there was nothing else to weigh it against."
    if costs_less(ruling.against.cost, ruling.rung.cost):
        return f"{start}. {_not_taken_for_less(inputs, ruling.rung, ruling.against, ruling.proof)}"
    proof = ruling.proof
    over, than = ("", "") if proof.baseline == ruling.rung.rung else (f" over {proof.baseline}", f" than {proof.baseline}")
    nothing = "Nothing dearer that was climbed" if inputs.left_out else "Nothing dearer"
    return (
        f"{start}. {nothing} earned its price: {ruling.against.rung} comes nearest ({points(proof.interval.value)}{over}; "
        f"{changes(proof)}){_times_the_cost(ruling.against, ruling.rung)}. The odds that it is really better{than} are "
        f"{odds(proof.probability_better)}, by {points(inputs.minimum_gain)} or more {odds(proof.probability_minimum)}."
    )


def _not_taken_for_less(inputs: VerdictInputs, chosen: Contender, tuned: Contender, proof: Gain) -> str:
    totals = f"{total_cost(tuned.cost)} instead of {total_cost(chosen.cost)}, training included"
    return (
        f"{tuned.rung} would cost less in all ({totals}), but that it is at most {points(inputs.minimum_gain)} worse is not "
        f"proved (odds {odds(proof.probability_not_worse)}; {changes(proof)})."
    )


def _times_the_cost(dearer: Contender, cheaper: Contender) -> str:
    """How much more a rung costs over the horizon, where that is a sensible number."""
    more, less = total_cost(dearer.cost), total_cost(cheaper.cost)
    if more.unit != less.unit or less.value <= 0 or not 1.05 <= more.value / less.value < 1_000:
        return ""
    times = more.value / less.value
    return f" and would cost {times:{'.0f' if times >= 9.95 else '.2g'}} times as much over the horizon"


def _cheaper_to_run(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    assert ruling.against is not None
    assert ruling.proof is not None
    rung, against, proof = ruling.rung, ruling.against, ruling.proof
    return (
        f"{rung.rung} does the work of {against.rung} for less: it {_scores(interval)}; the odds that it is at most "
        f"{points(inputs.minimum_gain)} worse are {odds(proof.probability_not_worse)} ({changes(proof)}). "
        f"Over the horizon it costs {total_cost(rung.cost)} instead of {total_cost(against.cost)}, training included."
    )


def _not_reached(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    return (
        f"No rung reaches {_target_text(inputs)}. The best so far, {ruling.rung.rung}, {_scores(interval)}; "
        f"the odds that it truly gets there are {odds(ruling.probability or 0.0)}."
    )


def _undecided(inputs: VerdictInputs, ruling: Ruling, interval: Interval) -> str:
    start = f"{interval.items} rows are too few to decide. The best bet is {ruling.rung.rung}: it {_scores(interval)}"
    if inputs.target is not None or ruling.against is None or ruling.proof is None:
        claim = f"the odds that it truly reaches {_target_text(inputs)} are {odds(ruling.probability or 0.0)}"
    else:
        claim = (
            f"the odds that it beats {ruling.against.rung} by {points(inputs.minimum_gain)} or more are "
            f"{odds(ruling.proof.probability_minimum)} ({changes(ruling.proof)})"
        )
    return f"{start}; {claim}. It costs {price(ruling.rung)}."


def _target_text(inputs: VerdictInputs) -> str:
    return f"{100 * (inputs.target or 0.0):.4g}%"


def would_change(inputs: VerdictInputs, ruling: Ruling, eligible: Sequence[Contender]) -> tuple[str, ...]:
    """What would turn the verdict: more rows to test or to learn from, more or fewer calls, a larger model."""
    return (*_rows(inputs, ruling), *inputs.growth, *_calls(ruling, eligible), *_budget(inputs), *_models(inputs))


def growth(curve: LearningCurve) -> str:
    """What twice the training rows would bring, in a sentence; empty where the curve says nothing."""
    if curve.doubling is None:
        return ""
    gain, rows = curve.doubling.gain, f"from {curve.rows} to {2 * curve.rows}"
    between = f"{points(gain.value)}, 80% between {points(gain.low)} and {points(gain.high)}"
    if curve.unlikely_to_help:
        return f"More of the same is unlikely to help {curve.rung}: {rows} training rows would change its score by {between}."
    return (
        f"Twice the training rows ({rows}) would change the score of {curve.rung} by {between}; the odds of "
        f"{points(curve.minimum_gain)} or more are {odds(curve.doubling.probability_minimum)}."
    )


def _rows(inputs: VerdictInputs, ruling: Ruling) -> tuple[str, ...]:
    items = ruling.rung.items
    if ruling.outcome is Outcome.UNDECIDED:
        if ruling.needed_test_rows is None:
            seeds = ", or its training seeds so far apart," if ruling.rung.seeds > 1 else ""
            return (
                f"The best bet lies so close to the line{seeds} that no practical number of test rows decides; "
                "moving the line would.",
            )
        return (rows_to_label(inputs.split_growth, items, ruling.needed_test_rows),)
    if inputs.target is not None:
        return ()
    worth = math.floor(inputs.independent_rows(ruling.rung))
    provable = smallest_provable_gain(worth, cross_fit=inputs.cross_fit)
    more_rows = more_rows_for(worth, cross_fit=inputs.cross_fit)
    shown = "no gain reliably" if provable is None else f"gains from about {points(math.ceil(100 * provable) / 100)}"
    other = " that are no near-duplicates" if _repeats(inputs, ruling.rung) else ""
    further = f"; {more_rows} more{other} would show 5 points" if more_rows else ""
    return (f"These {rows_tested(inputs, ruling.rung)} show {shown}{further}.",)


def rows_tested(inputs: VerdictInputs, rung: Contender) -> str:
    """How many there are, and what they are worth where some say the same twice."""
    worth = f" (worth {inputs.independent_rows(rung):.0f}, as some are near-duplicates)" if _repeats(inputs, rung) else ""
    return f"{rung.items} test rows{worth}"


def _repeats(inputs: VerdictInputs, rung: Contender) -> bool:
    return round(inputs.independent_rows(rung)) < len(graded(rung.scores).values)


def rows_to_label(growth: Growth | None, items: int, needed: int) -> str:
    """How many rows to label until the test split, which takes at most half of all, has as many as would decide."""
    added = None if growth is None else growth.rows_to_add(needed)
    if growth is None or added is None:
        own = "" if growth is None else "; the test split stops growing before that, so give them in a test file of your own"
        return f"{needed - items} more test rows, {needed} in all, would decide if the rates stay as they are{own}."
    tested = growth.test_rows(added) - growth.tested
    taken = f", of which {tested} go to test" if 0 < tested < added else ""
    return f"Label {added} more rows{taken}: {needed} test rows in all would decide if the rates stay as they are."


def _calls(ruling: Ruling, eligible: Sequence[Contender]) -> Iterator[str]:
    """The volume from which, or below which, the rung that lost by its cost is the cheaper one."""
    chosen, calls = ruling.rung, ruling.rung.cost.calls
    if ruling.route is Route.CHEAPER_TO_RUN and ruling.against is not None:
        others = [ruling.against]
    else:
        others = [] if chosen.tuned or calls <= 0 else [rung for rung in eligible if rung.tuned]
    for other in others:
        between = cheaper_between(other.cost, chosen.cost)
        if between is not None and not between[0] <= calls < between[1]:
            turning = f"From {between[0]:,.0f}" if calls < between[0] else f"Below {between[1]:,.0f}"
            yield f"{turning} calls (you expect {calls:,.0f}) {other.rung} costs less in all than {chosen.rung}."


def missing_prices(contenders: Sequence[Contender]) -> Iterator[str]:
    """What stands in the order of cost without a price, where others stand there in another kind of amount."""
    by_kind = {known: [rung.rung for rung in contenders if kind(rung.cost) == known] for known in (TIME_ONLY, UNPRICED)}
    if any(len(names) == len(contenders) for names in by_kind.values()):
        return
    if names := by_kind[TIME_ONLY]:
        yield (
            f"No price is known of {', '.join(names)}, only this machine's time: it counts as cheaper than any bill. "
            "`[use] machine_usd_per_hour` makes it dollars."
        )
    if names := by_kind[UNPRICED]:
        yield (
            f"No price is known of {', '.join(names)}, billed by the token: that counts as dearer than the others. Give "
            "`usd_per_million_prompt_tokens` and `usd_per_million_completion_tokens` where their model is named."
        )


def _budget(inputs: VerdictInputs) -> tuple[str, ...]:
    if not inputs.left_out:
        return ()
    return (f"A larger `[budget]`: it did not hold {', '.join(inputs.left_out)}.",)


def _models(inputs: VerdictInputs) -> tuple[str, ...]:
    if inputs.larger_models_compared or inputs.base_parameters is None:
        return ()
    if inputs.base_parameters >= SMALL_MODEL_PARAMETERS:
        return ("Larger models with a prompt were not tried; name one in `[model] compare`.",)
    size = parameters_text(inputs.base_parameters)
    return (
        f"The base has {size} and no larger one was tried: a larger model with a prompt may win. Name one in `[model] compare`.",
    )
