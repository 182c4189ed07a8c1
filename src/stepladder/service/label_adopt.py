"""A spreadsheet, or rows of which some have no answer yet: the answered ones become the examples, the others are asked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.data.readers.assemble import name_rows
from stepladder.data.readers.draft import Draft, as_text
from stepladder.data.readers.shapes import read_drafts
from stepladder.data.readers.table import REFERENCE_NAMES
from stepladder.data.readers.table import SUFFIXES as TABLES
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Message
from stepladder.domain.task import DataSettings, Task

INPUTS = Path("labelling", "inputs.jsonl")


@dataclass(frozen=True)
class _Row:
    id: str
    draft: Draft
    answer: str  # "" = none yet
    answer_key: str


def adopt_examples(task: Task) -> tuple[Task, tuple[str, ...]]:
    """The task with an examples file that answers can be added to, and what was done for it.

    A JSONL file in which every row is answered is left as it is. Otherwise its answered rows are copied to a new JSONL file,
    which task.toml names from then on, and its other rows to `labelling/inputs.jsonl`. The old file is not touched.

    Raises:
        DataError: The file cannot be read, or task.toml cannot be changed by a program.
    """
    name = task.settings.data.examples
    path = task.path(name or "")
    if name is None or not path.is_file() or not path.stat().st_size:
        return task, ()
    drafts = read_drafts(path, task.settings.data, labelled=False).drafts
    rows = [_row(draft, own, task.settings.data) for draft, own in zip(drafts, name_rows(drafts), strict=True)]
    answered = [row for row in rows if row.answer.strip()]
    if len(answered) == len(rows) and path.suffix.lower() not in TABLES:
        return task, ()
    open_rows = [row for row in rows if not row.answer.strip()]
    if open_rows:
        kept = task.path(str(INPUTS))
        before = kept.read_text(encoding="utf-8") if kept.exists() else ""
        lines = "".join(_line(_question(row), row, DataSettings(examples=name)) for row in open_rows)
        files.write_text(kept, before if lines in before else before + lines)
    target = _write_answered(task, path, answered)
    task = _point_at(task, target.name if target.parent == task.folder else str(target.relative_to(task.folder).as_posix()))
    said = f"{path.name}: {len(answered)} answered rows now stand in {target.name}, which task.toml names instead"
    return task, (f"{said}; {len(open_rows)} are without an answer.",)


def _row(draft: Draft, name: str, settings: DataSettings) -> _Row:
    values = draft.row.values
    turns = values.get("messages")
    if isinstance(turns, list) and turns:
        last = turns[-1]
        answer = last.get("content") if last.get("role") == "assistant" else ""
        if last.get("tool_calls"):
            raise draft.row.fault("the answer is a tool call, which cannot be labelled here.", "Leave such rows out.")
        return _Row(name, draft, as_text(answer or ""), "messages")
    key = settings.reference or next((key for key in values if key.lower() in REFERENCE_NAMES), "completion")
    value = values.get(key)
    return _Row(name, draft, "" if value is None else as_text(value), key)


def _write_answered(task: Task, path: Path, rows: Sequence[_Row]) -> Path:
    """The answered rows as JSONL beside the old file; a file of an earlier, broken-off attempt is used again."""
    data = task.settings.data
    text = "".join(_line(_pair(row, data), row, data) for row in rows)
    number, target = 1, path.with_name(f"{path.stem}.labelled.jsonl")
    while target.exists() and target.read_text(encoding="utf-8") != text:
        number += 1
        target = path.with_name(f"{path.stem}.labelled-{number}.jsonl")
    files.write_text(target, text)
    return target


def _question(row: _Row) -> dict[str, Any]:
    return {"messages": [message.as_chat() for message in row.draft.messages]}


def _pair(row: _Row, data: DataSettings) -> dict[str, Any]:
    turns = row.draft.messages
    asked: Any = turns[0].content if turns == (Message("user", turns[0].content),) else [turn.as_chat() for turn in turns]
    return {data.input or "prompt": asked, data.reference or "completion": row.answer}


def _line(said: dict[str, Any], row: _Row, data: DataSettings) -> str:
    draft = row.draft
    beside = {
        "tools": list(draft.tools),
        "sources": list(draft.sources),
        "recorded": draft.recorded,
        "metadata": {key: value for key, value in draft.metadata.items() if key != row.answer_key},
    }
    line = {data.id or "id": row.id, **said, **{key: value for key, value in beside.items() if value}}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _point_at(task: Task, name: str) -> Task:
    """Change `[data] examples` in task.toml and nothing else.

    Raises:
        DataError: The file is written in a way that this cannot change safely; it is not touched then.
    """
    path = task.path("task.toml")
    text = path.read_text(encoding="utf-8")
    found = re.search(r"^\[data\][^\n]*\n(?:(?!\[).*\n)*?[ \t]*examples[ \t]*=[ \t]*(\"[^\"\n]*\"|'[^'\n]*')", text, re.MULTILINE)
    if found is not None:
        changed = text[: found.start(1)] + json.dumps(name, ensure_ascii=False) + text[found.end(1) :]
        files.write_text(path, changed)
        try:
            pointed = Task.load(task.folder)
            if pointed.settings.data == task.settings.data.model_copy(update={"examples": name}):
                return pointed
        except DataError:
            pass
        files.write_text(path, text)
    raise DataError(path, None, "`[data] examples` could not be changed here.", f"Set it to {json.dumps(name)} yourself.")
