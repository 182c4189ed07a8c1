"""White space and separators at the border between prompt and answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity
from stepladder.data.checks.rows import CheckedRow, TextField

_SEPARATOR = re.compile(r"(?:\n\s*)?(?:#{3,}|[-=]+>|={3,}|\|{2,}|\n\n(?:Answer|Output|Response|A):|<SEP>|\[SEP\])\s*$")
_STOP = re.compile(r"(?:\s*(?:\bEND\b|#{3,}|<END>|\[END\]|<STOP>|<\|end\|>|\|{2,}|={3,}))\s*$")
_DOUBLED = re.compile(r"(?<=[^\s.!?:;])[ \t]{2,}(?=\S)")
HALF = 0.5


def find(context: CheckContext) -> list[Finding]:
    return [*_outer(context), *_separators(context)]


def _outer(context: CheckContext) -> list[Finding]:
    """Outer white space: a fault where few rows have it, a habit that is worth a word where most have."""
    marks: list[Mark] = []
    repairs: list[Repair] = []
    notes: list[Finding] = []
    for part, name in (("input", "input"), ("reference", "answer")):
        found = [
            (row, field)
            for row in context.rows
            for field in row.fields
            if field.part == part and field.text != field.text.strip()
        ]
        if len(found) > HALF * len(context.rows):
            evidence = f"Most {name}s begin or end with white space. It is taken off answers before training."
            notes.append(Finding("whitespace", Severity.NOTE, (), evidence, "Remove it at the source."))
            continue
        for row, field in found:
            marks.append(row.mark(f"{_where(field.text)} of the {name}"))
            if field.place is not None:
                repairs.append(Repair(row.file, row.line, f"outer white space of the {name} removed", field.place, str.strip))
    return [
        *notes,
        *finding(
            "whitespace", Severity.NOTE, _doubled(context), "{rows} have several spaces in a row in the answer.", "Write one."
        ),
        *finding(
            "whitespace",
            Severity.WARN,
            marks,
            "{rows} have white space that the others do not have; a model learns a blank as a token of its own.",
            "Remove it.",
            repairs,
        ),
    ]


def _doubled(context: CheckContext) -> Iterator[Mark]:
    """Several spaces in a row inside an answer of one line that is no JSON."""
    for row in context.rows:
        text = row.reference_field.text
        if text[:1] not in ("{", "[") and "\n" not in text and (match := _DOUBLED.search(text)):
            yield row.mark(f"several spaces in a row after {quote(text[: match.start()][-20:])}")


def _separators(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for part, pattern, what in (("input", _SEPARATOR, "separator"), ("reference", _STOP, "stop word")):
        hits = [
            (row, field, match) for row in context.rows for field in _last(row, part) if (match := pattern.search(field.text))
        ]
        for row, field, match in hits:
            if len(field.text) == len(match.group()):
                continue
            marks.append(row.mark(f"the {'answer' if part == 'reference' else 'input'} ends with {quote(match.group())}"))
            if field.place is not None:
                repairs.append(Repair(row.file, row.line, f"{what} removed", field.place, _without(pattern)))
    few = len(marks) <= HALF * len(context.rows)
    return finding(
        "separator",
        Severity.WARN if few else Severity.NOTE,
        marks,
        "{rows} carry separators of older formats (###, ->, END). The chat template separates already"
        + (", and the other rows have none." if few else "."),
        "Remove them.",
        repairs,
    )


def _without(pattern: re.Pattern[str]) -> Callable[[str], str]:
    return lambda text: pattern.sub("", text).rstrip()


def _last(row: CheckedRow, part: str) -> list[TextField]:
    fields = [field for field in row.fields if field.part == part]
    return fields[-1:]


def _where(text: str) -> str:
    before, after = text != text.lstrip(), text != text.rstrip()
    return (
        "white space at both ends" if before and after else "white space at the beginning" if before else "white space at the end"
    )


CHECK = Check(
    "whitespace",
    "White space at the beginning or end of inputs or answers, or several spaces in a row inside an answer, where most "
    "rows have none.",
    _outer,
)
SEPARATOR = Check(
    "separator",
    "Inputs that end with a separator (###, ->) and answers that end with a stop word (END, ###) of older fine-tuning formats.",
    _separators,
)
