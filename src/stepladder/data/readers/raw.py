"""A file's rows before anybody has understood them: which container it is, its header, its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from stepladder.data.readers import json_array, json_lines, table
from stepladder.data.readers.draft import Row
from stepladder.data.readers.lines import look_at
from stepladder.domain.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class RawFile:
    """Rows as they stand in a file. `header` only where the file is a table; `rows` may be read once."""

    path: Path
    container: str  # "CSV", "TSV", "JSONL", "JSON", "Parquet", "datasets folder"
    header: tuple[str, ...] | None
    rows: Iterable[Row]
    notes: list[str]  # may grow while the rows are read


def open_rows(path: Path) -> RawFile:
    """The rows of a file of any container; rows of JSON are read as they are asked for.

    Raises:
        DataError: The file cannot be read; names file, line, what is wrong and what to do.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".parquet":
        return _open_arrow(path)
    if suffix in table.SUFFIXES:
        notes = list(look_at(path, may_be_marked=True))
        header, rows = table.read_rows(path, notes)
        return RawFile(path, "CSV" if suffix == ".csv" else "TSV", tuple(header), rows, notes)
    look_at(path)
    if suffix == ".json" and json_array.is_array(path):
        return RawFile(path, "JSON", None, json_array.read_rows(path), [])
    return RawFile(path, "JSONL", None, json_lines.read_rows(path), [])


def _open_arrow(path: Path) -> RawFile:
    if path.is_dir():
        if not looks_like_data(path):
            look_at(path)  # says that it is a folder
        container = "datasets folder"
    else:
        look_at(path)
        container = "Parquet"
    notes: list[str] = []
    return RawFile(path, container, None, _arrow_files().read_rows(path, notes), notes)


def _arrow_files() -> ModuleType:
    try:
        from stepladder.data.readers import arrow_files
    except ModuleNotFoundError as error:
        raise MissingExtra("data", f"{error.name}, which reads Parquet files and `datasets` folders,") from error
    return arrow_files


def given_splits(path: Path) -> dict[str, Path]:
    """Folders of "train", "test" and perhaps "validation" of a saved `DatasetDict` that has the first two; else empty."""
    if not (path / "dataset_dict.json").is_file():
        return {}
    found: dict[str, Path] = _arrow_files().splits_of(path)
    if not {"train", "test"} <= set(found):
        return {}
    return {name: found[name] for name in ("train", "validation", "test") if name in found}


def looks_like_data(folder: Path) -> bool:
    """Whether `datasets` saved this folder, or Parquet files lie in it."""
    marks = ("state.json", "dataset_dict.json")
    return any((folder / name).is_file() for name in marks) or next(folder.rglob("*.parquet"), None) is not None
