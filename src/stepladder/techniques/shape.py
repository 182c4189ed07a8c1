"""The shape of an answer: in words for a prompt, and as a grammar for an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from stepladder.domain.protocols import Grammar
from stepladder.domain.task import Task

Shape = Literal["json", "labels", "regex", "text"]

DEEPEST_SKETCH = 4  # levels of nesting shown; below, the bare type says enough and recursive schemas end


def shape_of(task: Task) -> Shape:
    """Which of the four kinds of answer the task wants."""
    output = task.settings.output
    if output.json_schema is not None:
        return "json"
    if output.labels:
        return "labels"
    return "regex" if output.regex is not None else "text"


def grammar_of(task: Task) -> Grammar | None:
    """The grammar of the task's answers; None for free text."""
    output = task.settings.output
    match shape_of(task):
        case "json":
            return Grammar("json_schema", json.dumps(task.output_schema, ensure_ascii=False))
        case "labels":
            return Grammar("labels", json.dumps(list(output.labels), ensure_ascii=False))
        case "regex":
            return Grammar("regex", output.regex or "")
        case _:
            return None


def show_shape(task: Task) -> str:
    """Allowed labels, the schema in brief, or the pattern; "" for free text."""
    match shape_of(task):
        case "json":
            return f"The answer is one JSON value of this shape:\n{sketch(task.output_schema or {})}"
        case "labels":
            return f"Possible answers: {', '.join(task.settings.output.labels)}"
        case "regex":
            return f"The answer matches this regular expression: {task.settings.output.regex}"
        case _:
            return ""


def list_fields(task: Task) -> str:
    """One line for each field of the schema or each label; "" for other answers."""
    match shape_of(task):
        case "json":
            schema = task.output_schema or {}
            lines = [_field_line(key, value, schema) for key, value in schema.get("properties", {}).items()]
            return "\n".join(["Fields of the JSON answer:", *lines]) if lines else ""
        case "labels":
            return "\n".join(["Choose one of:", *(f"- {label}" for label in task.settings.output.labels)])
        case _:
            return ""


def remind(task: Task) -> str:
    """A last word against chatter around the answer."""
    match shape_of(task):
        case "json":
            return "Reply with the JSON only: no explanation, no code fence."
        case "labels":
            return "Reply with one of the possible answers only, spelled as given."
        case _:
            return "Reply with the answer only: no explanation, no introduction."


def sketch(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, depth: int = 0) -> str:
    """A schema in the form of the value it describes, on one line: `{"size": "small" | "large", "count": integer}`."""
    root = schema if root is None else root
    schema = resolve(schema, root)
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(sketch(option, root, depth + 1) for option in schema[union])
    kinds = schema.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return " | ".join(_sketch_kind(kind, schema, root, depth) for kind in kinds)


def _sketch_kind(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if kind == "object" and depth < DEEPEST_SKETCH and schema.get("properties"):
        fields = (
            f"{json.dumps(key, ensure_ascii=False)}: {sketch(value, root, depth + 1)}"
            for key, value in schema["properties"].items()
        )
        return "{" + ", ".join(fields) + "}"
    if kind == "array" and depth < DEEPEST_SKETCH and isinstance(schema.get("items"), Mapping):
        return f"[{sketch(schema['items'], root, depth + 1)}, ...]"
    return f"string like {schema['pattern']}" if kind == "string" and "pattern" in schema else kind


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow `$ref` inside the same document; a reference elsewhere stays as it is and shows as `any`."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/") and reference not in seen:
        seen.add(reference)
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        schema = target
    return schema


def _field_line(key: str, value: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    resolved = resolve(value, root)
    description = str(value.get("description") or resolved.get("description") or "").strip()
    return f"- {key}: {sketch(value, root, 1)}" + (f" ({description})" if description else "")
