"""Rows that cannot be read at all."""

from __future__ import annotations

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Repair, Severity


def find(context: CheckContext) -> list[Finding]:
    faults = [fault for fault in context.faults if fault.kind in ("broken", "file")]
    return (
        finding(
            "broken-row",
            Severity.BLOCK,
            (fault.mark() for fault in faults),
            "{rows} cannot be read.",
            faults[0].hint if len({fault.hint for fault in faults}) == 1 else "Correct them, or drop them.",
            (Repair(fault.file, fault.line, fault.problem) for fault in faults if fault.kind == "broken"),
        )
        if faults
        else []
    )


CHECK = Check(
    "broken-row",
    "Rows that cannot be read: no JSON object, another shape than the first row, unknown roles, a missing answer, keys "
    "or strings "
    "that would be lost, an id that stands twice, bytes that are not UTF-8.",
    find,
)
