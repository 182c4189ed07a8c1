"""The shapes a file may have. A new one is a file with NAME, EXPECTED, `matches` and `read`, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stepladder.data.readers import alpaca, openai_chat, preference, prompt_completion, sharegpt, table
from stepladder.data.readers.draft import Draft, Row
from stepladder.data.readers.nothing_lost import check_nothing_lost
from stepladder.data.readers.raw import open_rows
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example
from stepladder.domain.task import DataSettings


class _Read(Protocol):
    def __call__(self, row: Row, settings: DataSettings, *, labelled: bool) -> Draft: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows of a JSONL file may be written."""

    name: str
    expected: str
    matches: Callable[[Row, DataSettings], bool]
    complete: Callable[[Row], bool]  # whether a row that matches holds an answer under the shape's own key
    read: _Read
    write: Callable[[Example, DataSettings], dict[str, Any]]  # the row that `read` takes for the example


SHAPES = tuple(  # the first that matches wins
    Shape(module.NAME, module.EXPECTED, module.matches, module.complete, module.read, module.write)
    for module in (openai_chat, sharegpt, preference, alpaca, prompt_completion)
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
    raw = open_rows(path)
    notes: list[str] = []
    if raw.header is not None:
        columns = table.find_columns(path, raw.header, settings, notes, labelled=labelled)
        shape, drafts = raw.container, [table.read(row, settings, columns) for row in raw.rows]
    else:
        shape, drafts = _read_objects(raw.rows, settings, labelled=labelled)
    notes[:0] = raw.notes
    if not drafts:
        raise DataError(path, None, "the file has no rows.", "Add examples; `stepladder label` helps to make the first ones.")
    notes.insert(0, f"{path.name}: {shape}, {len(drafts)} {'row' if len(drafts) == 1 else 'rows'}.")
    metadata = dict.fromkeys(key for draft in drafts for key in draft.metadata)
    if metadata:
        notes.append(f"{path.name}: kept as metadata, not shown to a model: {', '.join(metadata)}.")
    said = dict.fromkeys(note for draft in drafts for note in draft.notes)
    notes.extend(f"{path.name}: {note}" for note in said)
    return DraftFile(path, shape, tuple(drafts), tuple(notes))


def shape_that_fits(row: Row, settings: DataSettings) -> Shape | None:
    """The shape a row that is an object is written in; None for one that no shape knows."""
    return next((shape for shape in SHAPES if shape.matches(row, settings)), None)


def shape_of_itself(row: Row) -> Shape | None:
    """The shape of a row whose own keys say what is input and what the expected answer; None where settings have to."""
    shape = shape_that_fits(row, DataSettings(examples=row.path.name))
    return shape if shape is not None and shape.complete(row) else None


def _read_objects(rows: Iterable[Row], settings: DataSettings, *, labelled: bool) -> tuple[str, list[Draft]]:
    drafts: list[Draft] = []
    first: Shape | None = None
    for row in rows:
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
    shape = shape_that_fits(row, settings)
    if shape is None:
        found = ", ".join(f"'{key}'" for key in list(row.values)[:12]) or "none"
        if settings.input is not None:
            problem = f"the row has no '{settings.input}', which `[data] input` names; its keys are: {found}."
            raise row.fault(problem, "Call the input so in this file, too.")
        expected = " or ".join(shape.expected for shape in SHAPES)
        hint = f"Rows are {expected}; or name your keys by `[data] input` and `reference`."
        raise row.fault(f"no known shape; the keys are: {found}.", hint)
    return shape
