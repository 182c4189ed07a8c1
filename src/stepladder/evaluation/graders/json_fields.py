"""JSON answers, reported apart: does it parse, does it follow the schema, and are the values right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.evaluation.graders.json_tree import leaves, overlap

_UNPARSEABLE = object()


class JsonFields:
    """F1 over the values of all fields; an answer that is not JSON scores 0, since writing JSON is the model's part.

    A field is a leaf of the JSON tree: a string, number, true, false, null, `[]` or `{}`. It is right when the reference has
    the same value under the same keys: strings equal after outer white space is removed, numbers by value (1 = 1.0), true is
    not 1. Lists are compared without order: their elements are paired so that most fields agree. Text around the JSON, a code
    fence included, makes the answer unparseable: a program could not read it either.
    F1 = 2 · right fields / (fields of the answer + fields of the reference).
    """

    name = "json_fields"

    def __init__(self, schema: Mapping[str, Any] | None = None) -> None:
        self._validator = None if schema is None else jsonschema_rs.validator_for(dict(schema))

    def grade(self, example: Example, answer: str) -> Grade:
        reference = _parse(expected_answer(example))
        if reference is _UNPARSEABLE:
            return Ungraded("the reference is not JSON")
        given = _parse(answer)
        return Score(0.0 if given is _UNPARSEABLE else _f1(given, reference))

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """`parses`, `valid` (only with a schema), `field_f1` (micro: over the fields of all rows), `exact` (all fields right)."""
        rows = [
            (_parse(answer), reference)
            for example, answer in zip(examples, answers, strict=True)
            if (reference := _parse(expected_answer(example))) is not _UNPARSEABLE
        ]
        if not rows:
            return {}
        parsed = [given for given, _ in rows if given is not _UNPARSEABLE]
        counts = [_counts(given, reference) for given, reference in rows]
        right, given_fields, reference_fields = (sum(column) for column in zip(*counts, strict=True))
        report = {
            "parses": len(parsed) / len(rows),
            "field_f1": 2 * right / (given_fields + reference_fields),
            "exact": sum(hits == mine == theirs for hits, mine, theirs in counts) / len(rows),
        }
        if self._validator is not None:
            report["valid"] = sum(self._is_valid(given) for given in parsed) / len(rows)
        return report

    def _is_valid(self, given: Any) -> bool:
        assert self._validator is not None
        try:
            return bool(self._validator.is_valid(given))
        except (ValueError, RecursionError):  # numbers and depths the validator does not take
            return False


def _parse(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        leaves(value)  # a tree too deep to walk counts as unparseable, here rather than in the middle of a comparison
    except (ValueError, RecursionError):
        return _UNPARSEABLE
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _f1(given: Any, reference: Any) -> float:
    right, mine, theirs = _counts(given, reference)
    return 2 * right / (mine + theirs)


def _counts(given: Any, reference: Any) -> tuple[int, int, int]:
    """Right fields, fields of the answer, fields of the reference."""
    if given is _UNPARSEABLE:
        return 0, 0, leaves(reference)
    try:
        return overlap(given, reference), leaves(given), leaves(reference)
    except RecursionError:
        return 0, 0, leaves(reference)
