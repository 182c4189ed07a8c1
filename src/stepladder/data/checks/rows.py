"""Rows as the checks see them: every row of a file, the broken ones as faults and not as the end of the reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from stepladder.data.checks.finding import Mark, Place
from stepladder.data.readers import table
from stepladder.data.readers.assemble import name_rows, shared_system_text, to_example
from stepladder.data.readers.draft import EMPTY_ANSWER, EMPTY_INPUT, Draft, Row
from stepladder.data.readers.json_lines import ONE_OBJECT, hint_for
from stepladder.data.readers.lines import look_at
from stepladder.data.readers.references import Conformer
from stepladder.data.readers.shapes import Shape, find_shape, read_row
from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.answer import expected_answer
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import Task
from stepladder.domain.text_file import SAVE_AS_UTF8, byte_order_mark

FileKind = Literal["examples", "train", "validation", "test"]
Part = Literal["system", "input", "reference"]


@dataclass(frozen=True, slots=True)
class TextField:
    """One text of a row as it stands in the file. `place` is None where it is not one string there (joined parts, JSON)."""

    part: Part
    role: str
    text: str
    place: Place | None


@dataclass(frozen=True)
class CheckedRow:
    """A row that could be read. `example` carries the reference in canonical form, `fields` the texts as written."""

    file: str
    kind: str  # "examples", "train", "validation" or "test": which key of `[data]` names the file
    line: int
    example: Example
    draft: Draft

    @property
    def id(self) -> str:
        return self.example.id

    @property
    def reference(self) -> str:
        return expected_answer(self.example)

    @cached_property
    def input_text(self) -> str:
        return self.example.input.text

    @cached_property
    def fields(self) -> tuple[TextField, ...]:
        beside = {*self.draft.metadata, "id", "sources", "recorded", "metadata", "tools"}
        places = list(_strings({key: value for key, value in self.draft.row.values.items() if key not in beside}, ()))
        messages = [*self.draft.messages, *([self.draft.reference] if self.draft.reference else [])]
        last = len(messages) - 1 if self.draft.reference else -1
        found = []
        for number, message in enumerate(messages):
            part: Part = "reference" if number == last else "system" if message.role == "system" else "input"
            found.append(TextField(part, message.role, message.content, _take_place(places, message, number == last)))
        return tuple(found)

    @property
    def reference_field(self) -> TextField:
        return self.fields[-1]

    def mark(self, seen: str = "") -> Mark:
        return Mark(self.file, self.line, self.id, seen)


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that a climb would refuse, and why."""

    kind: Literal["broken", "empty", "off-output", "file"]
    file: str
    line: int
    id: str
    problem: str
    hint: str

    def mark(self) -> Mark:
        return Mark(self.file, self.line, self.id, self.problem)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """All rows of a task. Rows that only disagree with `[output]` are in both lists."""

    rows: tuple[CheckedRow, ...]
    faults: tuple[RowFault, ...]
    shared_instruction: str | None


def read_rows(task: Task) -> ReadRows:
    """Every row of the task's files; what the readers would refuse becomes a fault with its line.

    Raises:
        DataError: `[output]` itself is broken, so that no answer can be judged by it.
    """
    conformer = Conformer(task)
    faults: list[RowFault] = []
    drafts: list[tuple[str, str, Draft]] = []
    for kind in get_args(FileKind):
        name = getattr(task.settings.data, kind)
        if name:
            drafts += [(kind, name, draft) for draft in _read_file(task, name, faults)]
    drafts = _with_own_ids(drafts, faults)
    alone = [draft for _, _, draft in drafts]
    shared = shared_system_text(alone) if alone else None
    rows = []
    for (kind, file, draft), name in zip(drafts, name_rows(alone), strict=True):
        try:
            example = to_example(draft, name, shared)
        except DataError as error:
            faults.append(_fault("empty", file, error, name))
            continue
        if (problem := conformer.problem(example)) is None:
            example = conformer.canonical(example)
        else:
            faults.append(RowFault("off-output", file, example.line, name, problem, conformer.hint(example)))
        rows.append(CheckedRow(file, kind, example.line, example, draft))
    return ReadRows(tuple(rows), tuple(faults), shared)


def _read_file(task: Task, name: str, faults: list[RowFault]) -> Iterator[Draft]:
    path = task.path(name)
    try:
        marked = look_at(path, may_be_marked=True)
        if path.suffix.lower() in table.SUFFIXES:
            yield from _read_table(task, path, name, faults)
        else:
            if marked:
                faults.append(_fault("file", name, byte_order_mark(path)))
            yield from _read_json_lines(task, path, name, faults)
    except DataError as error:
        faults.append(_fault("file", name, error))


def _read_table(task: Task, path: Path, name: str, faults: list[RowFault]) -> Iterator[Draft]:
    header, rows = table.read_rows(path, [])
    columns = table.find_columns(path, header, task.settings.data, [], labelled=True)
    for row in rows:
        try:
            yield table.read(row, task.settings.data, columns)
        except DataError as error:
            faults.append(_fault(_kind_of(error), name, error))


def _read_json_lines(task: Task, path: Path, name: str, faults: list[RowFault]) -> Iterator[Draft]:
    first: Shape | None = None
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            row = _parse_line(path, number, raw)
            if row is None:
                continue
            first = first or find_shape(row, task.settings.data)
            yield read_row(row, task.settings.data, first, labelled=True)
        except DataError as error:
            faults.append(_fault(_kind_of(error), name, error))


def _parse_line(path: Path, number: int, raw: bytes) -> Row | None:
    if b"\0" in raw:
        raise DataError(path, number, "a NUL byte.", f"Remove it, or: {SAVE_AS_UTF8}")
    try:
        text = raw.decode("utf-8")
        value = parse_json(text) if text.strip() else None
    except UnicodeDecodeError as error:
        raise DataError(path, number, f"not UTF-8: byte 0x{raw[error.start]:02x}.", SAVE_AS_UTF8) from error
    except JsonFault as error:
        raise DataError(path, number, str(error), hint_for(error, text)) from error
    if not text.strip():
        return None
    if not isinstance(value, dict):
        raise DataError(path, number, "the line is not an object.", ONE_OBJECT)
    return Row(path, number, value)


def _with_own_ids(drafts: list[tuple[str, str, Draft]], faults: list[RowFault]) -> list[tuple[str, str, Draft]]:
    """The rows whose id no earlier row has."""
    first: dict[str, tuple[str, int]] = {}
    kept = []
    for kind, file, draft in drafts:
        if draft.id is not None and (other := first.setdefault(draft.id, (file, draft.row.line))) != (file, draft.row.line):
            problem = f"the id '{draft.id}' stands on {other[0]}:{other[1]} too."
            faults.append(RowFault("broken", file, draft.row.line, draft.id, problem, "Give every row its own id."))
            continue
        kept.append((kind, file, draft))
    return kept


def _kind_of(error: DataError) -> Literal["broken", "empty"]:
    return "empty" if error.problem in (EMPTY_INPUT, EMPTY_ANSWER) else "broken"


def _fault(kind: Literal["broken", "empty", "file"], file: str, error: DataError, id: str = "") -> RowFault:
    return RowFault(kind, file, error.line or 0, id, error.problem, error.hint)


def _strings(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, (*place, index))


def _take_place(places: list[tuple[Place, str]], message: Message, last: bool) -> Place | None:
    """Where a message's words stand in the row. A reference may equal its input, so it is looked for from the end."""
    matching = [entry for entry in places if entry[1] == message.content]
    if not matching:
        return None
    entry = matching[-1] if last else matching[0]
    places.remove(entry)
    return entry[0]
