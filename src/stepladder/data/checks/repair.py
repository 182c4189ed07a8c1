"""Corrected copies of data files: the repairs that need no judgement, each said, the file itself untouched."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.data.checks.finding import Finding, Place, Repair
from stepladder.data.readers import table


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a copy. `line` is the line in the original file."""

    line: int
    code: str
    what: str
    dropped: bool


def repairs_by_file(findings: Iterable[Finding]) -> dict[str, list[tuple[str, Repair]]]:
    """(code, repair) of every file, in the order of the findings."""
    found: dict[str, list[tuple[str, Repair]]] = defaultdict(list)
    for one in findings:
        for repair in one.repairs:
            found[repair.file].append((one.code, repair))
    return dict(found)


def fixed_name(path: Path) -> Path:
    """Where the corrected copy lies: `examples.fixed.jsonl` beside `examples.jsonl`."""
    return path.with_name(f"{path.stem}.fixed{path.suffix}")


def repair_text(path: Path, repairs: Sequence[tuple[str, Repair]]) -> tuple[str, list[Change]]:
    """The corrected content of a file, and every change. Rows without a repair stay as they are, to the character."""
    by_line: dict[int, list[tuple[str, Repair]]] = defaultdict(list)
    for code, repair in repairs:
        by_line[repair.line].append((code, repair))
    if path.suffix.lower() in table.SUFFIXES:
        return _repair_table(path, by_line)
    return _repair_json_lines(path, by_line)


def _repair_json_lines(path: Path, by_line: Mapping[int, Sequence[tuple[str, Repair]]]) -> tuple[str, list[Change]]:
    kept: list[str] = []
    changes: list[Change] = []
    # a line that is not UTF-8 has a repair of its own: it is dropped
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = raw.decode("utf-8", errors="surrogateescape")
        repairs = by_line.get(number, ())
        if not repairs:
            kept.append(line)
            continue
        dropping = _dropping(number, repairs)
        if dropping:
            changes.append(dropping)
            continue
        value = json.loads(line)
        changes += _rewrite(value, number, repairs)
        kept.append(json.dumps(value, ensure_ascii=False))
    return "\n".join(kept), changes


def _repair_table(path: Path, by_line: Mapping[int, Sequence[tuple[str, Repair]]]) -> tuple[str, list[Change]]:
    header, rows = table.read_rows(path, [])
    out = io.StringIO()
    separator = table.separator(path)
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(header)
    changes: list[Change] = []
    for row in rows:
        repairs = by_line.get(row.line, ())
        if dropping := _dropping(row.line, repairs):
            changes.append(dropping)
            continue
        value = dict(row.values)
        changes += _rewrite(value, row.line, repairs)
        writer.writerow([value[name] for name in header])
    return out.getvalue(), changes


def _dropping(line: int, repairs: Sequence[tuple[str, Repair]]) -> Change | None:
    drops = [(code, repair) for code, repair in repairs if repair.rewrite is None]
    return Change(line, drops[0][0], f"row dropped: {drops[0][1].what}", dropped=True) if drops else None


def _rewrite(row: Any, line: int, repairs: Sequence[tuple[str, Repair]]) -> list[Change]:
    """Rewrite the texts of a row in place; a repair that would leave nothing, or changes nothing, is left out."""
    changes = []
    for code, repair in repairs:
        before = _at(row, repair.place)
        after = repair.rewrite(before) if repair.rewrite else before
        if after != before and after.strip():
            _put(row, repair.place, after)
            changes.append(Change(line, code, repair.what, dropped=False))
    return changes


def _at(row: Any, place: Place) -> str:
    for step in place:
        row = row[step]
    return str(row)


def _put(row: Any, place: Place, text: str) -> None:
    for step in place[:-1]:
        row = row[step]
    row[place[-1]] = text
