"""JSON answers, reported apart: does it parse, does it follow the schema, and are the values right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
import numpy as np
from scipy.optimize import linear_sum_assignment

from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded

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
        reference = _parse(example.reference.content)
        if reference is _UNPARSEABLE:
            return Ungraded("the reference is not JSON")
        given = _parse(answer)
        return Score(0.0 if given is _UNPARSEABLE else _f1(given, reference))

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """`parses`, `valid` (only with a schema), `field_f1` (micro: over the fields of all rows), `exact` (all fields right)."""
        rows = [
            (_parse(answer), reference)
            for example, answer in zip(examples, answers, strict=True)
            if (reference := _parse(example.reference.content)) is not _UNPARSEABLE
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
        _size(value)  # a tree too deep to walk counts as unparseable, here rather than in the middle of a comparison
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
        return 0, 0, _size(reference)
    try:
        return _overlap(given, reference), _size(given), _size(reference)
    except RecursionError:
        return 0, 0, _size(reference)


def _size(value: Any) -> int:
    if isinstance(value, dict | list) and value:
        children = value.values() if isinstance(value, dict) else value
        return sum(_size(child) for child in children)
    return 1


def _overlap(given: Any, reference: Any) -> int:
    """Number of leaves that both trees share."""
    if isinstance(given, dict) and isinstance(reference, dict) and given and reference:
        return sum(_overlap(given[key], reference[key]) for key in given.keys() & reference.keys())
    if isinstance(given, list) and isinstance(reference, list) and given and reference:
        return _list_overlap(given, reference)
    return int(_same(given, reference))


def _list_overlap(given: list[Any], reference: list[Any]) -> int:
    """Shared leaves under the best pairing of the elements."""
    shared = np.array([[_overlap(mine, theirs) for theirs in reference] for mine in given])
    rows, columns = linear_sum_assignment(shared, maximize=True)
    return int(shared[rows, columns].sum())


def _same(given: Any, reference: Any) -> bool:
    if isinstance(given, str) and isinstance(reference, str):
        return given.strip() == reference.strip()
    if isinstance(given, bool) or isinstance(reference, bool):  # Python takes True for 1, JSON does not
        return given is reference
    return bool(given == reference)
