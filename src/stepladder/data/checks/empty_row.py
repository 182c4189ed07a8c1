"""Rows without an input or without an answer."""

from __future__ import annotations

import re
from collections import Counter

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

NOTHING = frozenset(
    {"null", "none", "nan", "n/a", "na", "nil", "undefined", "tbd", "todo", "-", "--", "...", "…", "?", "??", "xxx"}
)
HABIT = 0.2
"""An answer that more rows than this give is an answer, not a gap: "none" is one in many extraction tasks."""
_WORD = re.compile(r"\w")
_FORMAT = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")


def find(context: CheckContext) -> list[Finding]:
    faults = [fault for fault in context.faults if fault.kind == "empty"]
    repairs = [Repair(fault.file, fault.line, fault.problem) for fault in faults]
    fix = "Add the missing text, or drop the row."
    return [
        *finding(
            "empty",
            Severity.BLOCK,
            (fault.mark() for fault in faults),
            "{rows} have nothing to answer, or no answer: a model would learn to say nothing.",
            fix,
            repairs,
        ),
        *finding(
            "empty",
            Severity.WARN,
            _gaps(context),
            "{rows} hold a text that seems to stand for a missing one.",
            f"{fix} If it is an answer that users shall get, leave it.",
        ),
    ]


def _gaps(context: CheckContext) -> list[Mark]:
    """Texts that hold no word, and answers that only stand for a missing one."""
    said = Counter(_said(row.reference) for row in context.rows)
    labels = {label.casefold() for label in context.task.settings.output.labels}
    marks = []
    for row in context.rows:
        answer = _said(row.reference)
        rare = said[answer] <= max(2, HABIT * len(context.rows))
        if answer in NOTHING and rare and answer not in labels:
            marks.append(row.mark(f"the answer is only '{answer}'"))
        elif not row.example.reference.tool_calls and (not answer or (rare and _is_wordless(answer))):
            marks.append(row.mark("the answer holds nothing that can be seen"))
        user = [field.text for field in row.fields if field.part == "input" and field.role == "user"]
        if user and _is_wordless(user[-1]):
            marks.append(row.mark("the input holds no word"))
    return marks


def _said(text: str) -> str:
    return _FORMAT.sub("", text).strip().casefold()


def _is_wordless(text: str) -> bool:
    return not _WORD.search(text) and not any(map(_is_picture, text))


def _is_picture(letter: str) -> bool:
    return ord(letter) > 0x2190 and letter not in "\ufeff\ufffd"


CHECK = Check(
    "empty",
    "Inputs or answers that are empty, hold no word, or only stand for a missing one (null, N/A, TODO) where other rows do not.",
    find,
)
