"""What the test rows say beyond the scores, as lines: mistakes with their remedies, weak kinds of rows, rows fixed and broken."""

from __future__ import annotations

from collections.abc import Sequence

from stepladder.domain.climb import ClimbRecord
from stepladder.service.figures import counted, interval_text, one_line, rate_text

MOST_ROWS = 8  # ids that one line names


def mistake_lines(record: ClimbRecord) -> list[str]:
    """Where the verdict's rung goes wrong, by kind: each with its remedy and who has those rows right."""
    own = [one for one in record.mistakes if one.rung == record.verdict.rung]
    if not own:
        return []
    lines = [f"{one_line(own[0].rung)} has {own[0].wrong:,} of {counted(own[0].asked, 'test row')} wrong:"]
    for one in own:
        elsewhere = ", ".join(f"{one_line(rung)} {count:,}" for rung, count in one.right_elsewhere.items())
        right = f" Right there: {elsewhere}." if elsewhere else ""
        lines.append(f"{one.kind.value}, {counted(len(one.rows), 'row')} ({_some_rows(one.rows)}): {one.remedy}.{right}")
    return lines


def slice_lines(record: ClimbRecord) -> list[str]:
    """The kinds of rows on which the verdict's rung is clearly worse."""
    return [
        f"Clearly worse where {one_line(one.column)} is {one_line(one.value)}: {interval_text(one.score)} of"
        f" {counted(one.score.items, 'row')}, against {rate_text(one.rest)} elsewhere."
        for one in record.slices
        if one.worse
    ]


def changed_lines(record: ClimbRecord) -> list[str]:
    """The rows fixed and broken, by id."""
    named = (("Fixed", record.fixed_rows), ("Broken", record.broken_rows))
    return [f"{word}: {_some_rows(rows, MOST_ROWS)}." for word, rows in named if rows]


def _some_rows(rows: Sequence[str], most: int = 3) -> str:
    more = f" and {len(rows) - most:,} more" if len(rows) > most else ""
    return ", ".join(map(one_line, rows[:most])) + more
