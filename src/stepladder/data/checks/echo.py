"""Answers that are their input, and inputs that hold their answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from stepladder.data.checks.answers import parse_answer
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity
from stepladder.data.checks.rows import CheckedRow
from stepladder.data.normalise import plain_form

HABIT = 0.25
FEWEST_WORDS = 3
LONG = 20  # characters
SHORTEST = 2
_ANNOUNCES = (
    r"\(?\b(?:answer|label|category|intent|output|completion|expected|solution|target|class|response|result|reference|gold|correct)"
    r"[^\n:=]{0,20}?(?:is)?\s*[:=]\s*['\"]?"
)


def find_echo(context: CheckContext) -> list[Finding]:
    same: list[Mark] = []
    repeated: list[Mark] = []
    for row, text in zip(context.rows, context.plain_inputs, strict=True):
        answer = plain_form(row.reference)
        if answer == text and row.reference not in context.task.settings.output.labels:
            same.append(row.mark("the answer is the input"))
        elif len(text.split()) >= FEWEST_WORDS and len(text) >= LONG and answer.startswith(f"{text} "):
            repeated.append(row.mark("the answer begins with the whole input"))
    marks = [mark for marks in (same, repeated) if len(marks) <= HABIT * len(context.rows) for mark in marks]
    return finding(
        "echo",
        Severity.WARN,
        marks,
        "{rows} have an answer that repeats the input.",
        "Write the answer that is wanted.",
    )


def find_given_away(context: CheckContext) -> list[Finding]:
    announced = [(row, match) for row in context.rows if (match := _announced(row))]
    labels = context.task.settings.output.labels
    held = [
        row
        for row, text in zip(context.rows, context.plain_inputs, strict=True)
        if (_names_label(row) if labels else _holds(row, text) or _ends_with(row, text))
    ]
    marks: list[Mark] = []
    repairs: list[Repair] = []
    if len(announced) <= HABIT * len(context.rows):
        for row, match in announced:
            marks.append(row.mark(f"the input says {quote(match.group())}"))
            place = next((field.place for field in reversed(row.fields[:-1]) if match.group() in field.text), None)
            if place is not None:
                repairs.append(Repair(row.file, row.line, "the answer taken out of the input", place, _without(match.group())))
    if len(held) <= HABIT * len(context.rows):
        marks += [row.mark("the whole answer stands in the input") for row in held if row.id not in {mark.id for mark in marks}]
    return finding(
        "answer-in-input",
        Severity.WARN,
        marks,
        "{rows} give their answer away in the input, and the others do not: they teach copying, and flatter every score.",
        "Take the answer out of the input.",
        repairs,
    )


def _without(given: str) -> Callable[[str], str]:
    return lambda text: text.replace(given, "").rstrip()


def _announced(row: CheckedRow) -> re.Match[str] | None:
    """ "Answer: refund" in the input of a row whose answer is "refund"."""
    answer = row.reference.strip()
    if not answer or len(answer) > 2000 or answer.casefold() not in row.input_text.casefold():
        return None
    return re.search(rf"\s*{_ANNOUNCES}{re.escape(answer)}['\"]?\)?", row.input_text, re.IGNORECASE)


def _names_label(row: CheckedRow) -> bool:
    """A label is no word of the language when it is written with signs inside: "cancel_return"."""
    label = row.reference.strip()
    return bool(re.search(r"\w[_/.:-]\w", label)) and re.search(rf"(?<!\w){re.escape(label)}(?!\w)", row.input_text) is not None


def _holds(row: CheckedRow, text: str) -> bool:
    answer = plain_form(row.reference)
    if answer == text or (len(answer.split()) < FEWEST_WORDS and len(answer) < LONG and parse_answer(row.reference) is None):
        return False
    return f" {answer} " in f" {text} "


def _ends_with(row: CheckedRow, text: str) -> bool:
    """A short answer, as the last words of the input: put there, rather than asked about."""
    answer = plain_form(row.reference)
    return len(answer) >= SHORTEST and answer != text and text.endswith(f" {answer}")


ECHO = Check("echo", "Answers that are their input, or begin with all of it, in a few rows.", find_echo)
GIVEN_AWAY = Check(
    "answer-in-input",
    'Inputs that hold their whole answer, or announce it ("Label: refund"), in a few rows of a task whose other rows do not.',
    find_given_away,
)
