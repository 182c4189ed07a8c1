"""Grading tool calls, and what other graders and the fact check make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepladder.domain.answer import answer_text
from stepladder.domain.messages import Example, Input, Message, ToolCall
from stepladder.domain.prediction import Score, Ungraded
from stepladder.domain.task import ChrfGrader, DataSettings, Task, TaskSettings
from stepladder.evaluation.facts import find_facts, reference_spans
from stepladder.evaluation.graders import build_graders, metrics
from stepladder.evaluation.graders.json_fields import JsonFields
from stepladder.evaluation.graders.normalised_match import NormalisedMatch
from stepladder.evaluation.graders.tool_calls import ToolCalls
from tool_tasks import TOOLS

WEATHER = ("get_weather", {"city": "Graz", "day": "Monday"})
ALARM = ("set_alarm", {"hour": 7, "label": "tea"})


def says(*calls: tuple[str, object], content: str = "") -> Message:
    made = [ToolCall("x", name, fields if isinstance(fields, str) else json.dumps(fields)) for name, fields in calls]
    return Message("assistant", content, tool_calls=tuple(made))


def wants(*calls: tuple[str, object], content: str = "", question: str = "?") -> Example:
    return Example(Input("row", (Message("user", question),), TOOLS), says(*calls, content=content))


def given(*calls: tuple[str, object], content: str = "") -> str:
    return answer_text(says(*calls, content=content))


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (given(WEATHER, ALARM), 1.0),
        (given(ALARM, WEATHER), 1.0),
        (given(WEATHER, ALARM, content="Let me look."), 1.0),
        (given(("get_weather", {"day": "Monday", "city": " Graz"}), ("set_alarm", {"label": "tea", "hour": 7.0})), 1.0),
        (given(WEATHER), 2 * 3 / (3 + 6)),
        (given(WEATHER, ALARM, ALARM), 2 * 6 / (9 + 6)),
        (given(("get_weather", {"city": "Linz", "day": "Monday"}), ALARM), 2 * 5 / (6 + 6)),
        (given(("get_weather", {"city": "Graz", "day": "Monday", "unit": "C"}), ALARM), 2 * 6 / (7 + 6)),
        (given(("get_weather", {}), ALARM), 2 * 4 / (4 + 6)),
        (given(("get_weather", '{"city": "Gr'), ALARM), 2 * 4 / (5 + 6)),
        (given(("weather", WEATHER[1]), ("alarm", ALARM[1])), 0.0),
        ("I cannot help.", 0.0),
        ("", 0.0),
    ],
)
def test_tools_and_values_count_and_the_order_of_calls_does_not(answer: str, score: float) -> None:
    grade = ToolCalls().grade(wants(WEATHER, ALARM), answer)
    assert isinstance(grade, Score)
    assert grade.value == pytest.approx(score)


def test_the_order_counts_where_it_is_asked_for() -> None:
    grader = ToolCalls(ordered=True)
    assert grader.grade(wants(WEATHER, ALARM), given(WEATHER, ALARM)) == Score(1.0)
    assert grader.grade(wants(WEATHER, ALARM), given(ALARM, WEATHER)) == Score(0.0)
    assert metrics(grader, [wants(WEATHER, ALARM)], [given(ALARM, WEATHER)])["tools_right"] == 0


def test_calls_of_one_tool_are_paired_so_that_most_values_agree() -> None:
    two = [("get_weather", {"city": city, "day": "Monday"}) for city in ("Graz", "Linz")]
    assert ToolCalls().grade(wants(*two), given(*two[::-1])) == Score(1.0)


def test_a_text_is_right_when_it_matches_and_nothing_is_called() -> None:
    example = wants(content="You are welcome.")
    assert ToolCalls().grade(example, "you are welcome") == Score(1.0)
    assert ToolCalls().grade(example, "No.") == Score(0.0)
    assert ToolCalls().grade(example, given(ALARM, content="You are welcome.")) == Score(0.0)


def test_a_broken_reference_is_ungraded_and_never_a_zero() -> None:
    assert isinstance(ToolCalls().grade(wants(("f", "{")), given(ALARM)), Ungraded)
    assert isinstance(ToolCalls().grade(wants(content=" "), given(ALARM)), Ungraded)


def test_aggregates_tell_form_from_tools_from_values() -> None:
    examples = [wants(WEATHER), wants(WEATHER), wants(ALARM), wants(ALARM), wants(content="Hello."), wants(content="Hello.")]
    answers = [given(WEATHER), given(("get_weather", "{")), given(WEATHER), "no", given(ALARM), "hello"]
    report = metrics(ToolCalls(), examples, answers)
    assert report == {
        "parses": 0.5,
        "tools_right": 0.5,
        "field_f1": 2 * (3 + 1) / (3 + 2 + 3 + 4 * 3),
        "exact": 0.25,
        "needless_calls": 0.5,
    }
    assert metrics(ToolCalls(), [], []) == {}


def test_it_decides_where_references_hold_calls_unless_the_task_says_otherwise() -> None:
    settings = TaskSettings(name="t", instruction="Help.", data=DataSettings(examples="e.jsonl"))
    task = Task(folder=Path("nowhere"), settings=settings)
    assert [grader.name for grader in build_graders(task, examples=[wants(content="Hi"), wants(ALARM)])] == ["tool_calls"]
    assert [grader.name for grader in build_graders(task, examples=[wants(content="Hi")])] == ["chrf"]
    chosen = task.model_copy(update={"settings": settings.model_copy(update={"graders": (ChrfGrader(),)})})
    assert [grader.name for grader in build_graders(chosen, examples=[wants(ALARM)])] == ["chrf"]


def test_other_graders_judge_the_one_text() -> None:
    turned = given(("set_alarm", {"label": "tea", "hour": 7}))
    example = Example(Input.of("?"), says(("set_alarm", {"label": "tea", "hour": 7})))
    assert NormalisedMatch(exact=True).grade(example, turned) == Score(1.0)
    assert JsonFields().grade(wants(WEATHER, ALARM), given(ALARM, WEATHER)) == Score(1.0)


def test_facts_are_values_of_arguments_and_not_names_of_tools() -> None:
    settings = TaskSettings(name="t", instruction="Help.", data=DataSettings(examples="e.jsonl"))
    task = Task(folder=Path("nowhere"), settings=settings)
    example = wants(("get_weather", {"city": "Graz", "day": "Monday"}), content="Mira asked.", question="The weather in Graz?")
    assert set(reference_spans(example, task)) == {"Graz", "Monday"}
    assert find_facts([example], [], {}, task) == {"row": ("Monday",)}
