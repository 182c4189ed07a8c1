"""CSV and TSV: one row a line (or several, in quotes), columns named in `[data]` or guessed from obvious names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz import process

from stepladder.data.readers.draft import Draft, Row, read_beside, recorded_column
from stepladder.data.readers.lines import numbered_lines
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings

SUFFIXES = {".csv", ".tsv", ".tab"}
INPUT_NAMES = ("input", "prompt", "question", "text", "message")
REFERENCE_NAMES = ("reference", "completion", "output", "answer", "label")
LONGEST_CELL = 16 * 1024 * 1024  # characters; an unclosed quote must not swallow the memory


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column means what."""

    input: str
    reference: str | None


def read_rows(path: Path, notes: list[str]) -> tuple[list[str], list[Row]]:
    """Header and rows; a row's line is the one it begins on.

    Raises:
        DataError: No header, a column twice, an open quote, or a row with more or fewer cells than the header.
    """
    lines = _Lines(path)
    with _long_cells():
        header_line = next(lines, "")
        if "\r" in header_line.rstrip("\r\n"):
            problem = "the lines end in a carriage return alone, as on old Macs."
            raise DataError(path, 1, problem, "Save it again as CSV UTF-8, with the line ends of today.")
        separator = _separator(path, header_line)
        if separator != "," and path.suffix.lower() == ".csv":
            notes.append(f"{path.name}: columns are separated by {'a tab' if separator == chr(9) else repr(separator)}.")
        header = _header(path, header_line, separator)
        return header, list(_body(path, lines, header, separator))


def separator(path: Path) -> str:
    """What parts the columns of a file, by its suffix and its header."""
    return _separator(path, next(_Lines(path), ""))


def find_columns(path: Path, header: Sequence[str], settings: DataSettings, notes: list[str], *, labelled: bool) -> Columns:
    """The columns of input and reference: as `[data]` names them, else by obvious names, which is said."""
    for key in ("input", "id", "reference"):
        named = getattr(settings, key)
        if named is not None and named not in header and (labelled or key != "reference"):
            raise _no_column(path, header, key, named)
    found = Columns(
        input=settings.input or _guess(path, header, "input", INPUT_NAMES, notes),
        reference=(settings.reference or _guess(path, header, "reference", REFERENCE_NAMES, notes)) if labelled else None,
    )
    if found.input == found.reference:
        raise DataError(path, 1, f"input and reference are the same column '{found.input}'.", "Correct `[data]`.")
    return found


def read(row: Row, settings: DataSettings, columns: Columns) -> Draft:
    """One row of a table; a cell `sources` may name several documents, separated by semicolons."""
    values = {key: value for key, value in row.values.items() if value != "" or key in (columns.input, columns.reference)}
    if "sources" in values:
        values["sources"] = [source.strip() for source in values["sources"].split(";") if source.strip()]
    given = Row(row.path, row.line, values)
    used = {columns.input} | ({columns.reference} if columns.reference else set())
    beside = read_beside(given, settings, used)
    reference = Message("assistant", values[columns.reference], weight=1.0) if columns.reference else None
    return Draft(row=row, messages=(Message("user", values[columns.input]),), reference=reference, **beside)


def write(example: Example, settings: DataSettings) -> dict[str, str]:
    """The cells, by column, of the row that `read` takes for `example`."""
    row = {
        settings.id or "id": example.id,
        settings.input or INPUT_NAMES[0]: example.input.messages[-1].content,
        settings.reference or REFERENCE_NAMES[0]: example.reference.content,
    }
    if example.sources:
        row["sources"] = "; ".join(example.sources)
    if example.recorded is not None:
        row[recorded_column(settings)] = example.recorded
    return {**example.metadata, **row}


class _Lines:
    """Lines for `csv.reader`, which does not say where a row began: `number` is the line given out last."""

    def __init__(self, path: Path) -> None:
        self._lines = numbered_lines(path)
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number, text = next(self._lines)
        return text


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _separator(path: Path, header: str) -> str:
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    return max(",;\t|", key=header.count)  # the first of equals, so a comma when in doubt


def _header(path: Path, line: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise DataError(path, 1, f"the header cannot be read: {error}.", "Close the quotes.") from error
    header = [cell.strip() or f"column {index}" for index, cell in enumerate(cells, start=1)]
    if not any(cell.strip() for cell in cells):
        raise DataError(path, 1, "there is no header.", "The first line names the columns.")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(path, 1, f"the column '{twice}' stands twice in the header.", "Rename one of them.")
    return header


def _body(path: Path, lines: _Lines, header: list[str], separator: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        begins = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                path, begins, f"the row cannot be read: {error}.", "Close the quotes, and double those inside."
            ) from error
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problem = f"the row has {len(cells)} cells, the header {len(header)}."
            raise DataError(path, begins, problem, f"Put quotes around cells that contain {separator!r}.")
        yield Row(path, begins, dict(zip(header, cells, strict=True)))


def _guess(path: Path, header: Sequence[str], meaning: str, names: Sequence[str], notes: list[str]) -> str:
    lowered = {name.lower(): name for name in reversed(header)}
    found = next((lowered[name] for name in names if name in lowered), None)
    if found is None:
        problem = f"no column is named like an {meaning}." if meaning == "input" else f"no column is named like a {meaning}."
        raise DataError(path, 1, problem, f"Set `[data] {meaning}` to one of: {', '.join(header)}.")
    notes.append(f"{path.name}: the column '{found}' is the {meaning}.")
    return found


def _no_column(path: Path, header: Sequence[str], key: str, named: str) -> DataError:
    closest = process.extractOne(named, header)
    meant = f" Did you mean '{closest[0]}'?" if closest and closest[1] >= 60 else ""
    return DataError(path, 1, f"there is no column '{named}' (`[data] {key}`).{meant}", f"Columns are: {', '.join(header)}.")
