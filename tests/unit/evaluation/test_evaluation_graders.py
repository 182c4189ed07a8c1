from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF
from sklearn.metrics import accuracy_score, f1_score

from stepladder.data.patterns import linear_matcher
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Score, Ungraded
from stepladder.domain.task import DataSettings, NumericGrader, OutputSettings, RegexGrader, Task, TaskSettings
from stepladder.evaluation.graders import build_grader, build_graders, metrics
from stepladder.evaluation.graders.chrf import Chrf
from stepladder.evaluation.graders.json_fields import JsonFields
from stepladder.evaluation.graders.labels import Labels
from stepladder.evaluation.graders.normalised_match import NormalisedMatch, normalise
from stepladder.evaluation.graders.numeric import Numeric, first_number
from stepladder.evaluation.graders.regex import Regex
from stepladder.evaluation.graders.token_f1 import TokenF1

SCHEMA = {
    "type": "object",
    "properties": {"topic": {"enum": ["refund", "other"]}, "amount": {"type": "number"}},
    "required": ["topic"],
    "additionalProperties": False,
}


def example(reference: str) -> Example:
    return Example(input=Input.of("question"), reference=Message("assistant", reference))


def make_task(folder: Path = Path("nowhere"), **settings: object) -> Task:
    data = DataSettings(examples="examples.jsonl")
    return Task(folder=folder, settings=TaskSettings(name="t", instruction="Answer.", data=data, **settings))  # type: ignore[arg-type]


def value(grade: object) -> float:
    assert isinstance(grade, Score)
    return grade.value


def test_labels_ignore_case_and_outer_space_and_nothing_else() -> None:
    grader = Labels(["Refund", "Other"])
    assert grader.grade(example("Refund"), " refund\n") == Score(1.0)
    assert grader.grade(example("Refund"), "refund.") == Score(0.0)
    assert grader.grade(example("Refund"), "Other") == Score(0.0)


def test_a_reference_that_is_no_label_is_ungraded() -> None:
    grade = Labels(["a", "b"]).grade(example("c"), "c")
    assert isinstance(grade, Ungraded)
    assert "'c'" in grade.reason


def test_label_aggregates_equal_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    references = rng.choice(["a", "b", "c"], 80, p=[0.6, 0.3, 0.1])
    answers = np.where(rng.random(80) < 0.6, references, rng.choice(["a", "b", "c", "none of them"], 80))
    report = metrics(Labels(["a", "b", "c"]), [example(label) for label in references], list(answers))
    assert report["accuracy"] == pytest.approx(accuracy_score(references, answers))
    assert report["macro_f1"] == pytest.approx(f1_score(references, answers, labels=["a", "b", "c"], average="macro"))
    assert report["out_of_set"] == pytest.approx((answers == "none of them").mean())


@pytest.mark.parametrize(
    ("reference", "answer", "f1"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 1.0),
        ('{"a": 1, "b": 2}', '{"a": 1}', 2 / 3),
        ('{"a": 1}', '{"a": 1, "b": 2}', 2 / 3),
        ('{"a": 1}', '{"b": 1}', 0.0),
        ('{"a": 1}', '{"a": 1.0}', 1.0),
        ('{"a": 1}', '{"a": true}', 0.0),
        ('{"a": true}', '{"a": 1}', 0.0),
        ('{"a": "x"}', '{"a": " x "}', 1.0),
        ('{"a": "x"}', '{"a": "X"}', 0.0),
        ('{"a": "1"}', '{"a": 1}', 0.0),
        ('{"a": null}', '{"a": ""}', 0.0),
        ('{"t": ["x", "y", "y"]}', '{"t": ["y", "x", "y"]}', 1.0),
        ('{"t": ["x", "y", "y"]}', '{"t": ["x", "x", "y"]}', 2 / 3),
        ('{"t": []}', '{"t": []}', 1.0),
        ('{"t": []}', '{"t": ["x"]}', 0.0),
        ('{"t": {}}', '{"t": []}', 0.0),
        ('{"a": {"b": {"c": 1, "d": 2}}}', '{"a": {"b": {"c": 1, "d": 3}}}', 0.5),
        ('[{"n": 1, "m": 2}, {"n": 3, "m": 4}]', '[{"n": 3, "m": 4}, {"n": 1, "m": 2}]', 1.0),
        ('[{"n": 1, "m": 2}, {"n": 3, "m": 4}]', '[{"n": 1, "m": 4}, {"n": 3, "m": 2}]', 0.5),
        ('{"a": 1}', '```json\n{"a": 1}\n```', 0.0),
        ('{"a": 1}', "not JSON", 0.0),
        ('{"a": 1}', '{"a": NaN}', 0.0),
        ('{"a": 1}', "[" * 100_000 + "]" * 100_000, 0.0),
        ('{"a": 1}', "9" * 10_000, 0.0),
    ],
)
def test_json_fields_are_compared_by_value(reference: str, answer: str, f1: float) -> None:
    assert value(JsonFields().grade(example(reference), answer)) == pytest.approx(f1)


def test_a_reference_that_is_not_json_is_ungraded_while_an_answer_that_is_not_is_wrong() -> None:
    assert isinstance(JsonFields().grade(example("hello"), "{}"), Ungraded)
    assert JsonFields().grade(example("{}"), "hello") == Score(0.0)


def test_json_is_reported_apart_as_parsing_valid_and_right() -> None:
    reference = example('{"topic": "refund", "amount": 5}')
    answers = ['{"topic": "refund", "amount": 5.0}', '{"topic": "other", "amount": 5}', '{"topic": "lost"}', "oops"]
    report = metrics(JsonFields(SCHEMA), [reference] * 4, answers)
    assert report == {
        "parses": 0.75,
        "valid": 0.5,
        "exact": 0.25,
        "field_f1": pytest.approx(2 * 3 / (2 + 2 + 1 + 0 + 4 * 2)),
    }
    assert "valid" not in metrics(JsonFields(), [reference], ["{}"])


def test_squad_normalisation_drops_case_articles_punctuation_and_space() -> None:
    assert normalise("  The  U.S.\tof A, an apple!") == "us of apple"
    assert NormalisedMatch().grade(example("the Eiffel Tower"), "Eiffel tower.") == Score(1.0)
    assert NormalisedMatch().grade(example("the Eiffel Tower"), "Tower Eiffel") == Score(0.0)


@pytest.mark.parametrize(
    ("reference", "answer", "f1"),
    [
        ("blue bin", "the blue bag", 0.5),
        ("a b b c", "b b x", 2 * 2 / 6),
        ("the", "a", 1.0),
        ("the", "cat", 0.0),
        ("cat", "", 0.0),
    ],
)
def test_token_f1_counts_shared_words(reference: str, answer: str, f1: float) -> None:
    assert value(TokenF1().grade(example(reference), answer)) == pytest.approx(f1)


def test_chrf_is_sacrebleus() -> None:
    reference, answer = "Please wait for our call on Monday.", "Please wait for our mail."
    oracle = CHRF().sentence_score(answer, [reference]).score / 100
    assert 0 < oracle < 1
    assert value(Chrf().grade(example(reference), answer)) == pytest.approx(oracle)


def test_a_pattern_has_to_match_the_whole_answer() -> None:
    grader = Regex(r"\d{4}|none")
    assert [value(grader.grade(example("x"), answer)) for answer in ("1234", " none\n", "12345", "a1234")] == [1, 1, 0, 0]


RUNAWAY = r"(?=a)(a+)+b"
"""Exponential in `re`; re2 has no look-ahead, so it cannot take it over."""
EVIL = [r"(a+)+b", r"(a|a)*b", r"(a|aa)+b", r"(.*a){25}b", r"([a-zA-Z]+)*b", r"(a*)*b", r"^(\w+\s?)*$", r"(x+x+)+y", r"(\d+)*\.b"]


@pytest.mark.parametrize("pattern", EVIL)
def test_patterns_that_re2_can_read_take_linear_time(pattern: str) -> None:
    answers = ["a" * 5000, "x" * 5000 + "!", "1" * 5000, "a " * 2500 + "!"]
    grader = Regex(pattern)
    grader.grade(example("x"), "")
    start = time.process_time()
    grades = [grader.grade(example("x"), answer) for answer in answers]
    assert time.process_time() - start < 3  # `re` would need years
    assert grades == [Score(0.0)] * 4 or pattern.startswith("^")


ATOMS = st.sampled_from(
    [
        *"ab1 -_,{}A",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\S",
        r"\b",
        r"\B",
        "^",
        "$",
        "[a-c]",
        "[^a]",
        r"[\d-]",
        r"[a\]]",
        r"\.",
        r"\n",
        "[|]",
        r"\A",
    ]
)
PIECES = st.tuples(
    ATOMS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{,2}", "{01}", "{0,02}", "*?", "++", "{2}+"])
).map("".join)
PATTERNS = st.recursive(
    st.lists(PIECES, min_size=1, max_size=4).map("".join),
    lambda inner: st.one_of(
        inner.map(lambda text: f"({text})*"),
        inner.map(lambda text: f"(?:{text})?"),
        inner.map(lambda text: f"(?i){text}" if not text.startswith("(?") else text),
        st.tuples(inner, inner).map("|".join),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(PATTERNS, st.text("abcAK1 -_.,\n{}|", max_size=8))
def test_a_pattern_means_the_same_whether_re2_is_installed_or_not(pattern: str, answer: str) -> None:
    try:
        compiled = re.compile(pattern)
    except re.error:
        return
    linear = linear_matcher(pattern)
    if linear is not None:
        assert linear(answer.strip()) == (compiled.fullmatch(answer.strip()) is not None)


def test_what_re2_would_read_differently_is_left_to_re() -> None:
    for pattern in (
        r"\B",
        "(?=a)",
        r"(a)\1",
        "[[a]]",
        "a{,3}",
        "a{01}",
        "a{1,02}",
        "a{00,1}",
        r"\Z",
        "é",
        r"[a&&b]",
        "(?x) a",
        r"\x41",
    ):
        assert linear_matcher(pattern) is None, pattern
    for pattern in (r"[A-Z]{2}-\d+", "a{0}", "a{0,1}", "a{10,20}"):
        assert linear_matcher(pattern) is not None, pattern
    assert Regex(r"\d+").grade(example("x"), "٣") == Score(1.0)  # a digit to `re`, not to re2
    assert Regex(r"\s*x").grade(example("x"), "\x1cx") == Score(1.0)


def test_a_runaway_pattern_is_stopped_left_ungraded_and_given_up() -> None:
    grader = Regex(RUNAWAY, timeout_seconds=0.2)
    start = time.monotonic()
    grades = [grader.grade(example("x"), "a" * 60) for _ in range(20)]
    assert time.monotonic() - start < 10
    assert all(isinstance(grade, Ungraded) for grade in grades)
    assert "given up" in grades[-1].reason  # type: ignore[union-attr]


def test_an_answer_after_a_timeout_is_graded_again() -> None:
    grader = Regex(RUNAWAY, timeout_seconds=1.0)
    assert isinstance(grader.grade(example("x"), "a" * 60), Ungraded)
    assert grader.grade(example("x"), "aab") == Score(1.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("the total is -3.50 EUR", "-3.5"),
        ("1,250,000.25 people", "1250000.25"),
        ("1\u202f250 m", "1250"),
        ("2.5e-3 g", "0.0025"),
        ("\u22127 °C", "-7"),
        ("-$5", "-5"),
        ("x=-5", "-5"),
        ("room B-12", "12"),
        ("1,5 litres", "1"),
        (".5", "0.5"),
        ("12,3456", "12"),
        ("1e999999999999", "1"),
        ("none", None),
    ],
)
def test_the_first_number_is_read_with_sign_thousands_and_exponent(text: str, number: str | None) -> None:
    found = first_number(text)
    assert (None if found is None else float(found)) == (None if number is None else float(number))


def test_numeric_tolerances_are_exact_and_the_larger_one_counts() -> None:
    assert Numeric(absolute=0.1).grade(example("1.0"), "1.1") == Score(1.0)
    assert Numeric(absolute=0.1).grade(example("1.0"), "1.1000001") == Score(0.0)
    assert Numeric(relative=0.05).grade(example("-200"), "-190") == Score(1.0)
    assert Numeric(relative=0.05, absolute=1).grade(example("2"), "3") == Score(1.0)
    assert Numeric().grade(example("2"), "no idea") == Score(0.0)
    assert isinstance(Numeric().grade(example("no idea"), "2"), Ungraded)


def test_the_default_grader_follows_the_shape_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    shapes = [
        OutputSettings(json_schema="s.json"),
        OutputSettings(labels=("a", "b")),
        OutputSettings(regex=r"\d+"),
        OutputSettings(),
    ]
    names = [[grader.name for grader in build_graders(make_task(tmp_path, output=shape))] for shape in shapes]
    assert names == [["json_fields"], ["labels"], ["normalised_match"], ["chrf"]]


def test_the_users_graders_come_in_their_order_with_their_settings() -> None:
    chosen = (NumericGrader(absolute=2), RegexGrader(pattern="[0-9]+"))
    graders = build_graders(make_task(graders=chosen))
    assert [grader.name for grader in graders] == ["numeric", "regex"]
    assert graders[0].grade(example("5"), "7") == Score(1.0)


def test_a_broken_pattern_and_a_broken_schema_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.toml: the grader's pattern is no regular expression: .* Correct `pattern`"):
        build_grader(RegexGrader(pattern="(a"), make_task())
    (tmp_path / "s.json").write_text('{"type": "nonsense"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"s\.json: not a JSON Schema"):
        build_graders(make_task(tmp_path, output=OutputSettings(json_schema="s.json")))
