"""A schema as questions."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.errors import UsageError
from stepladder.service.label_fields import ABSENT, Field, fields_of
from stepladder.service.new_task import schema_of

DEFINITIONS = {"size": {"enum": ["small", "large"]}}


@pytest.mark.parametrize(
    ("rules", "kind", "choices"),
    [
        ({"enum": ["a", "b"]}, "choice", ("a", "b")),
        ({"enum": ["a", None]}, "choice", ("a", None)),
        ({"type": ["string", "null"], "enum": ["a"]}, "choice", ("a", None)),
        ({"type": "boolean"}, "choice", (True, False)),
        ({"type": ["boolean", "null"]}, "choice", (True, False, None)),
        ({"const": 3}, "choice", (3,)),
        ({"$ref": "#/$defs/size"}, "choice", ("small", "large")),
        ({"anyOf": [{"$ref": "#/$defs/size"}, {"type": "null"}]}, "choice", ("small", "large", None)),
        ({"type": "string"}, "text", ()),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text", ()),
        ({"type": "integer"}, "number", ()),
        ({"type": "array"}, "json", ()),
        ({}, "json", ()),
        (True, "json", ()),
    ],
)
def test_each_kind_of_field_is_asked_in_its_way(rules: Any, kind: str, choices: tuple[Any, ...]) -> None:
    found = fields_of({"type": "object", "required": ["f"], "properties": {"f": rules}, "$defs": DEFINITIONS})
    assert found is not None
    assert (found[0].kind, found[0].choices) == (kind, choices)


def test_a_field_that_is_not_required_may_be_left_out() -> None:
    (field,) = fields_of({"properties": {"f": {"type": "boolean"}}}) or ()
    assert field.choices == (True, False, ABSENT)


def test_an_answer_that_is_no_object_has_no_fields() -> None:
    assert fields_of({"type": "array"}) is None
    assert fields_of({"type": "object"}) is None


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back_as_it_was_shown(value: float) -> None:
    field = Field("f", "number")
    assert field.read(field.show(value)) == value


@given(st.text(min_size=1).filter(str.strip))
def test_a_text_comes_back_as_it_was_shown(value: str) -> None:
    field = Field("f", "text", nullable=True)
    assert field.read(field.show(value)) == value


@pytest.mark.parametrize(("text", "whole"), [("1.5", True), ("true", False), ('"1"', False), ("one", False)])
def test_what_is_no_number_is_refused(text: str, whole: bool) -> None:
    with pytest.raises(ValueError, match=r"."):
        Field("f", "number", whole=whole).read(text)


def test_an_empty_text_is_null_where_null_is_allowed_else_left_out_else_empty() -> None:
    assert Field("f", "text", nullable=True).read(" ") is None
    assert Field("f", "text", required=False).read("") is ABSENT
    assert Field("f", "text").read("") == ""
    assert Field("f", "json").read("") is ABSENT


def test_fields_as_people_write_them_become_a_schema() -> None:
    schema = schema_of(["product", "count: number", "urgent: Yes/No", "size: small, large"])
    good = {"product": None, "count": 2, "urgent": True, "size": "small"}
    assert jsonschema_rs.is_valid(schema, good)
    for wrong in ({"count": "2"}, {"urgent": "yes"}, {"size": "medium"}, {"colour": "red"}):
        assert not jsonschema_rs.is_valid(schema, {**good, **wrong})
    assert list(schema["properties"]) == ["product", "count", "urgent", "size"]


@pytest.mark.parametrize("fields", [[""], [": number"], ["a", "a: number"]])
def test_a_field_without_a_name_of_its_own_is_refused(fields: list[str]) -> None:
    with pytest.raises(UsageError, match="no new field"):
        schema_of(fields)
