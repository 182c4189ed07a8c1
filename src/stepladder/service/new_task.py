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
from stepladder.service.task_file import TaskText, write_toml

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
    text = TaskText(
        name=folder.resolve().name or "task",
        heading=("Written by `stepladder label` from your answers.",),
        instruction=new.instruction,
        above="",
        data={"examples": EXAMPLES_FILE},
        graders=(),
        why={"examples": "written by `stepladder label`", "output": "no labels and no fields were given"},
        schema=None if new.schema is None else SCHEMA_FILE,
        labels=new.labels,
        model=None if new.base == STARTER else new.base,
    )
    if new.schema is not None:
        files.write_text(folder / SCHEMA_FILE, json.dumps(new.schema, ensure_ascii=False, indent=2) + "\n")
    files.write_text(path, write_toml(text))
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
