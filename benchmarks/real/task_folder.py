"""What the builders of real task folders share: where things lie, drawing without near-duplicates, writing a folder whole."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stepladder.domain.errors import DataError, StepladderError
from stepladder.domain.task import Task
from stepladder.files import new_folder, write_text

REPOSITORY = Path(__file__).resolve().parents[2]
DATASETS = REPOSITORY.parent / "shared" / "datasets"
WORK = REPOSITORY / "benchmarks" / "work"  # ignored by git: rows of public data are never committed
DUPLICATE_JACCARD = 0.8  # the same bound as the split of a climb


def data_file(datasets: Path, name: str, *, source: str) -> Path:
    """`datasets / name`, which must exist.

    Raises:
        DataError: It does not; the message says where the data set comes from.
    """
    path = datasets / name
    if not path.exists():
        raise DataError(path, None, "this public data set is not here.", f"Get it from {source}, or give --datasets FOLDER.")
    return path


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        DataError: A line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(path, number, f"not JSON: {error}.", "Download the file again.") from error
        if not isinstance(row, dict):
            raise DataError(path, number, "not a JSON object.", "Download the file again.")
        rows.append(row)
    return rows


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def shingles(text: str) -> frozenset[str]:
    """Character 5-grams of the text in lower case, white space made single; a shorter text is its own only one."""
    flat = " ".join(text.lower().split())
    return frozenset(flat[start : start + 5] for start in range(max(1, len(flat) - 4)))


def is_near_duplicate(candidate: frozenset[str], others: Iterable[frozenset[str]]) -> bool:
    """Whether the Jaccard similarity to any other reaches `DUPLICATE_JACCARD`."""
    return any(len(candidate & other) >= DUPLICATE_JACCARD * len(candidate | other) for other in others)


def write_task_folder(folder: Path, task_toml: str, files: Mapping[str, str]) -> Path:
    """Write a task folder, whole or not at all, after checking that Stepladder can read its settings."""
    with new_folder(folder) as fresh:
        write_text(fresh / "task.toml", task_toml)
        for name, text in files.items():
            write_text(fresh / name, text)
        Task.load(fresh)
    return folder


def run_builder(build: Callable[[Path, Path], Path], name: str, description: str | None) -> None:
    """The command line of one builder: `build(datasets, folder)`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    arguments = parser.parse_args()
    try:
        folder = build(arguments.datasets, WORK / name)
    except StepladderError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from error
    print(f"{folder.relative_to(REPOSITORY)} written")
