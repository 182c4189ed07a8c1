"""`splits.json`: which row belongs where, for ever, and how often the test rows were looked at."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepladder.data.readers.lines import look_at
from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.errors import DataError
from stepladder.domain.task import Task
from stepladder.files import hash_json, write_text

FILE = "splits.json"
FORMAT = 1
WAY_OUT = (
    "Bring back the file as Stepladder wrote it (a backup, version control), or delete it to split anew: then earlier test "
    "results count no longer."
)

Split = Literal["train", "validation", "test"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Place(_Record):
    """Where a row belongs. `input` and `content` are hashes of its question and of the whole row when last seen.

    `opened` = the number of the opening that was the first to ask it as a test row, from 1. `learned` = a test row of the user's
    own file that learned or chose in an earlier climb.
    """

    split: Split
    fold: int | None = Field(None, ge=0)
    held_out: bool = False
    input: str
    content: str
    opened: int | None = Field(None, ge=1)
    learned: bool = False


class Opening(_Record):
    """One look at the test rows by one run."""

    run: str
    date: str  # of the day, UTC
    test_rows: int = Field(ge=0)  # how many there were


class SplitFile(_Record):
    """The whole file. Rows that left the data keep their place, in case they come back.

    `aside` = rows of the last split that counted nowhere; None in files of versions that did not note them.
    """

    seed: int
    rows: Mapping[str, Place]
    openings: tuple[Opening, ...] = ()
    aside: tuple[str, ...] | None = None

    def openings_of(self, ids: Iterable[str]) -> tuple[Opening, ...]:
        """The openings that saw at least half of these rows, and those of versions that did not note which rows they saw.

        A row that was asked once is taken to have been asked at every later opening, too.
        """
        asked = list(ids)
        first = sorted(place.opened for name in asked if (place := self.rows.get(name)) and place.opened)
        noted_from = min((place.opened for place in self.rows.values() if place.opened), default=len(self.openings) + 1)
        half = -(-len(asked) // 2)
        seen_from = first[half - 1] if len(first) >= half > 0 else len(self.openings) + 1
        return tuple(one for number, one in enumerate(self.openings, 1) if number < noted_from or number >= seen_from)


def load_split_file(task: Task) -> SplitFile | None:
    """The task's `splits.json`; None before the first split.

    Raises:
        DataError: The file is broken, or was changed by hand.
    """
    path = _path(task)
    if not path.exists():
        return None
    look_at(path)
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except (JsonFault, UnicodeDecodeError) as error:
        raise DataError(path, None, f"{error}" if isinstance(error, JsonFault) else "not UTF-8.", WAY_OUT) from error
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise DataError(path, None, f"not a split file of format {FORMAT}.", WAY_OUT)
    checksum = raw.pop("checksum", None)
    if checksum != hash_json(raw):
        raise DataError(path, None, "the file was changed by hand or is damaged.", WAY_OUT)
    try:
        return SplitFile.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(path, None, f"'{place}': {fault['msg']}.", WAY_OUT) from error


def save_split_file(task: Task, file: SplitFile) -> None:
    """Write `splits.json` in one step, one row a line; leaves an equal file alone."""
    text = _render(file)
    path = _path(task)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def record_opening(
    task: Task, run_id: str, ids: Iterable[str] | None = None, *, today: datetime.date | None = None
) -> tuple[Opening, ...]:
    """Enter into the ledger that a run answered these test rows; the same run counts once.

    Args:
        ids: The rows; by default the whole test split.
    Returns:
        The openings that count for these rows, this one included.
    Raises:
        DataError: There is no `splits.json`, or it is broken.
    """
    file = load_split_file(task)
    if file is None:
        raise DataError(_path(task), None, "there is no split yet.", "Climb the task first.")
    asked = set(ids) if ids is not None else {name for name, place in file.rows.items() if place.split == "test"}
    if any(opening.run == run_id for opening in file.openings):
        return file.openings_of(asked)
    day = today or datetime.datetime.now(datetime.UTC).date()
    openings = (*file.openings, Opening(run=run_id, date=day.isoformat(), test_rows=len(asked)))
    marked = {
        name: place.model_copy(update={"opened": len(openings)}) if name in asked and place.opened is None else place
        for name, place in file.rows.items()
    }
    file = file.model_copy(update={"openings": openings, "rows": marked})
    save_split_file(task, file)
    return file.openings_of(asked)


def _path(task: Task) -> Path:
    return task.path(FILE)


def _render(file: SplitFile) -> str:
    raw: dict[str, Any] = file.model_dump(mode="json", exclude_defaults=False)
    raw["rows"] = {name: _short(place) for name, place in sorted(raw["rows"].items())}
    if raw["aside"] is None:
        del raw["aside"]
    head = {"format": FORMAT, "checksum": hash_json(raw), **{key: value for key, value in raw.items() if key != "rows"}}
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    rows = [f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(row)}" for name, row in raw["rows"].items()]
    return "{\n" + "\n".join(lines) + '\n  "rows": {\n' + ",\n".join(rows) + "\n  }\n}\n"


def _short(place: Mapping[str, Any]) -> dict[str, Any]:
    """A place without the keys that say nothing."""
    return {key: value for key, value in place.items() if value is not None and value is not False}
