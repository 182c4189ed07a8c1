from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.task import UseSettings
from stepladder.domain.verdict import Cost
from stepladder.evaluation.cost import (
    Amount,
    adoption_cost,
    break_even_calls,
    cheaper_between,
    cost_per_thousand,
    costs_less,
    order_for_adoption,
    total_cost,
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
    assert break_even_calls(plain, shown) == pytest.approx(4 * 12 * 0.5 / 0.001)


def test_untuned_rungs_come_first_however_dear_then_the_cheaper_and_equals_keep_their_order() -> None:
    rungs = [
        Rung("tuned and free", True, Cost()),
        Rung("b", False, Cost(seconds_per_call=1, calls=10)),
        Rung("dear", False, Cost(seconds_per_call=9, calls=10)),
        Rung("c", False, Cost(seconds_per_call=1, calls=10)),
    ]
    assert [rung.name for rung in order_for_adoption(rungs)] == ["b", "c", "dear", "tuned and free"]


def test_dollars_decide_the_order_only_when_every_rung_has_them() -> None:
    slow_cheap = Rung("slow but cheap", False, Cost(seconds_per_call=9, usd_per_call=0.1, usd_once=0, calls=10))
    fast_dear = Rung("fast but dear", False, Cost(seconds_per_call=1, usd_per_call=0.5, usd_once=0, calls=10))
    unpriced = Rung("unpriced", False, Cost(seconds_per_call=5, calls=10))
    assert [rung.name for rung in order_for_adoption([fast_dear, slow_cheap])] == ["slow but cheap", "fast but dear"]
    names = [rung.name for rung in order_for_adoption([slow_cheap, fast_dear, unpriced])]
    assert names == ["fast but dear", "unpriced", "slow but cheap"]


def test_at_break_even_both_rungs_cost_the_same() -> None:
    few_shot = Cost(seconds_once=10, seconds_per_call=2.0)
    lora = Cost(seconds_once=1_000, seconds_per_call=0.5, retrainings=1)
    calls = break_even_calls(few_shot, lora)
    assert calls == pytest.approx((2_000 - 10) / 1.5)
    at = [10 + 2.0 * calls, 2_000 + 0.5 * calls]
    assert at[0] == pytest.approx(at[1])
    assert break_even_calls(lora, few_shot) == math.inf
    assert break_even_calls(Cost(seconds_once=5, seconds_per_call=2), Cost(seconds_once=1, seconds_per_call=1)) == 0


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
