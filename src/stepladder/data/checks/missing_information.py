"""Answers that say what the input does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.checks.rows import CheckedRow

FACT_BOUND = 0.3  # design §4: from here on the task itself is about facts
COPIES = 0.8
"""Share of the rows with numbers that take all of them from the input: from here on the task copies numbers."""
FEWEST_COPYING = 10  # rows
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def find(context: CheckContext) -> list[Finding]:
    assert context.lacking is not None
    rows = [row for row in context.rows if row.id in context.lacking]
    marks = [row.mark(f"{', '.join(map(repr, context.lacking[row.id][:4]))} is said nowhere else") for row in rows]
    marks += [mark for mark in _exchanged(context) if mark.id not in context.lacking]
    many = len(rows) >= FACT_BOUND * len(context.rows)
    where = "input, instruction and documents" if context.chunks else "input and instruction"
    return finding(
        "missing-information",
        Severity.WARN,
        marks,
        f"{{rows}} have names, numbers, dates or a short answer that {where} do not hold."
        + (" This is a task about facts: give the documents they come from, and let retrieval find them." if many else ""),
        "Add to the input what the answer needs, or correct the answer.",
    )


def _exchanged(context: CheckContext) -> Iterator[Mark]:
    """Rows with a number in the place of another, in a task that otherwise copies the input's numbers.

    That other answers hold the number too says nothing then: "60 mg" is said in many letters, and is wrong in this one.
    """
    given = _numbers(f"{context.task.settings.instruction} {context.shared_instruction or ''}")
    numbered = [(row, _numbers(row.reference), _numbers(row.input_text)) for row in context.rows if _writes_numbers(row)]
    copying = [(row, said, held) for row, said, held in numbered if said & held]
    faithful = sum(said <= held | given for _, said, held in copying)
    if context.chunks or len(copying) < FEWEST_COPYING or faithful < COPIES * len(copying):
        return
    for row, said, held in numbered:
        come, gone = said - held - given, held - said
        if come and gone:
            yield row.mark(f"{_listed(come)} in the answer, and the input has {_listed(gone)}")


def _writes_numbers(row: CheckedRow) -> bool:
    return bool(_NUMBER.search(row.reference)) and row.reference[:1] not in ("{", "[")


def _numbers(text: str) -> set[Decimal]:
    """The numbers of a text by value; commas before three digits group them, any other separates decimals."""
    found = (re.sub(r",(?=\d{3}(?!\d))", "", match).replace(",", ".") for match in _NUMBER.findall(text))
    return {Decimal(number) for number in found if number.count(".") < 2}


def _listed(numbers: set[Decimal]) -> str:
    return ", ".join(f"{number:f}" for number in sorted(numbers)[:4])


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
    "Names, numbers, dates and codes in an answer, and whole answers of a few words, that stand neither in the input, nor in "
    "the instruction or the documents, nor in the answers to two other questions; where answers copy the numbers of their "
    "inputs, also a number in the place of another.",
    find,
    needs=("lacking",),
)
UNKNOWN = Check(
    "unknown-fact",
    "Such names, numbers, dates, codes and short answers that the base model does not say either, asked without documents (once "
    "greedily, eight draws).",
    find_unknown,
    needs=("unknown",),
)
