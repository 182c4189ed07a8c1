"""What a check says: the kind of fault, how grave, which rows, what was seen there, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepladder.data.checks.context import CheckContext

Place = tuple[str | int, ...]
"""The way to a text inside a row: ("messages", 1, "content")."""


class Severity(StrEnum):
    BLOCK = "block"  # numbers or models made from these rows would be wrong; a climb stops
    WARN = "warn"  # probably a fault
    NOTE = "note"  # worth knowing


@dataclass(frozen=True, slots=True)
class Mark:
    """A row that a finding is about, and what was seen in it, in a few words."""

    file: str  # as task.toml names it
    line: int
    id: str
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Repair:
    """A change of one row that needs no judgement. Without `rewrite` the row is dropped."""

    file: str
    line: int
    what: str  # "the row repeats line 3", "white space around the answer removed"
    place: Place = ()
    rewrite: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault in a task's data: `evidence` and `fix` are sentences; `repairs` are what `--fix` would do."""

    code: str
    severity: Severity
    rows: tuple[Mark, ...]
    evidence: str
    fix: str
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True, slots=True)
class NotRun:
    """A check that could not look, or not at everything, and what it would need."""

    code: str
    needs: str


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of fault: its code, what it finds in a sentence (the reference page is made of these), and the search itself.

    `needs` names optional parts of the context; where one is missing, the check is reported as not run. Where a part that
    `sharper_with` names is missing, it is reported as run in part.
    """

    code: str
    what: str
    find: Callable[[CheckContext], Sequence[Finding]]
    needs: tuple[str, ...] = ()
    sharper_with: tuple[str, ...] = ()
