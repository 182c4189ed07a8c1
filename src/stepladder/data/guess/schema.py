"""A JSON Schema that a list of JSON values follows: types, keys that are never missing, enums, nothing tighter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stepladder.data.guess.closed import closed_set

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MOST_KEYS = 40
"""More different keys than this, mostly absent from any one object, are data and not fields."""


def infer_schema(values: Sequence[Any]) -> dict[str, Any]:
    """The schema of `values`, at least one; every one of them is valid under it."""
    return {"$schema": DIALECT, **_infer(values)}


def _infer(values: Sequence[Any]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(_kind(value) for value in values))
    if "number" in kinds and "integer" in kinds:
        kinds.remove("integer")
    kinds.sort(key="null".__eq__)  # null last, as people write it
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    if objects := [value for value in values if isinstance(value, dict)]:
        schema |= _infer_object(objects)
    if items := [item for value in values if isinstance(value, list) for item in value]:
        schema["items"] = _infer(items)
    if set(kinds) <= {"string", "null"} and (known := closed_set([value for value in values if value is not None])):
        schema["enum"] = [*known, *([None] if "null" in kinds else [])]
    return schema


def _infer_object(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for value in objects for key in value)
    if len(counts) > MOST_KEYS and 2 * sum(map(len, objects)) < len(counts) * len(objects):
        return {"additionalProperties": _infer([item for value in objects for item in value.values()])}
    fullest = max(objects, key=len)
    keys = list(dict.fromkeys([*fullest, *counts]))
    return {
        "properties": {key: _infer([value[key] for value in objects if key in value]) for key in keys},
        "required": [key for key in keys if counts[key] == len(objects)],
        "additionalProperties": False,
    }


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
