"""One promise, every grader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import honest, judge
from stepladder.domain.grader_settings import (
    JudgeMessage,
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    SimilarityMetric,
    StringCheckGrader,
    TextSimilarityGrader,
)
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Score, Ungraded
from stepladder.domain.protocols import Prompt
from stepladder.domain.task import (
    ChrfGrader,
    DataSettings,
    GraderSettings,
    JsonFieldsGrader,
    LabelsGrader,
    NormalisedMatchGrader,
    NumericGrader,
    RegexGrader,
    Task,
    TaskSettings,
    TokenF1Grader,
    ToolCallsGrader,
)
from stepladder.evaluation.graders import GraderTools, build_grader, cannot_judge, metrics, prepare
from stepladder.techniques.fake import FakeEmbedder

TASK = Task(
    folder=Path("nowhere"),
    settings=TaskSettings(name="t", instruction="Answer.", data=DataSettings(examples="examples.jsonl")),
)
SOURCE = """
def grade(sample, item):
    return 1.0 if sample["output_text"].strip() == item["reference"].strip() else 0.0
"""
TEXTS = JudgeMessage(role="user", content="{{ item.reference }} {{ sample.output_text }}")


def says(prompt: Prompt) -> object:
    """The one judge of both kinds of model graders: a label where labels are asked for."""
    right = honest(prompt)
    return ("good" if right else "bad") if "one of" in prompt.messages[-1].content else right


TOOLS = GraderTools(engine=lambda name: judge(says), embedder=FakeEmbedder)
SENTENCES = ["Please wait for our call on Monday.", "a b c d e f"]
PERFECT = {
    "labels": (LabelsGrader(), ["refund", "Größe", "two words"]),
    "json_fields": (JsonFieldsGrader(), ['{"a": [1, 2.50, {"b": null}], "c": "x"}', "[]", "3", '{"e": {}}']),
    "tool_calls": (
        ToolCallsGrader(),
        ['{"tool_calls": [{"name": "find", "arguments": {"city": "Graz", "days": [1, 2]}}]}', "You are welcome."],
    ),
    "normalised_match": (NormalisedMatchGrader(), ["The answer.", "42", "the", "Ελλάδα"]),
    "token_f1": (TokenF1Grader(), ["The blue bin.", "the", "x"]),
    "chrf": (ChrfGrader(), ["Please wait for our call.", "x", "日本語"]),
    "regex": (RegexGrader(pattern=r"[A-Z]{2}-\d+"), ["AB-12", "ZZ-0"]),
    "numeric": (NumericGrader(), ["42", "about -1,250.5 euros", "3e8 m/s"]),
    "string_check": (StringCheckGrader(), ["The answer.", "日本語", " x "]),
    **{
        metric: (TextSimilarityGrader(name=metric, evaluation_metric=metric), SENTENCES)
        for metric in get_args(SimilarityMetric)
        if metric != "meteor"  # needs data that is not everywhere; it has a test of its own
    },
    "score_model": (ScoreModelGrader(model="j"), ["Berlin", "日本語"]),
    "score_model_own": (ScoreModelGrader(name="score_model_own", model="j", range=(0, 1), input=(TEXTS,)), ["Berlin"]),
    "label_model": (LabelModelGrader(model="j", labels=("good", "bad"), passing_labels=("good",)), ["Berlin"]),
    "python": (PythonGrader(source=SOURCE), ["Berlin", "日本語"]),
    "multi": (
        MultiGrader(
            graders={"exact": StringCheckGrader(), "alike": TextSimilarityGrader(evaluation_metric="fuzzy_match")},
            calculate_output="exact * 0.6 + alike * 0.4",
        ),
        ["The answer.", "Berlin"],
    ),
}
GRADERS = {name: build_grader(chosen, TASK, TOOLS) for name, (chosen, _) in PERFECT.items()}
NO_REFERENCE_NEEDED = ("regex", "python")
any_text = st.text(alphabet=st.characters(exclude_categories=[])) | st.from_regex(r"[-+.,\d{}\[\]\":e ]{0,30}")

each_grader = pytest.mark.parametrize("name", list(GRADERS))


def example(reference: str) -> Example:
    return Example(input=Input.of("question"), reference=Message("assistant", reference))


@each_grader
def test_a_perfect_answer_scores_one(name: str) -> None:
    for reference in PERFECT[name][1]:
        assert GRADERS[name].grade(example(reference), reference) == Score(1.0)


@each_grader
def test_a_wrong_answer_scores_below_one(name: str) -> None:
    for reference in PERFECT[name][1]:
        grade = GRADERS[name].grade(example(reference), "%% no, nothing like it %%")
        assert isinstance(grade, Score)
        assert grade.value < 0.5


@each_grader
@settings(max_examples=60, deadline=None)
@given(reference=any_text, answer=any_text)
def test_any_text_gets_a_score_between_zero_and_one_or_a_reason_and_the_same_again(
    name: str, reference: str, answer: str
) -> None:
    grade = GRADERS[name].grade(example(reference), answer)
    assert isinstance(grade, Score | Ungraded)
    if isinstance(grade, Score):
        assert 0.0 <= grade.value <= 1.0
    else:
        assert grade.reason
    assert GRADERS[name].grade(example(reference), answer) == grade


@each_grader
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(any_text, any_text), max_size=4))
def test_the_aggregates_of_any_texts_are_shares(name: str, rows: list[tuple[str, str]]) -> None:
    report = metrics(GRADERS[name], [example(reference) for reference, _ in rows], [answer for _, answer in rows])
    assert all(0.0 <= value <= 1.0 for value in report.values())


@pytest.mark.parametrize("name", [name for name in GRADERS if name not in NO_REFERENCE_NEEDED])
def test_a_row_without_reference_is_ungraded_and_not_zero(name: str) -> None:
    assert isinstance(GRADERS[name].grade(example("  "), "answer"), Ungraded)


@each_grader
def test_names_are_those_of_the_settings(name: str) -> None:
    settings = PERFECT[name][0]
    assert GRADERS[name].name == name == (getattr(settings, "name", None) or settings.type)


@each_grader
def test_rows_made_ready_together_get_the_grades_they_get_alone(name: str) -> None:
    rows = [(example(reference), answer) for reference in PERFECT[name][1] for answer in (reference, "no", "")]
    alone = [GRADERS[name].grade(row, answer) for row, answer in rows]
    fresh = build_grader(PERFECT[name][0], TASK, TOOLS)
    prepare(fresh, [row for row, _ in rows], [answer for _, answer in rows])
    assert [fresh.grade(row, answer) for row, answer in rows] == alone


@each_grader
def test_a_row_that_can_be_graded_is_not_called_impossible(name: str) -> None:
    for reference in PERFECT[name][1]:
        assert cannot_judge(GRADERS[name], example(reference)) is None


def test_every_grader_of_a_task_toml_stands_in_this_contract() -> None:
    known = {model.model_fields["type"].default for model in get_args(get_args(GraderSettings)[0])}
    # Style learns before it can judge, and gives even a perfect answer a probability: it has tests of its own.
    assert known - {"style"} == {chosen.type for chosen, _ in PERFECT.values()}


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_json_value_is_equal_to_itself(value: object) -> None:
    text = json.dumps(value)
    assert GRADERS["json_fields"].grade(example(text), json.dumps(value, indent=3)) == Score(1.0)
