"""HTML and escapes that should have been taken out on the way."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from stepladder.data.checks.answers import parse_answer
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity
from stepladder.data.checks.rows import TextField

HABIT = 0.3  # what more rows than this hold is what they are about
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5});", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:br|p|div|span|b|i|u|em|strong|a|ul|ol|li|h[1-6]|table|tr|td|th|font|img|hr|html|body)(?:\s[^<>]{0,300})?/?>",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"(?<![:\\/])\\(?:n|t|r|\"|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})")

Pattern = tuple[str, re.Pattern[str], Callable[[str], str] | None]


def unescape(text: str) -> str:
    """`text` with escapes such as backslash-n written out."""
    known = {"n": "\n", "t": "\t", "r": "", '"': '"'}
    return _ESCAPE.sub(lambda match: known.get(match.group()[1], "") or _coded(match.group()), text)


def _coded(escape: str) -> str:
    return "" if escape == "\\r" else chr(int(escape[2:], 16))


def _without_tags(text: str) -> str:
    return re.sub(r"[ \t]{2,}", " ", _TAG.sub(lambda match: "\n" if match.group()[1:3].lower() == "br" else "", text)).strip()


_KINDS: tuple[Pattern, ...] = (
    ("an HTML entity", _ENTITY, html.unescape),
    ("an HTML tag", _TAG, _without_tags),
    ("an escape sequence", _ESCAPE, unescape),
)


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for name, pattern, rewrite in _KINDS:
        hits = [(row, field, match) for row in context.rows for field in row.fields if (match := _search(pattern, field))]
        if len({row.id for row, _, _ in hits}) > HABIT * len(context.rows):
            continue
        for row, field, match in hits:
            marks.append(row.mark(f"{name} in the {field.part}: {quote(match.group())}"))
            if field.place is not None:
                repairs.append(Repair(row.file, row.line, f"{name} written out", field.place, rewrite))
    return finding(
        "markup",
        Severity.WARN,
        marks,
        "{rows} hold HTML or escape sequences that other rows do not.",
        "Convert them to plain text, as the rows in use will be.",
        repairs,
    )


def _search(pattern: re.Pattern[str], field: TextField) -> re.Match[str] | None:
    if not any(sign in field.text for sign in "&<\\"):
        return None
    if parse_answer(field.text.strip()) is not None and pattern is _ESCAPE:
        return None  # JSON writes its own escapes
    return pattern.search(field.text)


CHECK = Check(
    "markup",
    "HTML tags, HTML entities (&amp;amp;) and written-out escapes (\\\\n) in a few rows of an otherwise plain data set.",
    find,
)
