"""The same row again."""

from __future__ import annotations

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity
from stepladder.data.normalise import plain_form


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for group in context.same_input:
        first: dict[tuple[str, str], int] = {}
        for place in group:
            row = context.rows[place]
            key = (plain_form(row.reference), row.kind)  # copies in two files are a leak, not a repetition
            if (earlier := context.rows[first.setdefault(key, place)]) is not row:
                marks.append(row.mark(f"repeats {earlier.file}:{earlier.line}"))
                repairs.append(Repair(row.file, row.line, f"repeats line {earlier.line}"))
    return finding(
        "duplicate",
        Severity.WARN,
        marks,
        "{rows} repeat an earlier row's input and answer, letter case and punctuation aside; they count once, and "
        "weigh more in training.",
        "Keep one of each.",
        repairs,
    )


CHECK = Check(
    "duplicate", "Rows that repeat another row's input and answer, letter case, punctuation and white space aside.", find
)
