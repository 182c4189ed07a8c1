"""A file's rows before anybody has understood them: which container it is, its header, its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stepladder.data.readers import json_lines, table
from stepladder.data.readers.draft import Row
from stepladder.data.readers.lines import look_at


@dataclass(frozen=True, slots=True)
class RawFile:
    """Rows as they stand in a file. `header` only where the file is a table; `rows` may be read once."""

    path: Path
    container: str  # "CSV", "TSV", "JSONL"
    header: tuple[str, ...] | None
    rows: Iterable[Row]
    notes: tuple[str, ...]


def open_rows(path: Path) -> RawFile:
    """The rows of a file of any container; rows of JSON are read as they are asked for.

    Raises:
        DataError: The file cannot be read; names file, line, what is wrong and what to do.
    """
    notes = list(look_at(path))
    suffix = path.suffix.lower()
    if suffix in table.SUFFIXES:
        header, rows = table.read_rows(path, notes)
        return RawFile(path, "CSV" if suffix == ".csv" else "TSV", tuple(header), rows, tuple(notes))
    return RawFile(path, "JSONL", None, json_lines.read_rows(path), tuple(notes))
