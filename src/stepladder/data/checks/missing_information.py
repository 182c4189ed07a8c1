"""Answers that say what the input does not."""

from __future__ import annotations

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Severity

FACT_BOUND = 0.3  # design §4: from here on the task itself is about facts


def find(context: CheckContext) -> list[Finding]:
    assert context.lacking is not None
    rows = [row for row in context.rows if row.id in context.lacking]
    many = len(rows) >= FACT_BOUND * len(context.rows)
    where = "input, instruction and documents" if context.chunks else "input and instruction"
    return finding(
        "missing-information",
        Severity.WARN,
        (row.mark(f"{', '.join(map(repr, context.lacking[row.id][:4]))} is said nowhere else") for row in rows),
        f"{{rows}} have names, numbers or dates in their answer that {where} do not hold."
        + (" This is a task about facts: give the documents they come from, and let retrieval find them." if many else ""),
        "Add to the input what the answer needs, or correct the answer.",
    )


def find_unknown(context: CheckContext) -> list[Finding]:
    assert context.unknown is not None
    return finding(
        "unknown-fact",
        Severity.WARN,
        (
            row.mark(f"the model never says {', '.join(map(repr, context.unknown[row.id][:4]))}")
            for row in context.rows
            if row.id in context.unknown
        ),
        "{rows} want facts that the input does not hold and the model does not know: learning them by heart makes it "
        "invent others.",
        "Leave facts to retrieval: give the documents they stand in.",
    )


CHECK = Check(
    "missing-information",
    "Names, numbers, dates and codes in an answer that stand neither in its input, nor in the instruction or the "
    "documents, nor in the "
    "answers to two other questions.",
    find,
    needs=("lacking",),
)
UNKNOWN = Check(
    "unknown-fact",
    "Such names, numbers, dates and codes that the base model does not say either, asked without documents (once "
    "greedily, eight draws).",
    find_unknown,
    needs=("unknown",),
)
