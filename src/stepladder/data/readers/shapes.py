"""The shapes a file may have. A new one is a file with NAME, EXPECTED, `matches` and `read`, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stepladder.data.readers import json_lines, openai_chat, prompt_completion, table
from stepladder.data.readers.draft import Draft, Row
from stepladder.data.readers.lines import look_at
from stepladder.data.readers.nothing_lost import check_nothing_lost
from stepladder.domain.errors import DataError
from stepladder.domain.task import DataSettings


class _Read(Protocol):
    def __call__(self, row: Row, settings: DataSettings, *, labelled: bool) -> Draft: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows of a JSONL file may be written."""

    name: str
    expected: str
    matches: Callable[[Row, DataSettings], bool]
    read: _Read


SHAPES = tuple(  # the first that matches wins
    Shape(module.NAME, module.EXPECTED, module.matches, module.read) for module in (openai_chat, prompt_completion)
)


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A file's rows, understood. `notes` say the guessed shape and everything read in another way than written."""

    path: Path
    shape: str
    drafts: tuple[Draft, ...]
    notes: tuple[str, ...]


def read_drafts(path: Path, settings: DataSettings, *, labelled: bool) -> DraftFile:
    """Read a file of any known shape.

    Raises:
        DataError: Names file, line, what is wrong and what to do.
    """
    notes = list(look_at(path))
    if path.suffix.lower() in table.SUFFIXES:
        shape, drafts = _read_table(path, settings, notes, labelled=labelled)
    else:
        shape, drafts = _read_json_lines(path, settings, labelled=labelled)
    if not drafts:
        raise DataError(path, None, "the file has no rows.", "Add examples; `stepladder label` helps to make the first ones.")
    notes.insert(0, f"{path.name}: {shape}, {len(drafts)} {'row' if len(drafts) == 1 else 'rows'}.")
    metadata = dict.fromkeys(key for draft in drafts for key in draft.metadata)
    if metadata:
        notes.append(f"{path.name}: kept as metadata, not shown to a model: {', '.join(metadata)}.")
    said = dict.fromkeys(note for draft in drafts for note in draft.notes)
    notes.extend(f"{path.name}: {note}" for note in said)
    return DraftFile(path, shape, tuple(drafts), tuple(notes))


def _read_table(path: Path, settings: DataSettings, notes: list[str], *, labelled: bool) -> tuple[str, list[Draft]]:
    header, rows = table.read_rows(path, notes)
    columns = table.find_columns(path, header, settings, notes, labelled=labelled)
    return "TSV" if path.suffix.lower() in (".tsv", ".tab") else "CSV", [table.read(row, settings, columns) for row in rows]


def _read_json_lines(path: Path, settings: DataSettings, *, labelled: bool) -> tuple[str, list[Draft]]:
    drafts: list[Draft] = []
    first: Shape | None = None
    for row in json_lines.read_rows(path):
        first = first or find_shape(row, settings)
        drafts.append(read_row(row, settings, first, labelled=labelled))
    return first.name if first else "", drafts


def read_row(row: Row, settings: DataSettings, first: Shape, *, labelled: bool) -> Draft:
    """One row of a JSONL file that began in the shape `first`.

    Raises:
        DataError: The row has no known shape or another one, or cannot be understood whole.
    """
    shape = find_shape(row, settings)
    if shape is not first:
        problem = f"the row is {shape.name}, but the file began as {first.name}."
        raise row.fault(problem, "Write all rows in one shape, or put them into two files.")
    draft = shape.read(row, settings, labelled=labelled)
    if labelled:
        check_nothing_lost(draft)
    return draft


def find_shape(row: Row, settings: DataSettings) -> Shape:
    """The shape of a row.

    Raises:
        DataError: None that is known.
    """
    shape = next((shape for shape in SHAPES if shape.matches(row, settings)), None)
    if shape is None:
        found = ", ".join(f"'{key}'" for key in list(row.values)[:12]) or "none"
        expected = " or ".join(shape.expected for shape in SHAPES)
        hint = f"Rows are {expected}; or name your keys by `[data] input` and `reference`."
        raise row.fault(f"no known shape; the keys are: {found}.", hint)
    return shape
