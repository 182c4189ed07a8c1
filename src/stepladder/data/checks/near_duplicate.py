"""Rows that almost repeat another."""

from __future__ import annotations

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Severity


def find(context: CheckContext) -> list[Finding]:
    marks: dict[int, Mark] = {}
    for one, other in (*context.near_rows, *context.variant_rows):
        first, second = sorted((one, other))
        earlier, row = context.rows[first], context.rows[second]
        if context.plain_inputs[first] != context.plain_inputs[second] and row.kind == earlier.kind:
            marks.setdefault(second, row.mark(f"almost repeats the input of {earlier.file}:{earlier.line}"))
    return finding(
        "near-duplicate",
        Severity.NOTE,
        (marks[place] for place in sorted(marks)),
        "{rows} almost repeat the input of an earlier row. They always go into one split together, and add little.",
        "Keep them if they are what users write; otherwise replace them by rows that differ.",
    )


CHECK = Check(
    "near-duplicate",
    "Inputs that almost repeat an earlier one: character 5-gram Jaccard of at least 0.8, embedding cosine of at least "
    "0.95, or the "
    "same words but for fillers, order and misspellings.",
    find,
)
