from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.protocols import Choices
from stepladder.domain.task import DataSettings, ModelSettings, TaskSettings, UseSettings
from stepladder.evaluation.graders.chrf import Chrf
from stepladder.evaluation.graders.style import Style
from stepladder.service.money import Money, label_lines, money_lines, predict_money
from stepladder.service.plan import KEPT_TO_THE_LAST, OVERRUN, make_plan
from stepladder.service.rung_run import Marker
from stepladder.service.shipping import plain_name
from stepladder.service.speeds import Speeds
from stepladder.service.style import MOST_PAIRS, untuned_answers
from stepladder.service.workload import Workload, confirmation_effort, estimate_rungs, rung_efforts
from stepladder.service.worlds import World

RUNGS = ("prompt", "constrained", "few-shot", "nearest", "lora", "lora+constrained", "lora+nearest")
SPEEDS = Speeds(prompt=1500, completion=400, training=250)
ORDER = (
    "the second LoRA prompt",
    "the second seed",
    "further orders",
    "prompt forms beyond 6",
    "prompt forms beyond 3",
    "all prompt forms",
    "8 demonstrations",
    "all but 4",
    "the fifth fold",
    "the fourth fold",
    "the third fold",
)


def settings(**use: object) -> TaskSettings:
    return TaskSettings(
        name="t", instruction="Do it.", data=DataSettings(examples="e"), use=UseSettings.model_validate(use), target=0.8
    )


def work(worlds: int = 1) -> Workload:
    return Workload(96, 19, 77, 64, worlds, 213, 45, 42, 88, epochs=5, batch_size=4)


@given(st.floats(0.5, 500), st.sampled_from([1, 5]))
def test_what_is_planned_fits_the_budget_or_is_what_a_ladder_is_for_and_a_quarter_over_it(minutes: float, worlds: int) -> None:
    plan = make_plan(settings(), work(worlds), SPEEDS, RUNGS, budget_minutes=minutes, refit=worlds > 1)
    kept = [rung for rung in RUNGS if rung not in plan.over_budget]
    needed = set(kept) <= set(KEPT_TO_THE_LAST)
    assert plan.total_seconds <= 60 * minutes * (OVERRUN if needed else 1.0) or kept == ["prompt"]
    assert any("may take that much longer" in line for line in plan.lines) == (plan.total_seconds > 60 * minutes)
    assert ("lora" in kept) or not any(rung.startswith("lora") for rung in kept)


@given(st.floats(0.5, 500), st.sampled_from([1, 5]))
def test_things_are_dropped_in_the_fixed_order_and_aloud(minutes: float, worlds: int) -> None:
    plan = make_plan(settings(), work(worlds), SPEEDS, RUNGS, budget_minutes=minutes, refit=worlds > 1)
    said = next((line for line in plan.lines if line.startswith("Left out")), "")
    places = [said.find(thing) for thing in ORDER if thing in said]
    assert places == sorted(places)
    assert ("the second LoRA prompt" in said) == (plan.choices.lora_prompts == 1)
    assert (plan.choices.folds < worlds) == ("fold" in said)


def test_with_time_enough_nothing_is_dropped_and_the_pass_mark_is_said() -> None:
    plan = make_plan(settings(label_usd_each=0.5), work(), SPEEDS, RUNGS, budget_minutes=1000, refit=False)
    assert plan.over_budget == ()
    assert not any(line.startswith("Left out") for line in plan.lines)
    assert any(line.startswith("Pass mark: ") for line in plan.lines)
    assert any("to label" in line for line in plan.lines)


def test_the_pass_mark_counts_the_rows_of_the_folds_that_are_kept_and_no_others() -> None:
    sized = replace(work(5), test_rows=13, tested=(13, 12, 12, 12, 11))
    whole = make_plan(settings(), sized, SPEEDS, RUNGS, budget_minutes=10_000, refit=True)
    assert whole.choices.folds == 5
    assert any(re.search(r"^Pass mark: \d+ of 60 ", line) for line in whole.lines), whole.lines
    tight = next(
        plan
        for minutes in range(100, 0, -1)
        if (plan := make_plan(settings(), sized, SPEEDS, RUNGS, budget_minutes=minutes, refit=True)).choices.folds == 2
    )
    assert any(re.search(r"^Pass mark: \d+ of 25 ", line) for line in tight.lines), tight.lines
    assert any(line.startswith("Gains: with 25 test rows") for line in tight.lines)


def test_the_rung_behind_a_role_is_the_one_most_folds_gave_it() -> None:
    assert plain_name("best untuned (few-shot or nearest)") == "few-shot"
    assert plain_name("lora+constrained") == "lora+constrained"
    assert plain_name(None) is None


@pytest.mark.parametrize(("rows", "asked"), [(90, 90), (1000, MOST_PAIRS)])
def test_untuned_answers_for_the_style_grader_are_counted(rows: int, asked: int) -> None:
    train = tuple(Example(Input.of("q", f"r{number}"), Message("assistant", "a")) for number in range(rows))
    world = World(None, train, (), train, (), ())
    assert untuned_answers(Marker((Style(), Chrf())), world) == asked
    assert untuned_answers(Marker((Chrf(),)), world) == 0
    plain = estimate_rungs(work(), Choices(), SPEEDS, rungs=("prompt",))["prompt"]
    assert estimate_rungs(replace(work(), graded_rows=asked), Choices(), SPEEDS, rungs=("prompt",))["prompt"] > plain


# --- trainings, memory, money ----------------------------------------------------------------------------------------


def test_trainings_are_counted_over_all_folds() -> None:
    one = make_plan(settings(), work(), SPEEDS, RUNGS, budget_minutes=1000, refit=False)
    assert one.trainings == {"lora": 3, "lora+nearest": 2}
    assert "Trainings: lora 3, lora+nearest 2, of at most 5 passes over 77 rows." in one.lines
    cross = make_plan(settings(), work(5), SPEEDS, RUNGS, budget_minutes=10_000, refit=True)
    assert cross.trainings == {"lora": 10, "lora+nearest": 5}
    assert any("one more on all rows if a tuned rung wins" in line for line in cross.lines)
    assert make_plan(settings(), work(), SPEEDS, ("prompt",), budget_minutes=9, refit=False).trainings == {}


def test_the_work_that_a_plan_counts_in_seconds_and_in_tokens_is_the_same() -> None:
    choices = Choices()
    seconds = estimate_rungs(work(3), choices, SPEEDS, rungs=RUNGS)
    efforts = rung_efforts(work(3), choices, rungs=RUNGS)
    assert {rung: effort.seconds(SPEEDS) for rung, effort in efforts.items()} == seconds
    assert all(effort.sent >= effort.read for effort in efforts.values())
    assert efforts["constrained"].sent == 3 * 96 * (213 + 45)
    assert efforts["constrained"].answered == 3 * 96 * 42


def test_free_text_is_expected_to_ramble_and_a_bounded_answer_is_not() -> None:
    bound = rung_efforts(work(), Choices(), rungs=RUNGS)
    free = rung_efforts(replace(work(), free_text=True), Choices(), rungs=RUNGS)
    longer = {rung for rung in RUNGS if free[rung].written > bound[rung].written}
    assert longer == {"few-shot", "nearest"}  # zero-shot answers ramble anyway, tuned ones do not
    assert free["nearest"].written == pytest.approx(bound["nearest"].written * (42 + 88) / 2 / 42)
    written = [confirmation_effort(one, Choices(), tuned=True).written for one in (work(), replace(work(), free_text=True))]
    assert written[1] - written[0] == pytest.approx(64 * (88 - 42) / 2)


def money(hosted: list[tuple[str, tuple[str, ...]]], seconds: float = 1_800, **use: object) -> tuple[Money, list[str]]:
    found = predict_money(settings(**use), work(), Choices(), hosted, seconds=seconds)
    return found, list(money_lines(settings(**use), found))


BASE = settings().model.base


def test_hosted_models_are_priced_by_their_tokens() -> None:
    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 10.0}
    one, lines = money([(BASE, ("constrained",))], **prices)
    effort = rung_efforts(work(), Choices(), rungs=("constrained",))["constrained"]
    effort += confirmation_effort(work(), Choices(), tuned=False)
    assert one.hosted == pytest.approx((2 * effort.sent + 10 * effort.answered) / 1e6)
    assert "for about " in lines[0]
    assert "1 hosted model (`[budget] usd` ends them at $5.00)" in lines[0]
    assert money([(BASE, ("constrained",))] * 2, **prices)[0].hosted == pytest.approx(2 * one.hosted)
    room = settings(**prices).model_copy(update={"model": ModelSettings(thinking_tokens=1000)})
    thinking = predict_money(room, work(), Choices(), [(BASE, ("constrained",))], seconds=0)
    assert thinking.hosted_tokens - one.hosted_tokens > 1000 * (work().validation_rows + work().test_rows)
    unpriced, lines = money([(BASE, ("constrained",))])
    assert (unpriced.hosted, "whose price is not known" in lines[0]) == (None, True)


def test_this_machines_time_is_priced_where_it_has_a_price() -> None:
    assert money([], machine_usd_per_hour=0.4)[0].machine == pytest.approx(0.2)
    assert money([], machine_usd_per_hour=0.4)[1] == ["Money: $0.20 for this machine's time."]
    assert money([])[1] == ["Money: none; no model is hosted and this machine has no price."]


def test_labels_of_a_tuned_rung_are_priced_only_where_the_facts_change() -> None:
    (line,) = label_lines(settings(label_usd_each=0.5, facts_change="monthly"), 96)
    assert "96 rows labelled again" in line
    assert "$48.00 each time and $576 over the horizon" in line
    assert not [*label_lines(settings(label_usd_each=0.5), 96), *label_lines(settings(facts_change="monthly"), 96)]
