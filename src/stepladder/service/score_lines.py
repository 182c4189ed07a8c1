"""A scoring in words: the same lines for a terminal, a pipe and a failed test."""

from __future__ import annotations

from rich.cells import cell_len

from stepladder.service.figures import counted, gain_text, interval_text, one_line, probability_text, rate_text, setting_text
from stepladder.service.score import Scored


def score_lines(scored: Scored) -> list[str]:
    """A caption, a table (what, value, on which rows), and whether the gate is open."""
    caption = f"{one_line(scored.task)} · {one_line(scored.rung)} of {one_line(scored.run)} · {one_line(scored.grader)}"
    cells = [[one_line(cell) for cell in row] for row in _table(scored)]
    widths = [max(cell_len(row[column]) for row in cells) for column in (0, 1)]
    table = ["  ".join(_pad(cell, width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in cells]
    verdict = [f"- {one_line(failure)}" for failure in scored.failures]
    head = "Passed." if scored.passed else "Failed."
    return [caption, "", *table, *(f"  {note}" for note in scored.notes), "", head, *verdict]


def _table(scored: Scored) -> list[tuple[str, str, str]]:
    graded = sum(row.score is not None for row in scored.rows)
    ungraded = len(scored.rows) - graded
    left = f", {ungraded} ungraded" if ungraded else ""
    rows = [("score", interval_text(scored.interval), f"{counted(graded, 'row')} of {scored.file}{left}")]
    if scored.target is not None:
        rows.append(("target", setting_text(scored.target), f"P(reached) {probability_text(scored.probability_target)}"))
    if scored.against is not None:
        against, comparison = scored.against, scored.against.comparison
        where = f"{counted(comparison.recorded.items, 'test row')} of {against.run}, {against.rung}"
        how = f"the same {counted(comparison.rows, 'row')}, pair by pair" if comparison.paired else "other rows"
        rows.append(("recorded", interval_text(comparison.recorded), where))
        rows.append(("difference", gain_text(comparison.difference), how))
        rows.append(("P(worse)", probability_text(comparison.probability_worse), ""))
    others = scored.metrics.items()
    return rows + [(name.replace("_", " "), rate_text(value), "also measured") for name, value in others]


def _pad(text: str, width: int) -> str:
    return text + " " * max(0, width - cell_len(text))
