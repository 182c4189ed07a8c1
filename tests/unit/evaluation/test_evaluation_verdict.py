from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.placing import Growth
from stepladder.domain.errors import EvaluationError, RunError
from stepladder.domain.verdict import Cost, Outcome, Route, Verdict
from stepladder.evaluation.compare import Contender, Contenders, name_contenders
from stepladder.evaluation.cost import costs_less
from stepladder.evaluation.planning import pass_mark
from stepladder.evaluation.records import inputs_from_json, inputs_to_json, rederive, verdict_from_json, verdict_to_json
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.evaluation.verdict import decide
from stepladder.evaluation.wording import odds, points_below

ROWS = 120
RIGHT = st.lists(st.integers(60, ROWS), min_size=1, max_size=4)


def rung(
    name: str, right: int, *, tuned: bool = False, seeds: int = 1, per_call: float = 1.0, once: float = 0.0, **more: object
) -> Contender:
    """A rung that is right on the first `right` of the rows, with every seed."""
    scores = np.tile((np.arange(ROWS) < right).astype(float), (seeds, 1))
    return Contender(name, tuned, scores, Cost(seconds_once=once, seconds_per_call=per_call, calls=10_000), **more)  # type: ignore[arg-type]


def verdict(*contenders: Contender, target: float | None = None, minimum_gain: float = 0.03, **more: object) -> Verdict:
    inputs = VerdictInputs(contenders, target, minimum_gain, **more)  # type: ignore[arg-type]
    found = decide(inputs)
    assert rederive(json.loads(json.dumps(inputs_to_json(inputs)))) == found
    assert verdict_from_json(json.loads(json.dumps(verdict_to_json(found)))) == found
    return found


# --- with a target ---------------------------------------------------------------------------------------------------


def test_the_first_rung_in_adoption_order_that_surely_reaches_the_target_suffices() -> None:
    enough = pass_mark(0.75, ROWS)
    assert enough is not None
    cheap, good, better = rung("prompt", 60), rung("few-shot", enough, per_call=2), rung("rag", 118, per_call=3)
    found = verdict(better, cheap, good, target=0.75)
    assert (found.outcome, found.rung, found.route, found.confidence) == (
        Outcome.SUFFICIENT,
        "few-shot",
        Route.TARGET,
        "confirmed",
    )
    assert found.probability is not None
    assert found.probability >= 0.9
    assert "few-shot is enough" in found.sentence
    assert "machine minutes per 1,000 calls" in found.sentence
    assert verdict(cheap, rung("few-shot", enough - 1, per_call=2), better, target=0.75).rung == "rag"


def test_untuned_rungs_suffice_before_tuned_ones_even_when_dearer() -> None:
    assert verdict(rung("lora", 118, tuned=True), rung("few-shot", 110, per_call=50), target=0.75).route is Route.CHEAPER_TO_RUN
    assert verdict(rung("lora", 118, tuned=True, per_call=60), rung("few-shot", 110, per_call=50), target=0.75).rung == "few-shot"


def test_a_target_far_above_every_rung_is_not_reached() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 80, per_call=2), target=0.9)
    assert (found.outcome, found.rung, found.route, found.confidence) == (Outcome.NOT_REACHED, "few-shot", None, "confirmed")
    assert found.probability is not None
    assert found.probability <= 0.1
    assert "No rung reaches 90%" in found.sentence


def test_a_close_target_is_undecided_with_best_bet_odds_price_and_rows() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 105, per_call=2), target=0.85)
    assert (found.outcome, found.rung, found.confidence) == (Outcome.UNDECIDED, "few-shot", "indicative")
    assert found.needed_test_rows is not None
    assert found.needed_test_rows > ROWS
    for part in ("best bet is few-shot", "odds that it truly reaches 85% are", "per 1,000 calls"):
        assert part in found.sentence
    assert any(f"{found.needed_test_rows} in all" in said for said in found.would_change)


def test_the_rows_asked_for_would_decide() -> None:
    found = verdict(rung("few-shot", 105), target=0.85)
    assert found.needed_test_rows is not None
    grown = np.zeros(found.needed_test_rows + 1)
    grown[: int(np.ceil(105 / ROWS * len(grown)))] = 1
    assert decide(VerdictInputs((Contender("few-shot", False, grown),), 0.85, 0.03)).outcome is Outcome.SUFFICIENT


def test_a_score_on_the_target_itself_is_decided_by_no_practical_number_of_rows() -> None:
    found = verdict(rung("few-shot", 90), target=0.75)
    assert (found.outcome, found.needed_test_rows) == (Outcome.UNDECIDED, None)
    assert any("no practical number" in said for said in found.would_change)


def test_seeds_on_either_side_of_the_target_leave_it_open_and_no_test_row_helps() -> None:
    apart = np.vstack([np.ones(ROWS), np.arange(ROWS) < 106]).astype(float)
    found = verdict(replace(rung("lora", 0, tuned=True), scores=apart), target=0.9)
    assert (found.outcome, found.rung, found.needed_test_rows) == (Outcome.UNDECIDED, "lora", None)
    assert "or its training seeds so far apart, that no practical number of test rows decides" in found.would_change[0]


def test_the_rows_to_label_are_counted_by_the_rule_that_places_them() -> None:
    """Half of all rows are tested at most, so that few of them go to test while it is behind, and then all."""
    close = rung("few-shot", 105)
    needed = verdict(close, target=0.85).needed_test_rows
    assert needed is not None
    more = f"{needed - ROWS} more test rows, {needed} in all, would decide if the rates stay as they are"
    assert verdict(close, target=0.85).would_change[0] == f"{more}."
    grown = verdict(close, target=0.85, split_growth=Growth(total=300, tested=ROWS)).would_change[0]
    label, tested = 2 * needed - 300, needed - ROWS
    assert grown.startswith(f"Label {label} more rows, of which {tested} go to test: {needed} test rows in all would decide")
    roomy = verdict(close, target=0.85, split_growth=Growth(total=3 * needed, tested=ROWS)).would_change[0]
    assert roomy.startswith(f"Label {tested} more rows: {needed} test rows in all would decide")
    stopped = verdict(close, target=0.85, split_growth=Growth(total=1_200, tested=ROWS, enough=ROWS + 1)).would_change[0]
    assert needed > 300
    assert stopped == f"{more}; the test split stops growing before that, so give them in a test file of your own."


def test_with_a_target_a_tuned_rung_takes_over_only_if_it_reaches_it_too() -> None:
    few_shot = rung("few-shot", 110, per_call=5)
    assert verdict(few_shot, rung("lora", 112, tuned=True, once=100), target=0.85).route is Route.CHEAPER_TO_RUN
    assert verdict(few_shot, rung("lora", 105, tuned=True, once=100), target=0.85).rung == "few-shot"


# --- without a target ------------------------------------------------------------------------------------------------


def test_a_dearer_rung_is_taken_for_a_proved_gain_that_is_large_enough() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 80, per_call=2))
    assert (found.outcome, found.rung, found.route) == (Outcome.SUFFICIENT, "few-shot", Route.GAIN)
    assert "20 rows fixed, 0 broken" in found.sentence
    assert "instead of" in found.sentence


def test_a_gain_of_seeds_far_apart_is_not_confirmed_by_two_of_them() -> None:
    prompt, near = rung("prompt", 60), rung("lora", 80, tuned=True, seeds=2, per_call=2)
    scores = np.vstack([np.arange(ROWS) < 68, np.arange(ROWS) < 92]).astype(float)
    found = [verdict(prompt, tuned) for tuned in (near, replace(near, scores=scores))]
    assert [(one.outcome, one.rung, one.route) for one in found] == 2 * [(Outcome.SUFFICIENT, "lora", Route.GAIN)]
    assert [one.confidence for one in found] == ["confirmed", "indicative"]
    assert "The 2 trainings lie so far apart" in found[1].reasons[0]


def test_a_target_reached_or_missed_by_seeds_far_apart_is_not_confirmed_by_two_of_them() -> None:
    prompt, near = rung("prompt", 20), rung("lora", 100, tuned=True, seeds=2, per_call=2)
    scores = np.vstack([np.arange(ROWS) < 95, np.arange(ROWS) < 105]).astype(float)
    far = replace(near, scores=scores)
    for target, outcome, claim in (
        (0.75, Outcome.SUFFICIENT, "lora reaches 75%"),
        (0.92, Outcome.NOT_REACHED, "lora misses 92%"),
    ):
        found = [verdict(prompt, tuned, target=target) for tuned in (near, far)]
        assert [(one.outcome, one.rung) for one in found] == 2 * [(outcome, "lora")]
        assert [one.confidence for one in found] == ["confirmed", "indicative"]
        assert f"The 2 trainings lie so far apart that with so few the odds that {claim} on average" in found[1].reasons[0]


def by_rows(name: str, *right: range, per_call: float, tuned: bool = False) -> Contender:
    """A rung of 100 rows, right on these."""
    scores = np.zeros(100)
    scores[[row for rows in right for row in rows]] = 1
    return Contender(name, tuned, scores, Cost(seconds_per_call=per_call, calls=10_000))


def naming(lines: Sequence[str], name: str) -> list[str]:
    return [line for line in lines if line.startswith((f"{name} scores", f"Whether {name}"))]


PROMPT = by_rows("prompt", range(70), per_call=1)
FEW_SHOT = by_rows("few-shot", range(50), range(70, 100), per_call=2)  # 30 rows fixed, 20 broken
NEAREST = by_rows("nearest", range(80), per_call=10)


def test_a_cheaper_rung_that_scores_the_same_and_was_not_taken_is_named_with_its_reason() -> None:
    found = verdict(PROMPT, FEW_SHOT, NEAREST)
    assert (found.rung, found.route, found.confidence) == ("nearest", Route.GAIN, "confirmed")
    (reason,), (open_still,) = naming(found.reasons, "few-shot"), naming(found.would_change, "few-shot")
    assert reason == (
        "few-shot scores 80% and nearest 80%, for 33.3 machine minutes per 1,000 calls instead of 2.8 machine hours per 1,000 "
        "calls. few-shot was passed over: "
        "its lead over prompt (10 points; 30 rows fixed, 20 broken) is not proved: odds 92%."
    )
    assert re.search(r"more test rows, \d+ in all, would decide", open_still)
    assert naming(found.reasons, "prompt") == []


def test_a_cheaper_rung_that_scores_clearly_less_is_passed_over_without_a_word() -> None:
    worse = by_rows("few-shot", range(52), range(76, 100), per_call=2)
    assert naming(verdict(PROMPT, worse, NEAREST).reasons, "few-shot") == []
    assert naming(verdict(PROMPT, worse, NEAREST, minimum_gain=0.05).reasons, "few-shot") != []


def test_a_cheaper_rung_whose_proved_lead_is_too_small_is_named_as_such() -> None:
    found = verdict(PROMPT, by_rows("few-shot", range(76), per_call=2), NEAREST, minimum_gain=0.08)
    (reason,) = naming(found.reasons, "few-shot")
    assert reason.endswith("its lead over prompt (6 points; 6 rows fixed, 0 broken) is less than the 8 points of `minimum_gain`.")
    assert "A smaller `minimum_gain` may take few-shot." in found.would_change


def test_with_a_target_the_cheaper_rung_that_hardly_misses_it_is_named() -> None:
    near = by_rows("few-shot", range(84), per_call=2)
    found = verdict(near, by_rows("nearest", range(86), per_call=10), target=0.8)
    (reason,), (open_still,) = naming(found.reasons, "few-shot"), naming(found.would_change, "few-shot")
    assert (found.rung, found.route) == ("nearest", Route.TARGET)
    assert re.search(r"passed over: the odds that it truly reaches 80% are \d+%, and 90% are needed\.", reason)
    assert "would decide" in open_still


def test_a_cheaper_tuned_rung_is_named_where_it_may_be_worse() -> None:
    tuned = by_rows("lora", range(55), range(75, 100), per_call=5, tuned=True)
    (reason,) = naming(verdict(PROMPT, NEAREST, tuned).reasons, "lora")
    assert re.search(r"that it is at most 3 points worse than nearest is not proved: odds \d+%, and 95% are needed", reason)


def test_a_proved_gain_below_the_minimum_is_not_worth_paying_for() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 66, per_call=2), minimum_gain=0.10)
    assert (found.outcome, found.rung, found.route) == (Outcome.SUFFICIENT, "prompt", Route.CHEAPEST)
    assert found.gains[0].probability_better >= 0.95
    assert found.probability == pytest.approx(1 - found.gains[0].probability_minimum)
    assert "Stay with prompt" in found.sentence


def test_a_likely_but_unproved_gain_leaves_the_question_open() -> None:
    few_shot = rung("few-shot", 0, per_call=2)
    scores = np.zeros(ROWS)
    scores[:32] = 1  # the prompt is right on 52 rows: 20 are lost …
    scores[60:90] = 1  # … and 30 won
    found = verdict(rung("prompt", 52), replace(few_shot, scores=scores))
    gain = found.gains[0]
    assert (found.outcome, found.rung) == (Outcome.UNDECIDED, "few-shot")
    assert found.probability is not None
    assert found.probability >= 0.5
    assert gain.candidate == "prompt"
    assert found.needed_test_rows is not None
    assert "odds that it beats prompt by 3 points or more" in found.sentence


def of_shares(rows: int, *shares: float) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Scores of rungs each of which is right on these shares of the rows, the better on all that the worse is right on."""
    return [(np.arange(rows) < round(share * rows)).astype(float) for share in shares]


@pytest.mark.parametrize("rows", [1_000, 20_000])
def test_a_gain_over_the_strongest_untuned_rung_that_is_too_small_is_not_left_open_for_ever(rows: int) -> None:
    """lora is 5 points better than the prompt, but only 2.5 better than few-shot, which is not worth its own price."""
    prompt, few_shot, tuned = of_shares(rows, 0.8, 0.825, 0.85)
    contenders = (
        Contender("prompt", False, prompt, Cost(1, 0.1, calls=120_000)),
        Contender("few-shot", False, few_shot, Cost(1, 0.2, calls=120_000)),
        Contender("lora", True, tuned, Cost(500, 0.1, calls=120_000)),
    )
    found = verdict(*contenders)
    assert (found.outcome, found.rung, found.route) == (Outcome.SUFFICIENT, "prompt", Route.CHEAPEST)
    without = verdict(contenders[0], contenders[2])
    assert (without.outcome, without.rung) == (Outcome.SUFFICIENT, "lora")


def test_what_comes_nearest_is_weighed_against_the_rung_it_is_least_likely_to_beat() -> None:
    prompt, few_shot, tuned = of_shares(1_000, 0.8, 0.81, 0.85)
    lora = Contender("lora", True, tuned, Cost(500, 0.3, calls=10_000))
    shown = Contender("few-shot", False, few_shot, Cost(0, 0.2, calls=10_000))
    found = verdict(Contender("prompt", False, prompt, Cost(0, 0.1, calls=10_000)), shown, lora, minimum_gain=0.045)
    assert "lora comes nearest (4 points over few-shot; 40 rows fixed, 0 broken)" in found.sentence
    assert re.search(
        r"The odds that it is really better than few-shot are over 99%, by 4\.5 points or more \d+%\.", found.sentence
    )


def test_the_rows_asked_for_without_a_target_decide() -> None:
    """As many copies of the rows as hold the rows that are asked for keep every rate as it is."""
    rng = np.random.default_rng(0)
    left_open = 0
    for _ in range(120):
        rows, tuned = int(rng.integers(40, 250)), bool(rng.random() < 0.6)
        difficulty, lift = rng.beta(2, 1, rows), rng.normal(0, 0.06, 3)
        scores = [(rng.random(rows) < np.clip(difficulty + more, 0, 1)).astype(float) for more in lift]
        costs = [Cost(once, per_call, calls=1_000) for once, per_call in zip((0, 100, 1_000), (0.1, 0.2, 0.5), strict=True)]

        def made(copies: int, scores: list[np.ndarray] = scores, costs: list[Cost] = costs, tuned: bool = tuned) -> VerdictInputs:  # type: ignore[type-arg]
            return VerdictInputs(
                tuple(Contender(f"rung {at}", tuned and at == 2, np.tile(scores[at], copies), costs[at]) for at in range(3)),
                None,
                0.03,
            )

        found = decide(made(1))
        if found.outcome is Outcome.UNDECIDED and found.needed_test_rows is not None:
            left_open += 1
            copies = int(np.ceil(1.1 * found.needed_test_rows / rows))
            assert decide(made(copies)).outcome is Outcome.SUFFICIENT
    assert left_open > 10


def test_a_tuned_rung_that_is_not_worse_and_cheaper_over_the_horizon_takes_over() -> None:
    found = verdict(rung("few-shot", 100, per_call=5), rung("lora", 100, tuned=True, once=1_000))
    assert (found.outcome, found.rung, found.route) == (Outcome.SUFFICIENT, "lora", Route.CHEAPER_TO_RUN)
    assert "training included" in found.sentence
    assert any("Below 250 calls" in said for said in found.would_change)
    dear = verdict(rung("few-shot", 100, per_call=5), rung("lora", 100, tuned=True, once=60_000))
    assert (dear.rung, dear.route) == ("few-shot", Route.CHEAPEST)
    assert any("From 15,000 calls (you expect 10,000) lora costs less" in said for said in dear.would_change)
    worse = verdict(rung("few-shot", 100, per_call=5), rung("lora", 96, tuned=True, once=1_000))
    assert worse.rung == "few-shot"


def test_a_tuned_rung_has_to_beat_the_strongest_untuned_one_and_not_only_the_cheapest() -> None:
    """few-shot's own gain over the prompt is unproved, so the walk still stands on the prompt when lora comes."""
    prompt, tuned = rung("prompt", 60), rung("lora", 72, tuned=True, per_call=9)
    scores = np.zeros(ROWS)
    scores[15:60] = 1
    scores[60:83] = 1  # 68 right: 23 won, 15 lost
    found = verdict(prompt, Contender("few-shot", False, scores, Cost(seconds_per_call=2, calls=10_000)), tuned)
    assert found.rung == "lora"
    assert found.outcome is Outcome.UNDECIDED
    assert verdict(prompt, tuned).outcome is Outcome.SUFFICIENT


def test_where_nothing_is_dearer_the_cheaper_tuned_rung_is_named_as_cheaper() -> None:
    few_shot = by_rows("few-shot", range(80), per_call=10)
    tuned = by_rows("lora", range(71), range(80, 89), per_call=1, tuned=True)
    found = verdict(few_shot, tuned)
    assert (found.rung, found.route) == ("few-shot", Route.CHEAPEST)
    assert found.sentence.endswith(
        "lora would cost less in all (2.8 machine hours instead of 27.8 machine hours, training included), but that it is at "
        "most 3 points worse is not proved (odds 76%; 9 rows fixed, 9 broken)."
    )
    assert naming(found.reasons, "lora") == []
    dearer = by_rows("rag", range(79), per_call=20)
    both = verdict(few_shot, tuned, dearer)
    assert "Nothing dearer earned its price: rag comes nearest" in both.sentence
    assert naming(both.reasons, "lora") != []


@given(st.lists(st.tuples(st.integers(80, 110), st.integers(1, 9), st.booleans()), min_size=2, max_size=4))
@settings(max_examples=200, deadline=None)
def test_what_is_called_nothing_dearer_never_costs_less(rungs: list[tuple[int, int, bool]]) -> None:
    contenders = {
        f"rung {at}": rung(f"rung {at}", right, tuned=tuned, per_call=per_call)
        for at, (right, per_call, tuned) in enumerate(rungs)
    }
    found = decide(VerdictInputs(tuple(contenders.values()), None, 0.03))
    if "Nothing dearer" in found.sentence:
        nearest = found.sentence.partition("earned its price: ")[2].partition(" comes")[0]
        assert found.rung is not None
        assert not costs_less(contenders[nearest].cost, contenders[found.rung].cost)


def test_a_single_contender_wins_without_a_probability() -> None:
    found = verdict(rung("prompt", 60))
    assert found.sentence.endswith("; there was nothing else to weigh it against.")
    assert (found.rung, found.route, found.probability, found.gains) == ("prompt", Route.CHEAPEST, None, ())


# --- one order of cost -----------------------------------------------------------------------------------------------


def priced(name: str, right: int, usd: float, *, per_call: float = 1.0, **more: object) -> Contender:
    made = rung(name, right, per_call=per_call, **more)  # type: ignore[arg-type]
    return replace(made, cost=replace(made.cost, usd_once=0.0, usd_per_call=usd))


def billed(name: str, right: int) -> Contender:
    """A hosted model of unknown price."""
    made = rung(name, right, per_call=0.1)
    return replace(made, hosted=True, cost=replace(made.cost, by_token=True))


FREE_BUT_SLOW = priced("few-shot", 108, 0.0001, per_call=2)
DEAR_BUT_FAST = priced("hosted prompt", 108, 0.01, per_call=0.5)


@pytest.mark.parametrize("target", [None, 0.8])
@pytest.mark.parametrize("unpriced", [billed("other", 60), rung("other", 60, per_call=0.1)], ids=["billed", "timed"])
def test_a_rung_without_a_price_that_cannot_win_changes_no_recommendation(unpriced: Contender, target: float | None) -> None:
    tuned = priced("lora", 108, 0.005, tuned=True)
    for others in ((FREE_BUT_SLOW, DEAR_BUT_FAST), (FREE_BUT_SLOW, DEAR_BUT_FAST, tuned)):
        assert verdict(*others, target=target).rung == "few-shot"
        found = verdict(*others, unpriced, target=target)
        assert found.rung == "few-shot"
        assert sum("No price is known of other" in reason for reason in found.reasons) == 1
    assert not any("No price" in reason for reason in verdict(FREE_BUT_SLOW, DEAR_BUT_FAST, target=target).reasons)


PRICES = st.lists(st.floats(1e-4, 1), min_size=4, max_size=4)


@given(RIGHT, PRICES, st.booleans(), st.sampled_from([None, 0.6, 0.9]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_rung_without_a_price_that_is_always_wrong_changes_a_recommendation(
    right: list[int], prices: list[float], tuned: bool, target: float | None, hosted: bool
) -> None:
    last = len(right) - 1
    known = [
        priced(f"rung {at}", count, usd, per_call=1 / usd, tuned=tuned and at == last)
        for at, (count, usd) in enumerate(zip(right, prices, strict=False))
    ]
    unpriced = billed("other", 0) if hosted else rung("other", 0)
    before = decide(VerdictInputs(tuple(known), target, 0.03))
    after = decide(VerdictInputs((*known, unpriced), target, 0.03))
    if not (tuned and last == 0):  # the other would be the only untuned rung, which comes first
        assert (after.outcome, after.rung) == (before.outcome, before.rung)


def test_what_no_price_is_known_of_is_named_with_the_settings_that_give_it() -> None:
    timed = verdict(rung("prompt", 60), DEAR_BUT_FAST)
    assert timed.reasons == (
        "No price is known of prompt, only this machine's time: it counts as cheaper than any bill. "
        "`[use] machine_usd_per_hour` makes it dollars.",
    )
    (said,) = verdict(billed("prompt @ far", 60), DEAR_BUT_FAST).reasons
    assert said == (
        "No price is known of prompt @ far, billed by the token: that counts as dearer than the others. Give "
        "`usd_per_million_prompt_tokens` and `usd_per_million_completion_tokens` where their model is named."
    )
    assert verdict(rung("prompt", 60), rung("few-shot", 60)).reasons == ()


def test_the_break_even_of_a_price_that_is_missing_is_not_known() -> None:
    found = verdict(priced("few-shot", 100, 0.01), rung("lora", 90, tuned=True))
    assert fact(found, "Break-even") == "Break-even of lora against few-shot: not known, as a price is missing."


# --- what stands beside every verdict --------------------------------------------------------------------------------


def fact(found: Verdict, start: str) -> str:
    return next(line for line in found.facts if line.startswith(start))


UNTUNED = rung("few-shot", 100, per_call=5, latency_p50_seconds=0.42, latency_p95_seconds=1.26)
EVERY_OUTCOME = {
    "target": ({"target": 0.75}, (UNTUNED, rung("lora", 118, tuned=True, per_call=6))),
    "gain": ({}, (rung("prompt", 20), UNTUNED, rung("lora", 101, tuned=True, per_call=6))),
    "cheapest": ({}, (UNTUNED, rung("lora", 90, tuned=True, per_call=6))),
    "cheaper to run": ({}, (UNTUNED, rung("lora", 101, tuned=True))),
    "not reached": ({"target": 0.99}, (UNTUNED, rung("lora", 90, tuned=True))),
    "undecided": ({"target": 0.85}, (UNTUNED, rung("lora", 90, tuned=True))),
    "leak": ({"leaks": ("row 7",)}, (UNTUNED, rung("lora", 90, tuned=True))),
    "nobody": ({"max_latency_seconds": 0.1}, (UNTUNED, rung("lora", 90, tuned=True, latency_p95_seconds=1.0))),
}


@pytest.mark.parametrize("case", EVERY_OUTCOME)
def test_every_verdict_names_price_break_even_latency_and_base_model(case: str) -> None:
    settings, contenders = EVERY_OUTCOME[case]
    found = verdict(*contenders, base_parameters=135_000_000, **settings)  # type: ignore[arg-type]
    price = fact(found, "Price of 1,000 calls, set-up shared out over 10,000 calls: ")
    assert "few-shot 83.3 machine minutes" in price
    assert re.search(r"lora [\d.]+ machine minutes", price)
    assert found.rung is None or price.partition(": ")[2].startswith(found.rung)
    assert fact(found, "Break-even of lora against few-shot: ")
    assert "few-shot 420 ms (95th percentile 1.3 s)" in fact(found, "Latency of one answer: ")
    assert fact(found, "Base model: ") == "Base model: 135 million parameters; no larger one was tried."


def test_break_even_is_a_number_or_said_in_words() -> None:
    def said(tuned: Contender) -> str:
        return fact(verdict(UNTUNED, tuned), "Break-even").partition(": ")[2]

    expected = " calls in machine time; 10,000 are expected."
    assert said(rung("lora", 100, tuned=True, once=1_001)) == "251" + expected  # 1001 / (5 - 1), rounded up
    assert said(rung("lora", 100, tuned=True)) == "0, it costs less from the first call on."
    assert said(rung("lora", 100, tuned=True, per_call=5, once=1)) == "never, its calls are not cheaper either."
    dear_set_up = replace(UNTUNED, cost=replace(UNTUNED.cost, seconds_once=50))
    below = verdict(dear_set_up, rung("lora", 100, tuned=True, per_call=10))
    assert fact(below, "Break-even").endswith("it costs less only below 10" + expected)


def test_break_even_is_in_money_where_both_prices_are_known() -> None:
    priced = replace(UNTUNED, cost=replace(UNTUNED.cost, usd_once=0.0, usd_per_call=0.02))
    tuned = rung("lora", 100, tuned=True)
    tuned = replace(tuned, cost=replace(tuned.cost, usd_once=10.0, usd_per_call=0.01))
    assert fact(verdict(priced, tuned), "Break-even").endswith(": 1,000 calls in money; 10,000 are expected.")


def test_a_tuned_winner_is_weighed_against_the_best_untuned_rung() -> None:
    found = verdict(rung("prompt", 20), UNTUNED, rung("lora", 118, tuned=True, once=100))
    assert found.rung == "lora"
    assert [line for line in found.facts if line.startswith("Break-even")] == [
        "Break-even of lora against few-shot: 25 calls in machine time; 10,000 are expected."
    ]


def test_where_no_tuned_rung_ran_the_reason_is_said() -> None:
    found = verdict(UNTUNED, why_nothing_tuned="lora: over budget.")
    assert fact(found, "Break-even") == "Break-even: not known, no tuned rung answered the test rows: lora: over budget."
    assert fact(verdict(rung("lora", 90, tuned=True)), "Break-even").endswith("there is no untuned contender to weigh against.")


def test_tuned_rungs_that_the_budget_left_out_leave_the_question_open() -> None:
    found = verdict(rung("prompt", 60), UNTUNED, left_out=("lora", "lora+constrained"))
    assert found.confidence == "indicative"
    assert found.reasons[0] == (
        "No tuned rung was climbed, as the budget did not hold them (lora, lora+constrained): "
        "what a fine-tune would bring remains open."
    )
    assert "A larger `[budget]`: it did not hold lora, lora+constrained." in found.would_change
    cheapest = rung("prompt", 100), rung("few-shot", 100, per_call=5)
    assert "Nothing dearer that was climbed earned its price" in verdict(*cheapest, left_out=("lora",)).sentence
    assert "Nothing dearer earned its price" in verdict(*cheapest).sentence


def test_an_untuned_rung_that_reaches_the_target_needs_no_fine_tune_to_be_weighed() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 118, per_call=2), target=0.75, left_out=("lora",))
    assert (found.route, found.confidence) == (Route.TARGET, "confirmed")
    assert verdict(rung("prompt", 60), target=0.9, left_out=("lora",)).confidence == "indicative"


def test_labels_that_cannot_be_added_to_machine_time_are_said_beside_it() -> None:
    shown = replace(UNTUNED, cost=replace(UNTUNED.cost, labels=924, usd_labels=462.0))
    assert "924 rows for few-shot ($462.00)" in fact(verdict(shown), "To be labelled again")
    priced = replace(shown, cost=replace(shown.cost, usd_once=0.0, usd_per_call=0.1))
    assert not any(line.startswith("To be labelled again") for line in verdict(priced).facts)


# --- invalid, limits, confidence -------------------------------------------------------------------------------------


def test_a_leak_makes_the_verdict_invalid() -> None:
    found = verdict(rung("prompt", 60), leaks=("test row 7 stands in the training rows",))
    assert (found.outcome, found.rung) == (Outcome.INVALID, None)
    assert "test row 7 stands in the training rows" in found.sentence


def test_a_leak_that_is_accepted_is_a_reason_to_confirm_nothing() -> None:
    clean, accepted = verdict(rung("prompt", 60)), verdict(rung("prompt", 60), accepted_leaks=("a document holds test row 7",))
    assert (accepted.outcome, clean.confidence, accepted.confidence) == (clean.outcome, "confirmed", "indicative")
    assert accepted.reasons[0].startswith("Accepted in `[data] accept`: a document holds test row 7. ")


def test_test_rows_that_learned_in_an_earlier_climb_are_a_reason_to_confirm_nothing() -> None:
    clean, known = verdict(rung("prompt", 60)), verdict(rung("prompt", 60), learned_before=("r1", "r2"))
    assert (known.outcome, clean.confidence, known.confidence) == (clean.outcome, "confirmed", "indicative")
    assert known.reasons[0].startswith("2 of the test rows learned or chose in an earlier climb (r1, r2)")


def test_more_than_two_percent_ungraded_is_a_broken_grader() -> None:
    scores = np.ones(ROWS)
    scores[:2] = np.nan
    fine = Contender("judged", False, scores)
    assert verdict(fine).outcome is Outcome.SUFFICIENT
    scores = scores.copy()
    scores[:3] = np.nan
    broken = verdict(Contender("judged", False, scores))
    assert broken.outcome is Outcome.INVALID
    assert "2% of the answers of judged have no score" in broken.sentence
    assert verdict(Contender("judged", False, np.full(ROWS, np.nan))).outcome is Outcome.INVALID


def test_cut_answers_of_the_named_rung_or_of_the_one_it_beat_make_the_verdict_invalid() -> None:
    cut = verdict(rung("prompt", 60, cut_share=0.06))
    assert cut.outcome is Outcome.INVALID
    assert "6% of the answers of prompt hit the token limit" in cut.sentence
    tuned = rung("lora", 110, tuned=True, per_call=9, seeds=2)
    assert verdict(rung("few-shot", 60, cut_share=0.3), tuned).outcome is Outcome.INVALID
    assert verdict(rung("prompt", 60, cut_share=0.05)).outcome is Outcome.SUFFICIENT


def test_cut_answers_of_a_rung_the_verdict_does_not_rest_on_are_said() -> None:
    found = verdict(
        rung("prompt", 5, cut_share=0.8), rung("few-shot", 90, per_call=2), rung("lora", 110, tuned=True, per_call=9, seeds=2)
    )
    assert (found.outcome, found.rung) == (Outcome.SUFFICIENT, "lora")
    assert "80% of the answers of prompt hit the token limit and count as wrong." in found.reasons


def test_a_rung_over_the_latency_limit_or_blocked_is_not_recommended_and_said() -> None:
    slow, fast = rung("few-shot", 110, per_call=2, latency_p95_seconds=3.0), rung("prompt", 60, latency_p95_seconds=1.0)
    found = verdict(slow, fast, max_latency_seconds=2.0)
    assert found.rung == "prompt"
    assert any("few-shot is too slow" in why for why in found.reasons)
    nobody = verdict(slow, rung("lora", 110, tuned=True, blocked="it no longer stops by itself."), max_latency_seconds=2.0)
    assert (nobody.outcome, nobody.rung) == (Outcome.NOT_REACHED, None)
    assert any("no longer stops by itself" in why for why in nobody.reasons)


def test_one_seed_is_indicative_when_the_tuned_rung_wins_or_loses_closely() -> None:
    prompt = rung("prompt", 60)
    wins = verdict(prompt, rung("lora", 80, tuned=True, per_call=2))
    assert (wins.rung, wins.confidence) == ("lora", "indicative")
    assert any("one seed" in why for why in wins.reasons)
    assert verdict(prompt, rung("lora", 80, tuned=True, per_call=2, seeds=2)).confidence == "confirmed"
    assert verdict(prompt, rung("lora", 63, tuned=True, per_call=2)).confidence == "indicative"
    assert verdict(prompt, rung("lora", 50, tuned=True, per_call=2)).confidence == "confirmed"
    assert verdict(rung("few-shot", 115), rung("lora", 116, tuned=True, per_call=2), target=0.85).confidence == "confirmed"


def test_cross_fitted_rows_are_never_confirmed() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 100, per_call=2), cross_fit=True)
    assert found.confidence == "indicative"
    assert "not itself measured" in found.reasons[0]


def test_opening_the_test_often_warns_from_five_and_confirms_nothing_from_twenty() -> None:
    prompt = rung("prompt", 60)
    by_openings = {openings: verdict(prompt, openings=openings) for openings in (4, 5, 19, 20)}
    assert by_openings[4].reasons == ()
    assert [found.confidence for found in by_openings.values()] == ["confirmed", "confirmed", "confirmed", "indicative"]
    assert "opened 5 times" in by_openings[5].reasons[0]
    assert "only new test rows" in by_openings[20].reasons[0]


def test_many_contenders_on_few_rows_are_not_confirmed() -> None:
    """Fifty rows and four contenders: one 5 points short passes too easily, so a pass is only indicative."""
    right = pass_mark(0.8, 50)
    assert right is not None
    few = [Contender(f"rung {i}", False, (np.arange(50) < right).astype(float)) for i in range(4)]
    found = verdict(*few, target=0.8)
    assert (found.outcome, found.confidence) == (Outcome.SUFFICIENT, "indicative")
    assert "5 points under the target" in found.reasons[0]


def test_near_duplicates_count_as_the_rows_they_are_worth_before_a_pass_is_confirmed() -> None:
    right = pass_mark(0.8, 50)
    assert right is not None
    few = [Contender(f"rung {i}", False, np.repeat(np.arange(50) < right, 2).astype(float)) for i in range(4)]
    found = verdict(*few, target=0.8, clusters=tuple(np.repeat(np.arange(50), 2).tolist()))
    assert (found.outcome, found.confidence) == (Outcome.SUFFICIENT, "indicative")
    assert "4 contenders and 100 test rows (worth 49, as some are near-duplicates), the chance that" in found.reasons[0]
    alone = verdict(*(replace(one, rung=f"{one.rung} again") for one in few), target=0.75)
    assert (alone.outcome, alone.confidence) == (Outcome.SUFFICIENT, "confirmed")


def test_a_tuned_rung_that_takes_over_is_confirmed_by_the_rule_of_the_target_too() -> None:
    right = pass_mark(0.8, 50)
    assert right is not None
    passing = (np.arange(50) < right).astype(float)
    few = [Contender(f"rung {i}", False, passing, Cost(seconds_per_call=5, calls=1_000)) for i in range(3)]
    tuned = Contender("lora", True, np.vstack([passing, passing]), Cost(seconds_per_call=1, calls=1_000))
    found = verdict(*few, tuned, target=0.8, minimum_gain=0.1)
    assert (found.outcome, found.rung, found.route) == (Outcome.SUFFICIENT, "lora", Route.CHEAPER_TO_RUN)
    assert found.confidence == "indicative"
    assert "5 points under the target" in found.reasons[0]
    assert verdict(*few, tuned, minimum_gain=0.1).confidence == "confirmed"  # no target, no pass by luck


def test_a_training_that_never_pays_for_itself_before_the_job_ends_is_ruled_out_unless_asked_for() -> None:
    contenders = rung("prompt", 60, per_call=5), rung("lora", 110, tuned=True, seeds=2, once=8_000)
    short = verdict(*contenders, calls_total=1_999)
    assert short.rung == "prompt"
    assert short.reasons == ("lora is ruled out: the job ends after 1,999 calls, and its training pays from 2,000 calls.",)
    for job in ({"calls_total": 2_000}, {"calls_total": 1_999, "tune_anyway": True}, {}):
        assert verdict(*contenders, **job).rung == "lora"  # type: ignore[arg-type]
    dear = verdict(rung("prompt", 60), rung("lora", 110, tuned=True, per_call=2), calls_total=1e9)
    assert "its training pays at no number of calls." in dear.reasons[0]


def test_a_tuned_rung_that_is_cheaper_to_set_up_is_ruled_out_only_where_the_job_outlasts_it() -> None:
    contenders = rung("rag", 60, once=5_000), rung("lora", 110, tuned=True, seeds=2, once=500, per_call=2)
    assert verdict(*contenders, calls_total=4_500).rung == "lora"
    found = verdict(*contenders, calls_total=4_501)
    assert (found.rung, found.reasons) == (
        "rag",
        ("lora is ruled out: the job ends after 4,501 calls, and its training pays only below 4,500 calls.",),
    )


def test_a_training_is_weighed_against_the_best_untuned_rung_that_may_be_recommended() -> None:
    slow, plain = rung("rag", 90, latency_p95_seconds=9), rung("prompt", 60, per_call=5)
    tuned = rung("lora", 110, tuned=True, seeds=2, once=3_000)
    limits = {"calls_total": 1_000, "max_latency_seconds": 1.0}
    assert verdict(slow, plain, tuned, **limits).rung == "lora"  # type: ignore[arg-type]
    assert verdict(slow, plain, tuned, calls_total=1_000).rung == "rag"


def test_a_small_base_names_the_larger_models_that_were_not_tried() -> None:
    small = verdict(rung("prompt", 60), base_parameters=135_000_000)
    assert any("135 million parameters" in said and "a larger model with a prompt may win" in said for said in small.would_change)
    assert not any("may win" in said for said in verdict(rung("prompt", 60), base_parameters=7_000_000_000).would_change)
    compared = verdict(rung("prompt", 60), base_parameters=135_000_000, larger_models_compared=True)
    assert not any("arger model" in said for said in compared.would_change)


def test_a_size_and_a_price_are_said_in_words_however_small_or_large() -> None:
    tiny = verdict(rung("prompt", 60), base_parameters=900)
    assert any(said.startswith("The base has 900 parameters and no larger one") for said in tiny.would_change)
    for dearer, said in ((690.0, "would cost 690 times as much"), (9.97, "would cost 10 times"), (3.14, "would cost 3.1 times")):
        assert said in verdict(rung("baseline", 60), rung("prompt", 50, per_call=dearer)).sentence


def test_what_the_rows_can_show_is_said() -> None:
    found = verdict(rung("prompt", 60), rung("few-shot", 60, per_call=2))
    assert any(
        "120 test rows show gains from about 10 points; 243 more would show 5 points" in said for said in found.would_change
    )


def test_what_the_rows_can_show_counts_near_duplicates_as_the_rows_they_are_worth() -> None:
    wordings = tuple(np.repeat(np.arange(60), 2).tolist())
    same = np.repeat(np.arange(60) < 30, 2).astype(float)
    found = verdict(Contender("prompt", False, same), Contender("few-shot", False, same), clusters=wordings)
    (said,) = (line for line in found.would_change if "test rows" in line)
    assert said == (
        "These 120 test rows (worth 59, as some are near-duplicates) show gains from about 16 points; "
        "304 more that are no near-duplicates would show 5 points."
    )


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.89991, "89.9%"), (0.9, "90%"), (0.8951, "89.5%"), (0.894, "89%"), (0.94999, "94.9%"), (0.95, "95%"), (0.999, "over 99%")],
)
def test_odds_are_not_rounded_up_to_what_is_asked_for(probability: float, said: str) -> None:
    assert odds(probability) == said


def test_a_lead_just_below_the_minimum_is_not_rounded_up_to_it() -> None:
    assert [points_below(gain, 0.03) for gain in (0.0299, 0.0296, 0.02, 0.03)] == [
        "just under 3 points",
        "just under 3 points",
        "2 points",
        "3 points",
    ]


def test_contenders_that_do_not_fit_together_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="no contender"):
        decide(VerdictInputs((), None, 0.03))
    with pytest.raises(EvaluationError, match="share a name"):
        decide(VerdictInputs((rung("a", 1), rung("a", 2)), None, 0.03))
    with pytest.raises(EvaluationError, match="different numbers of rows"):
        decide(VerdictInputs((rung("a", 1), Contender("b", False, np.ones(5))), None, 0.03))
    with pytest.raises(EvaluationError, match="has no scores"):
        Contender("a", False, np.zeros((2, 0)))


def test_a_record_is_derived_again_under_other_assumptions() -> None:
    record = inputs_to_json(VerdictInputs((rung("prompt", 60), rung("few-shot", 110, per_call=2)), 0.4, 0.03))
    assert rederive(record).rung == "prompt"
    assert rederive(record, target=0.8).rung == "few-shot"


def test_ungraded_rows_and_clusters_survive_the_record() -> None:
    inputs = VerdictInputs((Contender("a", False, np.array([1.0, np.nan])),), None, 0.03, clusters=(4, 4))
    back = inputs_from_json(json.loads(json.dumps(inputs_to_json(inputs))))
    assert back.clusters == (4, 4)
    np.testing.assert_array_equal(back.contenders[0].scores, inputs.contenders[0].scores)


def test_a_broken_record_is_named() -> None:
    with pytest.raises(RunError, match="recorded verdict's inputs cannot be read"):
        inputs_from_json({"contenders": []})
    with pytest.raises(RunError, match="recorded verdict cannot be read"):
        verdict_from_json({"outcome": "splendid"})
    with pytest.raises(RunError, match="recorded contender cannot be read"):
        inputs_from_json({"contenders": [{}], "clusters": None, "leaks": []})


# --- who may answer the test split -----------------------------------------------------------------------------------


def test_at_most_four_rungs_become_contenders_and_each_once() -> None:
    ladder = [
        rung("prompt", 50),
        rung("few-shot", 103, per_call=2),
        rung("nearest", 105, per_call=3),
        rung("lora", 104, tuned=True),
        rung("lora+nearest", 107, tuned=True, per_call=3),
    ]
    named = name_contenders(ladder, target=None, minimum_gain=0.03)
    assert named.names == ("prompt", "few-shot", "nearest", "lora+nearest")
    assert name_contenders(ladder, target=0.3, minimum_gain=0.03).names == ("prompt", "nearest", "lora+nearest")
    assert name_contenders(ladder, target=0.95, minimum_gain=0.03).nominee is None
    assert name_contenders(ladder[1:3], target=None, minimum_gain=0.001).names == ("nearest",)


def test_of_equal_scores_the_cheaper_rung_is_named() -> None:
    named = name_contenders([rung("dear", 90, per_call=5), rung("cheap", 90)], target=None, minimum_gain=0.03)
    assert (named.best_untuned, named.nominee, named.tuned, named.zero_shot) == ("cheap", "cheap", None, None)


def test_what_choosing_took_does_not_decide_who_is_named() -> None:
    """A climb whose answers are read back spends nothing on choosing, and shall ask for no new answer."""

    def named(once: float) -> Contenders:
        ladder = [rung("prompt", 90, per_call=2, once=once), rung("few-shot", 90), rung("lora", 90, tuned=True, per_call=3)]
        dear = rung("lora+nearest", 90, tuned=True, per_call=2, once=20_000)
        return name_contenders([*ladder, dear], target=None, minimum_gain=0.03)

    assert named(0) == named(1_000_000)
    assert named(0).names == ("prompt", "few-shot", "lora")  # what training took does


def test_too_slow_rungs_hold_no_part() -> None:
    ladder = [rung("prompt", 50), rung("few-shot", 103, per_call=2, latency_p95_seconds=9)]
    assert name_contenders(ladder, target=None, minimum_gain=0.03, max_latency_seconds=1).names == ("prompt",)


def test_a_refit_that_failed_makes_only_the_verdict_for_that_rung_invalid() -> None:
    low, high = rung("few-shot", 60), rung("lora", 100, tuned=True, per_call=60)
    fault = {"lora": "The disk is full. Free some space."}
    broken = verdict(low, high, cross_fit=True, refit_faults=fault)
    assert (broken.outcome, broken.rung) == (Outcome.INVALID, None)
    assert "its fit on all rows failed. The disk is full. Free some space. The scores of the folds stand." in broken.sentence
    assert broken.reasons == ("failed refit of lora: The disk is full. Free some space.",)
    cheaper = verdict(low, high, target=0.3, cross_fit=True, refit_faults=fault)
    assert (cheaper.outcome, cheaper.rung) == (Outcome.SUFFICIENT, "few-shot")
