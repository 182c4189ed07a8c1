"""What has been measured, on disk after every measurement, so that a broken-off comparison continues where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from stepladder.domain.errors import DataError
from stepladder.files import write_text
from training.systems import OURS

SECTIONS = ("rows", "parity", "settings", "ceilings", "timings", "left_out", "gpu")
RATIO = "ratio_ours_over_this"

Row = dict[str, Any]


class Results:
    """One JSON object of lists: `rows` (the figures), `parity`, `settings` (what a search tried and chose), `ceilings`,
    `timings` (of warm-up and measurement), `left_out`."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: The file is there and is something else.
        """
        self.path = path
        self._content: dict[str, list[Row]] = {name: [] for name in SECTIONS}
        if path.is_file():
            try:
                stored: dict[str, list[Row]] = json.loads(path.read_text(encoding="utf-8"))
                self._content |= {name: list(stored.get(name, ())) for name in SECTIONS}
            except (ValueError, AttributeError, TypeError) as error:
                raise DataError(
                    path, None, f"no results of this benchmark: {error}.", "Move the file away to start anew."
                ) from error

    def find(self, section: str, **keys: Any) -> Row | None:
        """The entry that has these values, if there is one."""
        return next((row for row in self._content[section] if all(row.get(key) == value for key, value in keys.items())), None)

    def add(self, section: str, entry: Mapping[str, Any]) -> None:
        """Keep an entry, on disk at once; ratios of rows are brought up to date."""
        self._content[section].append(dict(entry))
        with_ratios(self._content["rows"])
        write_text(self.path, json.dumps(self._content, indent=1) + "\n")

    def refuse_other_processor(self, cpu: str) -> None:
        """
        Raises:
            DataError: Rows were measured on another processor than `cpu`.
        """
        other = next((row["machine"]["cpu"] for row in self.rows if row["machine"]["cpu"] != cpu), None)
        if other is not None:
            raise DataError(
                self.path, None, f"it holds rows of another processor ({other}; here it is {cpu}).", "Begin anew with --anew."
            )

    @property
    def rows(self) -> list[Row]:
        return self._content["rows"]

    @property
    def left_out(self) -> list[Row]:
        return self._content["left_out"]


def with_ratios(rows: Sequence[Row]) -> None:
    """Fill in ours ÷ theirs in examples a second, within the same workload and round; None where ours is missing."""
    ours = {(row["workload"], row["round"]): row["examples_per_second"] for row in rows if row["system"] == OURS}
    for row in rows:
        own = ours.get((row["workload"], row["round"]))
        row[RATIO] = None if own is None else round(own / row["examples_per_second"], 3)


def medians(rows: Sequence[Row], workload: str, system: str) -> Row | None:
    """One row whose figures are the medians over the rounds of a workload and system; None without any."""
    mine = [row for row in rows if row["workload"] == workload and row["system"] == system]
    if not mine:
        return None
    figures = [key for key, value in mine[0].items() if isinstance(value, float | int) and key != "round"]
    found = {
        key: median(row[key] for row in mine if row[key] is not None)
        for key in figures
        if any(row[key] is not None for row in mine)
    }
    return {**mine[-1], **found, "rounds": len(mine)}
