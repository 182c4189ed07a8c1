"""Examples back into a file of the shape they came in. What was written is read again before it is left: nothing may differ."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.data.readers import prompt_completion, table
from stepladder.data.readers.read import read_file
from stepladder.data.readers.shapes import SHAPES
from stepladder.domain.errors import DataError, MissingExtra, StepladderError, UsageError
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings


def write_examples(
    path: Path | str,
    examples: Sequence[Example],
    shape: str,
    settings: DataSettings | None = None,
    *,
    shared_instruction: str | None = None,
) -> None:
    """Write a file, whole or not at all; its name says what it is: .jsonl, .json, .csv, .tsv, .parquet, or a folder (no suffix).

    Args:
        shape: A name of `ReadResult.shape`, such as "Alpaca"; of no account for tables.
        settings: Which columns or keys are what; those the file will be read with.
        shared_instruction: The system message that reading took out of the rows; it is put back.
    Raises:
        UsageError: There is no such shape.
        DataError: The shape cannot hold these examples without loss; nothing is written.
    """
    path, settings = Path(path), settings or DataSettings(examples=Path(path).name)
    whole = [_with_instruction(example, shared_instruction) for example in examples]
    with tempfile.TemporaryDirectory(prefix="stepladder-write-") as name:
        trial = Path(name) / path.name
        _write(trial, path, whole, shape, settings)
        _compare(trial, path, whole, settings)
        if trial.is_dir():
            with files.new_folder(path) as target:
                for file in trial.iterdir():
                    files.write_bytes(target / file.name, file.read_bytes())
        else:
            files.write_bytes(path, trial.read_bytes())


def _with_instruction(example: Example, shared: str | None) -> Example:
    if shared is None:
        return example
    messages = (Message("system", shared), *example.input.messages)
    return replace(example, input=replace(example.input, messages=messages))


def _write(trial: Path, path: Path, examples: Sequence[Example], shape: str, settings: DataSettings) -> None:
    suffix = path.suffix.lower()
    if suffix in table.SUFFIXES:
        rows = [table.write(example, settings) for example in examples]
        _write_trial(trial, _as_table(rows, "," if suffix == ".csv" else "\t"))
        return
    known = {known.name: known for known in SHAPES}
    if shape not in known:
        raise UsageError(f"'{shape}' is no shape of rows.", f"Choose one of: {', '.join(known)}.")
    objects = [known[shape].write(example, settings) for example in examples]
    if suffix in ("", ".parquet"):
        _write_arrow(trial, path, objects, settings)
    elif suffix == ".json":
        _write_trial(trial, "[\n" + ",\n".join(_line(row) for row in objects) + "\n]\n")
    else:
        _write_trial(trial, "".join(f"{_line(row)}\n" for row in objects))


def _write_trial(path: Path, text: str) -> None:
    path.write_bytes(text.encode())  # need not outlive a power cut


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _as_table(rows: Sequence[Mapping[str, str]], separator: str) -> str:
    header = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows([row.get(key, "") for key in header] for row in rows)
    return buffer.getvalue()


def _write_arrow(trial: Path, path: Path, rows: list[dict[str, Any]], settings: DataSettings) -> None:
    try:
        from stepladder.data import write_arrow
    except ModuleNotFoundError as error:
        raise MissingExtra("data", f"{error.name}, which writes Parquet files and `datasets` folders,") from error
    try:
        write_arrow.write_rows(trial, [prompt_completion.in_one_form(row, rows, settings) for row in rows])
    except write_arrow.BROKEN as error:
        raise DataError(path, None, f"these rows do not fit into columns: {error}.", "Write them as .jsonl.") from error


def _compare(trial: Path, path: Path, examples: Sequence[Example], settings: DataSettings) -> None:
    try:
        result = read_file(trial, settings)
    except StepladderError as error:
        raise DataError(path, None, f"this shape cannot hold these examples ({error}).", "Choose another shape.") from error
    found = [_with_instruction(example, result.shared_instruction) for example in result.examples]
    for number, (given, read) in enumerate(zip(examples, found, strict=False), start=1):
        if replace(given, line=0) != replace(read, line=0):
            problem = f"this shape cannot hold the example '{given.id}' without loss."
            raise DataError(path, number, problem, "Choose another shape, or OpenAI chat.")
    if len(found) != len(examples):
        raise DataError(path, None, f"{len(examples)} examples came back as {len(found)}.", "Choose another shape.")
