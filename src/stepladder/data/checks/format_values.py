"""Dates and numbers written in another way than in most answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from stepladder.data.checks.answer_fields import answer_fields
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.checks.rows import CheckedRow

FEWEST = 8
MAJORITY = 0.75
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
DATES = (
    ("YYYY-MM-DD", re.compile(r"\b\d{4}-\d{2}-\d{2}\b")),
    ("YYYY/MM/DD", re.compile(r"\b\d{4}/\d{1,2}/\d{1,2}\b")),
    ("DD/MM/YYYY", re.compile(r"\b\d{1,2}/\d{1,2}/(?:\d{4}|\d{2})\b")),
    ("DD.MM.YYYY", re.compile(r"\b\d{1,2}\.\d{1,2}\.(?:\d{4}|\d{2})\b")),
    ("DD-MM-YYYY", re.compile(r"\b\d{1,2}-\d{1,2}-\d{4}\b")),
    ("DD Month YYYY", re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}\.?,?(?: \d{{4}})?\b", re.IGNORECASE)),
    ("Month DD, YYYY", re.compile(rf"\b{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?\b(?:,? \d{{4}})?", re.IGNORECASE)),
    ("YYYYMMDD", re.compile(r"\b(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b")),
)
TIMES = (
    ("14:30", re.compile(r"\b(?:[01]?\d|2[0-3]):[0-5]\d\b(?!\s*[ap]\.?m)", re.IGNORECASE)),
    ("2:30 pm", re.compile(r"\b\d{1,2}(?::[0-5]\d)?\s*[ap]\.?m\b", re.IGNORECASE)),
)
NUMBERS = (
    ("1,234.5", re.compile(r"(?<![\w.,/-])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,/-]|\.\d)")),
    ("1.234,5", re.compile(r"(?<![\w.,/-])(?:\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+,\d{1,2})(?![\w,/-]|\.\d)")),
    ("1234.5", re.compile(r"(?<![\w.,/-])(?:\d+\.\d{1,2})(?![\w,/-]|\.\d)")),
)
MONEY = (
    ("a sign before the amount", re.compile(r"[$£€¥]\s?\d")),
    ("a sign after the amount", re.compile(r"\d\s?[$£€¥]")),
    ("a code or word after the amount", re.compile(r"\d\s?(?:USD|EUR|GBP|CHF|JPY|dollars?|euros?|pounds?)\b", re.IGNORECASE)),
    ("a code before the amount", re.compile(r"\b(?:USD|EUR|GBP|CHF|JPY)\s?\d", re.IGNORECASE)),
)
COMPATIBLE = ({"1,234.5", "1234.5"},)  # 999.5 has no comma either way

Forms = tuple[tuple[str, re.Pattern[str]], ...]


def find(context: CheckContext) -> list[Finding]:
    marks: dict[Severity, list[Mark]] = {Severity.WARN: [], Severity.NOTE: []}
    for field in answer_fields(context):
        for what, forms in (("date", DATES), ("time", TIMES), ("number", NUMBERS), ("price", MONEY)):
            severity = Severity.NOTE if what == "price" else Severity.WARN  # "$5" and "5 dollars" often are style
            marks[severity] += _odd(context, field.texts, what, forms)
    evidence = "{rows} write dates, times, numbers or prices in another way than most answers."
    fix = "Choose one way of writing them."
    return [one for severity, found in marks.items() for one in finding("format-values", severity, found, evidence, fix)]


def _odd(context: CheckContext, texts: Iterable[tuple[int, str]], what: str, forms: Forms) -> list[Mark]:
    seen = [(place, name, match.group()) for place, text in texts for name, match in _matches(text, forms)]
    kinds = Counter(name for _, name, _ in seen)
    if len(kinds) < 2 or kinds.total() < FEWEST:
        return []
    common, count = kinds.most_common(1)[0]
    if count < MAJORITY * kinds.total():
        return []
    marks = []
    for place, name, written in seen:
        row = context.rows[place]
        if name != common and {name, common} not in COMPATIBLE and not _is_copied(context, row, written):
            marks.append(row.mark(f"{what} {quote(written)}, elsewhere like {common}"))
    return marks


def _matches(text: str, forms: Forms) -> Iterable[tuple[str, re.Match[str]]]:
    taken: list[tuple[int, int]] = []
    for name, pattern in forms:
        for match in pattern.finditer(text) if any(map(str.isdigit, text)) else ():
            if not any(match.start() < end and start < match.end() for start, end in taken):
                taken.append(match.span())
                yield name, match


def _is_copied(context: CheckContext, row: CheckedRow, written: str) -> bool:
    """A value taken over from the input or a document keeps the form it has there."""
    return written in row.input_text or any(written in chunk.text for chunk in context.chunks)


CHECK = Check(
    "format-values",
    "Dates, times, numbers and prices in the answers that are written in another way than three of four of them "
    "(2024-03-01 and "
    "01/03/2024; 1,234.50 and 1.234,50), unless copied from the input or a document.",
    find,
)
