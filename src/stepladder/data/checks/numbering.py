"""Numbers of a list that came along with its items."""

from __future__ import annotations

import re

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

HABIT = 0.25
_NUMBER = re.compile(
    r"^\s*(?:\(?\d{1,4}[.)](?!\d)|\(?[a-zA-Z]\)|[-*•·▪]|Q\d{1,4}[.:)]|#\d{1,5}[.:)]?|No\. ?\d{1,4}[.:]?)\s+(?=\S)"
)


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for part in ("input", "reference"):
        hits = []
        for row in context.rows:
            for field in row.fields:
                match = _NUMBER.match(field.text) if field.part == part else None
                if match and not _NUMBER.search("\n".join(field.text.splitlines()[1:2])):  # a list of several items is meant
                    hits.append((row, field, match))
        if len(hits) > HABIT * len(context.rows):
            continue
        for row, field, match in hits:
            marks.append(row.mark(f"the {'answer' if part == 'reference' else 'input'} begins with {quote(match.group())}"))
            if field.place is not None:
                repairs.append(Repair(row.file, row.line, "list number removed", field.place, _without_number))
    return finding(
        "numbering",
        Severity.WARN,
        marks,
        "{rows} begin with a list number or bullet that the others do not have.",
        "Remove it.",
        repairs,
    )


def _without_number(text: str) -> str:
    return _NUMBER.sub("", text, count=1)


CHECK = Check("numbering", "Inputs or answers of one item that begin with a list number or bullet, in a few rows.", find)
