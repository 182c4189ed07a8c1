"""Characters nobody sees: zero-width, direction marks, control characters."""

from __future__ import annotations

import re
import unicodedata

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

# Joiners belong to emoji and to some scripts; between Latin letters, digits and spaces they are strays.
_STRAY = re.compile(
    "(?<![^\x00-\u024f])[\u200b-\u200d\u2060](?![^\x00-\u024f])|[\u00ad\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|[\ue000-\uf8ff]"
)
_BOUND_SPACE = re.compile(r"(?<=[^\W\d_])[\u00a0\u2007\u202f](?=[^\W\d_])")
HABIT = 0.2  # a bound space in more rows than this is how these texts are written


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    bound: list[Mark] = []
    repairs: list[Repair] = []
    for row in context.rows:
        for field in row.fields:
            if field.text.isascii() and field.text.isprintable():
                continue
            found = sorted(set(_STRAY.findall(field.text)))
            if found:
                marks.append(row.mark(", ".join(map(_name, found))))
            elif _BOUND_SPACE.search(field.text):
                bound.append(row.mark("a no-break space between words"))
            else:
                continue
            if field.place is not None:
                repairs.append(Repair(row.file, row.line, "invisible characters removed", field.place, clean))
    if len(bound) <= HABIT * len(context.rows):
        marks += bound
    return finding(
        "invisible",
        Severity.WARN,
        marks,
        "{rows} hold characters that cannot be seen; a tokenizer sees them, and equal texts are not equal.",
        "Remove them.",
        repairs,
    )


def clean(text: str) -> str:
    """`text` without stray characters; a no-break space between words becomes a space."""
    return _BOUND_SPACE.sub(" ", _STRAY.sub("", text))


def _name(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, 'control character').lower()}"


CHECK = Check(
    "invisible",
    "Zero-width and direction characters, soft hyphens, byte order marks, control and private-use characters inside a "
    "text, and "
    "no-break spaces between words where other rows have none.",
    find,
)
