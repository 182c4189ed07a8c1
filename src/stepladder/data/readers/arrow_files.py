"""Rows of Parquet files and of folders that Hugging Face `datasets` saved, by pyarrow alone; they count from 1, as lines do."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stepladder.data.readers.draft import Row
from stepladder.data.readers.strict_json import JsonFault, check_texts, parse_json
from stepladder.domain.errors import DataError

BATCH_ROWS = 1024
NAN_NOTE = "numbers that are NaN were read as missing."
CLASS_NOTE = "class numbers were read as their names: "
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)


def read_rows(path: Path, notes: list[str]) -> Iterator[Row]:
    """Every row of a Parquet file, or of a folder of one split.

    Raises:
        DataError: A file is broken, a column holds what JSON cannot say, or a folder holds several splits.
    """
    said: set[str] = set()
    number = 0
    for file in files_of(path) if path.is_dir() else [path]:
        try:
            for batch in _batches(file):
                classes = _class_names(batch.schema)
                if classes and not said:
                    notes.append(f"{path.name}: {CLASS_NOTE}{', '.join(classes)}.")
                    said.update(classes)
                for values in batch.to_pylist():
                    number += 1
                    yield Row(path, number, _plain_row(path, number, values, classes, notes))
        except BROKEN as error:
            raise DataError(file, None, f"cannot be read: {_short(error)}.", "Write the file again.") from error


def files_of(folder: Path) -> list[Path]:
    """Data files of a folder that holds one split: what `save_to_disk` wrote, or Parquet files."""
    splits = splits_of(folder)
    if len(splits) > 1:
        raise DataError(
            folder, None, f"holds several splits: {', '.join(splits)}.", f"Name one, such as {folder.name}/{next(iter(splits))}."
        )
    if splits:
        return files_of(next(iter(splits.values())))
    if (folder / "state.json").is_file():
        state = _read_json(folder / "state.json")
        try:
            return [folder / Path(file["filename"]).name for file in state["_data_files"]]
        except (KeyError, TypeError) as error:
            raise DataError(folder / "state.json", None, "names no data files.", "Save the dataset again.") from error
    found = sorted(folder.rglob("*.parquet"))
    kinds = {path.stem.split("-")[0] for path in found}
    if len(kinds) > 1:
        raise DataError(folder, None, f"holds several Parquet files: {', '.join(sorted(kinds))}.", "Name one of them.")
    if not found:
        raise DataError(folder, None, "is a folder, not a file.", "Name the file inside it.")
    return found


def splits_of(folder: Path) -> dict[str, Path]:
    """Folders of a saved `DatasetDict` by split; empty for anything else."""
    if not (folder / "dataset_dict.json").is_file():
        return {}
    names = _read_json(folder / "dataset_dict.json").get("splits")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(folder / "dataset_dict.json", None, "names no splits.", "Save the dataset again.")
    return {name: folder / Path(name).name for name in names}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (JsonFault, OSError, UnicodeDecodeError) as error:
        raise DataError(path, None, f"cannot be read: {_short(error)}.", "Save the dataset again.") from error
    if not isinstance(value, dict):
        raise DataError(path, None, "is no JSON object.", "Save the dataset again.")
    return value


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as opened:
            yield from opened.iter_batches(batch_size=BATCH_ROWS)
        return
    with pa.memory_map(str(file)) as source:
        try:
            yield from pa.ipc.open_stream(source)
            return
        except pa.ArrowInvalid:
            opened = pa.ipc.open_file(source)
        for index in range(opened.num_record_batches):
            yield opened.get_batch(index)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of `datasets` classes by column; a class is stored as its number."""
    told = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(told)["info"]["features"] if told else {}
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # a note for another program; numbers stay numbers


def _plain_row(
    path: Path, number: int, values: Mapping[str, Any], classes: Mapping[str, list[str]], notes: list[str]
) -> dict[str, Any]:
    try:
        row = {key: _plain(value, key) for key, value in values.items()}
        check_texts(row)
        for key, names in classes.items():
            value = row.get(key)
            row[key] = names[value] if isinstance(value, int) and 0 <= value < len(names) else None
        for holder in (row, row.get("input")):
            if isinstance(holder, dict) and isinstance(holder.get("tools"), str):
                holder["tools"] = parse_json(holder["tools"])
    except JsonFault as fault:
        raise DataError(path, number, str(fault), "Change the column, or leave it out.") from fault
    note = f"{path.name}: {NAN_NOTE}"
    if note not in notes and any(isinstance(value, float) and math.isnan(value) for value in values.values()):
        notes.append(note)
    return row


def _plain(value: Any, place: str) -> Any:
    """A value as JSON would hold it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if math.isinf(value):
                raise JsonFault(f"'{place}' holds an infinite number.")
            return None if math.isnan(value) else value
        case dict():
            return {key: _plain(item, f"{place}.{key}") for key, item in value.items()}
        case list():
            return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case _:
            raise JsonFault(f"'{place}' holds {type(value).__name__}, which is no text, number or list of these.")


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["it is broken"])[0].rstrip(".")
