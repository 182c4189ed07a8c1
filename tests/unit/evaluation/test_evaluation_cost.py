from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.task import UseSettings
from stepladder.domain.verdict import Cost
from stepladder.evaluation.cost import (
    Amount,
    adoption_cost,
    cheaper_between,
    cost_per_thousand,
    costs_less,
    order_for_adoption,
    total_cost,
    when_it_pays,
)


@dataclass(frozen=True)
class Rung:
    name: str
    tuned: bool
    cost: Cost


MEASURED = {"prompt_tokens_per_call": 500.0, "completion_tokens_per_call": 20.0, "seconds_per_call": 0.5}


def test_without_prices_cost_is_seconds() -> None:
    cost = adoption_cost(UseSettings(calls_per_month=100, horizon_months=10), **MEASURED, seconds_once=600)
    assert (cost.calls, cost.usd_total, cost.seconds_total) == (1_000, None, 1_100)
    assert cost_per_thousand(cost) == Amount(1_100, "seconds")


def test_a_priced_machine_turns_seconds_into_money() -> None:
    use = UseSettings(calls_total=7_200, machine_usd_per_hour=0.40)
    cost = adoption_cost(use, **MEASURED, seconds_once=3_600)
    assert cost.usd_total == pytest.approx(0.80)
    assert str(total_cost(cost)) == "$0.80"


def test_hosted_models_cost_their_tokens() -> None:
    use = UseSettings(calls_total=1_000, usd_per_million_prompt_tokens=2, usd_per_million_completion_tokens=10)
    cost = adoption_cost(use, **MEASURED, hosted=True)
    assert cost.usd_total == pytest.approx(1_000 * (500 * 2 + 20 * 10) / 1e6)
    assert adoption_cost(UseSettings(), **MEASURED, hosted=True).usd_total is None


def test_training_is_paid_again_whenever_the_facts_change() -> None:
    use = UseSettings(facts_change="monthly", horizon_months=6, machine_usd_per_hour=3.6, calls_per_month=10)
    tuned = adoption_cost(use, **MEASURED, seconds_once=100, tuned=True)
    assert tuned.retrainings == 6
    assert tuned.usd_total == pytest.approx(0.1 * 7 + 60 * 0.0005)
    assert adoption_cost(use, **MEASURED, seconds_once=100).retrainings == 0


def test_labels_are_paid_again_whenever_the_facts_change_and_those_there_are_today_never() -> None:
    use = UseSettings(facts_change="monthly", horizon_months=6, machine_usd_per_hour=3.6, label_usd_each=0.5, calls_per_month=10)
    shown = adoption_cost(use, **MEASURED, labelled_rows=10)
    assert (shown.labels, shown.usd_labels) == (60, pytest.approx(30.0))
    assert shown.usd_total == pytest.approx(30.0 + 60 * 0.0005)
    for unchanging in (use.model_copy(update={"facts_change": "never"}), UseSettings(calls_total=60, label_usd_each=0.5)):
        assert adoption_cost(unchanging, **MEASURED, labelled_rows=10).usd_labels == 0


def test_without_a_price_for_labels_nothing_changes() -> None:
    use = UseSettings(facts_change="monthly", machine_usd_per_hour=1.0)
    with_labels, without = (adoption_cost(use, **MEASURED, labelled_rows=rows) for rows in (10, 0))
    assert (with_labels.usd_total, with_labels.seconds_total) == (without.usd_total, without.seconds_total)


def test_dear_labels_turn_the_order_of_adoption_and_the_break_even() -> None:
    use = UseSettings(facts_change="monthly", machine_usd_per_hour=3.6, label_usd_each=0.5, calls_per_month=10)
    plain = adoption_cost(use, **{**MEASURED, "seconds_per_call": 2.0})
    shown = adoption_cost(use, **{**MEASURED, "seconds_per_call": 1.0}, labelled_rows=4)
    assert [rung.name for rung in order_for_adoption([Rung("shown", False, shown), Rung("plain", False, plain)])] == [
        "plain",
        "shown",
    ]
    assert cheaper_between(shown, plain) == (pytest.approx(4 * 12 * 0.5 / 0.001), math.inf)


def test_untuned_rungs_come_first_however_dear_then_the_cheaper_and_equals_keep_their_order() -> None:
    rungs = [
        Rung("tuned and free", True, Cost()),
        Rung("b", False, Cost(seconds_per_call=1, calls=10)),
        Rung("dear", False, Cost(seconds_per_call=9, calls=10)),
        Rung("c", False, Cost(seconds_per_call=1, calls=10)),
    ]
    assert [rung.name for rung in order_for_adoption(rungs)] == ["b", "c", "dear", "tuned and free"]


SLOW_CHEAP = Rung("slow but cheap", False, Cost(seconds_per_call=9, usd_per_call=0.1, usd_once=0, calls=10))
FAST_DEAR = Rung("fast but dear", False, Cost(seconds_per_call=1, usd_per_call=0.5, usd_once=0, calls=10))
TIMED = Rung("timed", False, Cost(seconds_per_call=50, calls=10))
BILLED = Rung("billed", False, Cost(seconds_per_call=0.1, calls=10, by_token=True))


def test_this_machines_time_comes_before_dollars_and_a_bill_of_unknown_size_last() -> None:
    """docs/decisions/019."""
    rungs = [BILLED, FAST_DEAR, SLOW_CHEAP, Rung("tuned", True, Cost()), TIMED]
    named = [rung.name for rung in order_for_adoption(rungs)]
    assert named == ["timed", "slow but cheap", "fast but dear", "billed", "tuned"]
    assert [rung.name for rung in order_for_adoption([FAST_DEAR, SLOW_CHEAP])] == ["slow but cheap", "fast but dear"]
    assert [rung.name for rung in order_for_adoption([BILLED, TIMED])] == ["timed", "billed"]


KNOWN = [
    st.builds(Cost, st.floats(0, 1e4), st.floats(0, 10), calls=st.just(100.0), by_token=st.booleans()),
    st.builds(Cost, st.floats(0, 9), st.floats(0, 9), st.floats(0, 100), st.floats(0, 1), calls=st.just(100.0)),
]


@given(st.lists(st.one_of(*KNOWN), min_size=2, max_size=6), st.data())
def test_the_order_of_two_rungs_hangs_on_no_third(costs: list[Cost], data: st.DataObject) -> None:
    rungs = [Rung(str(at), False, cost) for at, cost in enumerate(costs)]
    ordered = order_for_adoption(rungs)
    third = data.draw(st.sampled_from(rungs))
    without = order_for_adoption([rung for rung in rungs if rung is not third])
    assert without == [rung for rung in ordered if rung is not third]
    for cheaper, dearer in pairwise(ordered):
        assert not costs_less(dearer.cost, cheaper.cost)


def test_no_tokens_cost_nothing_whatever_the_price() -> None:
    free = {**MEASURED, "prompt_tokens_per_call": 0.0, "completion_tokens_per_call": 0.0}
    assert adoption_cost(UseSettings(), **free, hosted=True).usd_total == 0


def test_at_break_even_both_rungs_cost_the_same() -> None:
    few_shot = Cost(seconds_once=10, seconds_per_call=2.0)
    lora = Cost(seconds_once=1_000, seconds_per_call=0.5, retrainings=1)
    calls = (2_000 - 10) / 1.5
    assert 10 + 2.0 * calls == pytest.approx(2_000 + 0.5 * calls)
    assert cheaper_between(lora, few_shot) == (pytest.approx(calls), math.inf)
    assert cheaper_between(few_shot, lora) == (0.0, pytest.approx(calls))
    cheap, dear = Cost(seconds_once=1, seconds_per_call=1), Cost(seconds_once=5, seconds_per_call=2)
    assert (cheaper_between(cheap, dear), cheaper_between(dear, cheap)) == ((0.0, math.inf), None)


def test_when_a_rung_pays_is_said_in_words() -> None:
    few_shot, lora = Cost(seconds_once=10, seconds_per_call=2.0), Cost(seconds_once=1_000, seconds_per_call=0.5)
    assert when_it_pays(lora, few_shot) == "from 660 calls"
    assert when_it_pays(few_shot, lora) == "only below 660 calls"
    assert when_it_pays(Cost(seconds_per_call=3.0), few_shot) == "only below 10 calls"
    assert when_it_pays(lora, lora) == "at no number of calls"
    assert when_it_pays(replace(lora, by_token=True), few_shot) == "at no number of calls that is known"


COSTS = st.builds(Cost, st.floats(0, 1e4), st.floats(0, 10), calls=st.integers(0, 10**6).map(float))


@given(COSTS, COSTS, st.integers(0, 10**6))
def test_a_rung_costs_less_exactly_between_the_two_numbers_of_calls(cost: Cost, than: Cost, calls: int) -> None:
    between = cheaper_between(cost, than)
    difference = replace(cost, calls=calls).seconds_total - replace(than, calls=calls).seconds_total
    if abs(difference) > 1e-6 * (1 + replace(cost, calls=calls).seconds_total):
        assert (difference < 0) == (between is not None and between[0] < calls + 1e-9 and calls < between[1] + 1e-9)


def test_costs_less_counts_training() -> None:
    prompt = Cost(seconds_per_call=2, calls=100)
    assert costs_less(Cost(seconds_once=100, seconds_per_call=0.5, calls=100), prompt)
    assert not costs_less(Cost(seconds_once=200, seconds_per_call=0.5, calls=100), prompt)


def test_amounts_read_well() -> None:
    assert str(Amount(1234.5, "usd")) == "$1,234.50"
    assert str(Amount(0.00012, "usd")) == "$0.00012"
    assert str(Amount(90, "seconds")) == "90 machine seconds"
    assert str(Amount(5_400, "seconds")) == "90.0 machine minutes"
    assert str(Amount(36_000, "seconds")) == "10.0 machine hours"
    assert str(Amount(864_000, "seconds")) == "10.0 machine days"
    assert cost_per_thousand(Cost(usd_per_call=0.002)) == Amount(2.0, "usd")
    assert cost_per_thousand(Cost(seconds_per_call=0.002)) == Amount(2.0, "seconds")
