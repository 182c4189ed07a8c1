"""The smallest task.toml that a few answers of a person make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.domain.errors import UsageError
from stepladder.domain.task import ModelSettings, Task

SCHEMA_FILE = "answer.schema.json"
EXAMPLES_FILE = "examples.jsonl"
STARTER = ModelSettings().base


@dataclass(frozen=True)
class NewTask:
    """What a person wants done. Free text when there are neither labels nor a schema."""

    instruction: str
    labels: tuple[str, ...] = ()
    schema: dict[str, Any] | None = field(default=None)
    base: str = STARTER


def write_new_task(folder: Path, new: NewTask) -> Task:
    """Write `task.toml` (and the schema) into a folder that has none, and read it back.

    Raises:
        UsageError: There is a task already. DataError: An answer makes no valid task; nothing is left behind then.
    """
    path = folder / "task.toml"
    if path.exists():
        raise UsageError(f"{path} exists.", "Edit it, or choose another folder.")
    lines = [
        f"name = {_quoted(folder.resolve().name or 'task')}",
        f"instruction = {_quoted(new.instruction)}",
        "",
        "[data]",
        f"examples = {_quoted(EXAMPLES_FILE)}  # written by `stepladder label`",
    ]
    if new.labels or new.schema is not None:
        lines += ["", "[output]"]
        lines += [f"labels = [{', '.join(map(_quoted, new.labels))}]"] if new.labels else [f"schema = {_quoted(SCHEMA_FILE)}"]
    if new.base != STARTER:
        lines += ["", "[model]", f"base = {_quoted(new.base)}"]
    if new.schema is not None:
        files.write_text(folder / SCHEMA_FILE, json.dumps(new.schema, ensure_ascii=False, indent=2) + "\n")
    files.write_text(path, "\n".join(lines) + "\n")
    try:
        return Task.load(folder)
    except Exception:
        path.unlink()
        raise


def schema_of(fields: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema of fields as people write them: "product", "count: number", "urgent: yes/no", "size: small, large".

    Every field is required; a text or a number may be null, since an input does not always say it.

    Raises:
        UsageError: A field has no name, or one stands twice.
    """
    properties: dict[str, Any] = {}
    for written in fields:
        name, _, kind = (part.strip() for part in written.partition(":"))
        if not name or name in properties:
            raise UsageError(f"'{written}' is no new field.", "Write NAME, NAME: number, NAME: yes/no, or NAME: one, two, three.")
        properties[name] = _rules(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def _rules(kind: str) -> dict[str, Any]:
    if kind.casefold() in ("yes/no", "yes, no", "true/false", "true, false"):
        return {"type": "boolean"}
    if kind.casefold() == "number":
        return {"type": ["number", "null"]}
    choices = list(dict.fromkeys(choice.strip() for choice in kind.split(",") if choice.strip()))
    return {"type": "string", "enum": choices} if len(choices) > 1 else {"type": ["string", "null"]}


def _quoted(text: str) -> str:
    """A TOML string. JSON's escapes are TOML's too, but for the one control character that JSON leaves bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
