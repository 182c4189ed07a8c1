"""Guesses about a file: which column is what, what kind the answers are, and a first instruction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.guess.answers import guess_answers
from stepladder.data.guess.closed import closed_set
from stepladder.data.guess.columns import guess_columns
from stepladder.data.guess.schema import infer_schema
from stepladder.data.guess.wording import guess_instruction
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input, Message

SENTENCES = [f"The {thing} in the {place} makes a noise since {day}." for thing, place, day in zip(
    "lamp clock pump door stove bell fan radio pipe chair mixer phone".split(),
    "hall shed attic kitchen cellar porch garage office bath studio yard shop".split(),
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday May June July March April".split(),
    strict=True,
)]  # fmt: skip
KINDS = ["repair", "refund", "other"]


def rows_of(count: int = 36, **columns: Any) -> list[dict[str, str]]:
    """Rows whose columns are given by functions of the row's number."""
    return [{name: str(make(number)) for name, make in columns.items()} for number in range(count)]


def sentence(number: int) -> str:
    return f"{SENTENCES[number % 12]} It is case {number}."


def kind(number: int) -> str:
    return KINDS[number * 7 % 3]


def answers_of(texts: list[str]) -> tuple[list[Example], dict[str, Path]]:
    examples = [Example(Input.of("q", f"r{n}"), Message("assistant", text), line=n + 1) for n, text in enumerate(texts)]
    return examples, {example.id: Path("rows.jsonl") for example in examples}


# --- columns ----------------------------------------------------------------------------------------------------------

TABLES = {
    "obvious names": (rows_of(question=sentence, answer=kind), ("question", "answer", None)),
    "arbitrary names": (rows_of(foo=sentence, bar=kind), ("foo", "bar", None)),
    "arbitrary names, answer first": (rows_of(bar=kind, foo=sentence), ("foo", "bar", None)),
    "a number of the row": (rows_of(nr=lambda n: n + 1, a=sentence, b=kind), ("a", "b", "nr")),
    "a ticket key": (rows_of(ticket_id=lambda n: f"T-{n:04}", body=sentence, team=kind), ("body", "team", "ticket_id")),
    "dates that repeat": (
        rows_of(day=lambda n: f"2026-01-{n % 5 + 1:02}", said=sentence, kind=kind),
        ("said", "kind", None),
    ),
    "marks from one to three": (rows_of(review=sentence, x7=lambda n: n % 3 + 1), ("review", "x7", None)),
    "an answer in JSON": (rows_of(p=sentence, q=lambda n: json.dumps({"n": n})), ("p", "q", None)),
    "a confidence beside the label": (
        rows_of(text=sentence, label=kind, confidence=lambda n: f"0.{n}"),
        ("text", "label", None),
    ),
    "two languages": (rows_of(en=sentence, de=lambda n: f"Fall {n}: {SENTENCES[-n % 12]}"), ("en", "de", None)),
    "German names": (rows_of(Nachricht=sentence, Kategorie=kind), ("Nachricht", "Kategorie", None)),
    "Japanese names": (rows_of(分類=kind, 本文=sentence), ("本文", "分類", None)),
    "camel case": (rows_of(createdAt=lambda n: f"{n}:30", customerMessage=sentence, replyType=kind),
                   ("customerMessage", "replyType", None)),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_input_reference_and_id_are_found(name: str) -> None:
    rows, expected = TABLES[name]
    guess = guess_columns(list(rows[0]), rows)
    assert guess is not None
    assert (guess.input, guess.reference, guess.id) == expected
    assert guess.why["input"]
    assert guess.why["reference"]
    assert set(guess.left) == set(rows[0]) - {name for name in expected if name}


def test_a_close_second_is_said_and_a_clear_winner_is_not_doubted() -> None:
    rows = rows_of(one=sentence, two=lambda n: f"Fall {n}: {SENTENCES[-n % 12]}")
    unsure, sure = guess_columns(["one", "two"], rows), guess_columns(["q", "label"], rows_of(q=sentence, label=kind))
    assert unsure is not None
    assert "'two' → 'one'" in unsure.doubt
    assert sure is not None
    assert sure.doubt == ""


def test_a_column_with_gaps_is_no_answer_where_another_is_full() -> None:
    rows = rows_of(said=sentence, maybe=lambda n: kind(n) if n % 2 else "", surely=kind)
    guess = guess_columns(list(rows[0]), rows)
    assert guess is not None
    assert guess.reference == "surely"


@pytest.mark.parametrize(
    "rows",
    [rows_of(text=sentence), rows_of(id=lambda n: n, when=lambda n: f"2026-02-{n % 28 + 1:02}"), [{}], [{"a": "", "b": ""}]],
    ids=["one column", "numbers and dates", "no column", "nothing filled"],
)
def test_where_nothing_can_be_an_answer_there_is_no_guess(rows: list[dict[str, str]]) -> None:
    assert guess_columns(list(rows[0]), rows) is None


def test_named_columns_are_taken_as_named() -> None:
    rows = rows_of(foo=sentence, bar=kind, third=lambda n: f"Note {n}")
    guess = guess_columns(list(rows[0]), rows, input="third", reference="foo")
    assert guess is not None
    assert (guess.input, guess.reference) == ("third", "foo")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.lists(
            st.fixed_dictionaries({name: st.none() | st.text(max_size=9) | st.integers() for name in names}),
            min_size=1,
            max_size=6,
        )
    )
)
def test_any_rows_get_two_different_columns_or_none(rows: list[dict[str, Any]]) -> None:
    guess = guess_columns(list(rows[0]), rows)
    if guess is not None:
        assert guess.input != guess.reference
        assert {guess.input, guess.reference} <= set(rows[0])


# --- closed sets and schemas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "closed"),
    [
        (["a", "b"] * 6, True),
        (["a", "b"] * 6 + ["c"], True),  # one value seen once may be a rare label
        (["a"] * 12, False),
        ([f"name {n}" for n in range(40)], False),
        (["a", "b"] * 20 + [f"n{n}" for n in range(4)], False),  # a tenth of the rows was never seen before
        (["a" * 70, "b"] * 9, False),
        (["one two three four five six seven", "b"] * 9, False),
        (["", "b"] * 9, False),
        ([], False),
    ],
)
def test_a_set_is_closed_when_its_values_are_short_few_and_repeat(values: list[str], closed: bool) -> None:
    found = closed_set(values)
    assert (found is not None) == closed
    assert found is None or set(found) == set(values)


def test_a_schema_has_types_required_keys_enums_and_nulls() -> None:
    values = [
        {"kind": KINDS[n % 3], "order": None if n % 2 else f"PF-{n}", "n": n if n % 4 else 0.5, **({"tags": ["x"]} if n else {})}
        for n in range(30)
    ]
    schema = infer_schema(values)
    assert schema["required"] == ["kind", "order", "n"]
    assert sorted(schema["properties"]["kind"]["enum"]) == sorted(KINDS)
    assert schema["properties"]["order"] == {"type": ["string", "null"]}
    assert schema["properties"]["n"] == {"type": "number"}
    assert schema["properties"]["tags"]["items"]["type"] == "string"
    assert schema["additionalProperties"] is False
    assert not jsonschema_rs.is_valid(schema, {"kind": "new", "order": None, "n": 1})


def test_keys_that_are_data_make_an_open_object() -> None:
    schema = infer_schema([{f"word{n}": n, f"other{n}": n} for n in range(60)])
    assert "properties" not in schema
    assert schema["additionalProperties"] == {"type": "integer"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-9, 9) | st.sampled_from(["a", "b", "ä"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=12))
def test_every_value_is_valid_under_the_schema_made_from_it(values: list[Any]) -> None:
    validator = jsonschema_rs.validator_for(infer_schema(values))
    for value in values:
        assert validator.is_valid(value)


# --- kinds of answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected", "grader"),
    [
        ([kind(n) for n in range(30)], "labels", "labels"),
        ([json.dumps({"kind": kind(n)}) for n in range(12)], "schema", "json_fields"),
        ([json.dumps([n]) for n in range(12)], "schema", "json_fields"),
        ([f"{n * 137 % 99}.5" for n in range(30)], "numbers", "numeric"),
        ([f"in the {SENTENCES[n % 12].split()[4]} {n}" for n in range(30)], "short", "token_f1"),
        ([sentence(n) * 3 for n in range(30)], "long", "chrf"),
        (["same"] * 20, "short", "token_f1"),
        (['"a quoted text"', "7"] * 2, "short", "token_f1"),
    ],
)
def test_the_kind_of_the_answers_decides_the_grader(texts: list[str], expected: str, grader: str) -> None:
    guess = guess_answers(*answers_of(texts))
    assert (guess.kind, guess.graders[0]) == (expected, grader)
    assert guess.why


def test_one_answer_that_is_no_json_among_many_that_are_is_named() -> None:
    texts = [json.dumps({"a": n}) for n in range(10)]
    texts[6] = '{"a": 6'
    with pytest.raises(DataError, match=r"rows\.jsonl:7: 9 of 10 answers are JSON"):
        guess_answers(*answers_of(texts))


def test_labels_seen_once_or_written_two_ways_are_said() -> None:
    guess = guess_answers(*answers_of(["Yes", "no"] * 20 + ["yes"] * 4 + ["noo"]))
    assert guess.kind == "labels"
    assert any("noo" in doubt for doubt in guess.doubts)
    assert any("Yes" in doubt and "yes" in doubt for doubt in guess.doubts)


def test_equal_answers_everywhere_are_said() -> None:
    assert any("the same" in doubt for doubt in guess_answers(*answers_of(["same"] * 20)).doubts)


# --- instruction ------------------------------------------------------------------------------------------------------


def test_the_instruction_speaks_of_columns_whose_names_say_something() -> None:
    labels = guess_answers(*answers_of([kind(n) for n in range(30)]))
    named = guess_instruction(labels, input="customer_message", reference="Kategorie")
    assert "customer message" in named
    assert "its kategorie" in named
    assert all(label in named for label in KINDS)
    plain = guess_instruction(labels, input="prompt", reference="label")
    assert plain.startswith("Read the input and answer with the label that fits")


def test_an_instruction_for_json_names_the_keys_and_one_for_many_labels_does_not_list_them() -> None:
    made = guess_answers(*answers_of([json.dumps({"team": kind(n), "urgent": True}) for n in range(12)]))
    assert "keys team, urgent" in guess_instruction(made)
    many = guess_answers(*answers_of([f"label{n % 40}" for n in range(200)]))
    assert "label7" not in guess_instruction(many)
