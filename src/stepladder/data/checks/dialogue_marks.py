"""Names of speakers and sections inside a turn: a dialogue that was pasted where one turn belongs."""

from __future__ import annotations

import re

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

HABIT = 0.3
_SPEAKER = re.compile(
    r"^[ \t]*(?:#{2,}[ \t]*(?:instruction|input|response|output|question|answer|system|user|assistant|human)\b[^\n]{0,20}"
    r"|(?:human|assistant|user|system|ai|bot|chatbot|model|gpt|prompt|completion|instruction|response|question|answer|q"
    r"|a)[ \t]*\d{0,3}[ \t]*:)",
    re.IGNORECASE | re.MULTILINE,
)
_PARTNER = re.compile(
    r"^[ \t]*(customer|client|caller|patient|tenant|agent|support|adviser|advisor|operator|representative|interviewer)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
"""People may be quoted one at a time; two of these in one turn are a conversation."""
_QUOTED_PAIR = re.compile(r"\s*q(?:uestion)?[ \t]*:[^\n]+[.?!][ \t]+a(?:nswer)?[ \t]*:[ \t]*\w[^\n]*\s*", re.IGNORECASE)
"""A question with its answer on one line: an entry of a list of questions that the row is about, no turn that is still open."""
_LEADING = re.compile(
    r"^\s*(?:#{2,}[ \t]*(?:response|output|answer|assistant)\b:?|(?:assistant|ai|bot|chatbot|model|gpt|response"
    r"|completion|a)[ \t]*\d{0,3}[ \t]*:)\s*",
    re.IGNORECASE,
)


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for part in ("input", "reference"):
        hits = []
        for row in context.rows:
            for field in row.fields:
                if (
                    field.part == part
                    and ":" in field.text + ("#" in field.text) * ":"
                    and not (part == "input" and _QUOTED_PAIR.fullmatch(field.text))
                    and (match := _SPEAKER.search(field.text) or _conversation(field.text))
                ):
                    hits.append((row, field, match))
        if len({row.id for row, _, _ in hits}) > HABIT * len(context.rows):
            continue
        for row, field, match in hits:
            marks.append(row.mark(f"{quote(match.group())} in the {'answer' if part == 'reference' else 'input'}"))
            if part == "reference" and field.place is not None and _LEADING.match(field.text):
                repairs.append(
                    Repair(row.file, row.line, "the speaker's name before the answer removed", field.place, _without_leading)
                )
    return finding(
        "dialogue-marks",
        Severity.WARN,
        marks,
        "{rows} have names of speakers or sections inside a turn. The chat template writes those; a model would learn "
        "to write them too.",
        "Make turns of them, or remove them.",
        repairs,
    )


def _conversation(text: str) -> re.Match[str] | None:
    """The first line of a conversation between two kinds of people."""
    lines = list(_PARTNER.finditer(text))
    return lines[0] if len({line[1].casefold() for line in lines}) > 1 else None


def _without_leading(text: str) -> str:
    return _LEADING.sub("", text, count=1) or text


CHECK = Check(
    "dialogue-marks",
    'Speakers or sections at the beginning of a line inside a turn ("User:", "Assistant:", "### Response", "Q1:") in a few rows.',
    find,
)
