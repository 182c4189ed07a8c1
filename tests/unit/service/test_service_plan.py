from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.protocols import Choices
from stepladder.domain.task import DataSettings, TaskSettings, UseSettings
from stepladder.evaluation.graders.chrf import Chrf
from stepladder.evaluation.graders.style import Style
from stepladder.service.plan import make_plan
from stepladder.service.rung_run import Marker
from stepladder.service.shipping import plain_name
from stepladder.service.speeds import Speeds
from stepladder.service.style import MOST_PAIRS, untuned_answers
from stepladder.service.workload import Workload, estimate_rungs
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
def test_what_is_planned_fits_the_budget_or_only_the_prompt_is_left(minutes: float, worlds: int) -> None:
    plan = make_plan(settings(), work(worlds), SPEEDS, RUNGS, budget_minutes=minutes, refit=worlds > 1)
    kept = [rung for rung in RUNGS if rung not in plan.over_budget]
    assert plan.total_seconds <= 60 * minutes or kept == ["prompt"]
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
