"""A JSON Schema as questions: one a field, with the keys or the kind of text that answers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepladder.domain.output import dump_json
from stepladder.techniques.shape import resolve

ABSENT = object()
"""The value of a field that is left out."""

Kind = Literal["choice", "text", "number", "json"]


@dataclass(frozen=True)
class Field:
    """One property of the answer. `choices` are JSON values; `ABSENT` among them leaves the field out."""

    name: str
    kind: Kind
    choices: tuple[Any, ...] = ()
    nullable: bool = False
    required: bool = True
    whole: bool = False  # numbers: integers only
    description: str = ""

    def show(self, value: Any) -> str:
        """A value as the person reads or edits it; nothing is the empty text."""
        if value is ABSENT or (value is None and self.kind != "choice"):
            return ""
        if self.kind == "text" and isinstance(value, str):
            return value
        return value if self.kind == "choice" and isinstance(value, str) else dump_json(value)

    def read(self, text: str) -> Any:
        """The value that an edited text stands for. Empty = left out, else null, else the empty text.

        Raises:
            ValueError: It is no number, or no JSON.
        """
        if not text.strip() and (self.nullable or not self.required or self.kind != "text"):
            return None if self.nullable else ABSENT
        if self.kind == "text":
            return text
        value = json.loads(text)
        if self.kind == "number" and (isinstance(value, bool) or not isinstance(value, int if self.whole else int | float)):
            raise ValueError("not a number")
        return value


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...] | None:
    """The fields of an object's schema in its order; None when the answer is no object with named properties."""
    root = resolve(schema, schema)
    properties = root.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return None
    required = root.get("required", ())
    return tuple(_field(name, rules, schema, required=name in required) for name, rules in properties.items())


def _field(name: str, rules: Any, root: Mapping[str, Any], *, required: bool) -> Field:
    own = resolve(rules, root) if isinstance(rules, Mapping) else {}
    description = str(own.get("description", "")) if isinstance(own, Mapping) else ""
    own, nullable = _without_null(own, root)
    kinds = own.get("type")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or ())
    nullable = nullable or "null" in kinds
    kinds = [kind for kind in kinds if kind != "null"]
    choices = _choices(own, kinds)
    if choices is not None:
        every = [*choices, *([None] if nullable and None not in choices else []), *([] if required else [ABSENT])]
        return Field(name, "choice", tuple(every), nullable, required, description=description)
    numeric = bool(kinds) and set(kinds) <= {"integer", "number"}
    kind: Kind = "text" if kinds == ["string"] else "number" if numeric else "json"
    return Field(name, kind, (), nullable, required, numeric and "number" not in kinds, description)


def _choices(rules: Mapping[str, Any], kinds: list[str]) -> list[Any] | None:
    if "const" in rules:
        return [rules["const"]]
    if isinstance(rules.get("enum"), list):
        return list(rules["enum"])
    return [True, False] if kinds == ["boolean"] else None


def _without_null(rules: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """A union of one kind and null, as generators of schemas write optional fields, is that kind."""
    for union in ("anyOf", "oneOf"):
        options = [resolve(option, root) for option in rules.get(union, ()) if isinstance(option, Mapping)]
        others = [option for option in options if option.get("type") != "null"]
        if len(others) == 1 and len(options) == 2:
            return others[0], True
    return rules, False
