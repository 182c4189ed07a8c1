"""Frozen records to JSON and back, without loss."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter

Record = TypeVar("Record")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_json(record: object) -> Any:
    """A record (dataclass, tuple, enum, path …) as plain JSON values."""
    return _adapter(type(record)).dump_python(record, mode="json")


def to_line(record: object) -> str:
    """A record as one line of JSON."""
    return json.dumps(to_json(record), ensure_ascii=False)


def from_json(kind: type[Record], value: Any) -> Record:
    """The record of type `kind` that `to_json` wrote.

    Raises:
        pydantic.ValidationError: The value does not have the shape of `kind`.
    """
    record: Record = _adapter(kind).validate_python(value)
    return record
