"""Answers that the task's own `[output]` does not allow."""

from __future__ import annotations

from functools import partial

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Repair, Severity
from stepladder.data.checks.rows import CheckedRow


def find(context: CheckContext) -> list[Finding]:
    faults = [fault for fault in context.faults if fault.kind == "off-output"]
    row_of = {row.id: row for row in context.rows}
    repairs = [repair for fault in faults if (repair := _to_label(row_of[fault.id], context.task.settings.output.labels))]
    return finding(
        "off-output",
        Severity.BLOCK,
        (fault.mark() for fault in faults),
        "{rows} have an answer that `[output]` does not allow.",
        faults[0].hint if faults else "",
        repairs,
    )


def _to_label(row: CheckedRow, labels: tuple[str, ...]) -> Repair | None:
    """The label that differs only in letter case and outer marks."""
    field = row.reference_field
    meant = [label for label in labels if label.casefold() == field.text.strip(" \t\n.,;:!'\"`").casefold()]
    if len(meant) != 1 or field.place is None:
        return None
    return Repair(row.file, row.line, f"the label is written '{meant[0]}'", field.place, partial(_instead, meant[0]))


def _instead(label: str, _: str) -> str:
    return label


CHECK = Check(
    "off-output",
    "Answers that do not follow `[output]`: not one of the labels (misspelt or in other letter case), not JSON, "
    "against the schema "
    "(missing, unknown or wrongly typed fields), not matching the pattern.",
    find,
)
