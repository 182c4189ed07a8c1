"""Answers that go in circles."""

from __future__ import annotations

import re
from collections import Counter

from stepladder.data.checks.answers import parse_answer
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity

TIMES = 3
RUN = 4  # words
_SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]+|[^.!?\n]+$")
_STUTTER = re.compile(r"\b(\w{2,})(?:[\s,.]+\1\b){3,}", re.IGNORECASE)

_ALL_THE_SAME = re.compile(r"^(\S.{0,80}?)(?:[\s.,;]+\1){3,}[\s.,;]*$", re.DOTALL)


def find(context: CheckContext) -> list[Finding]:
    marks = [row.mark(f"says {quote(said)} again and again") for row in context.rows if (said := repeated(row.reference))]
    return finding(
        "repetition",
        Severity.WARN,
        marks,
        "{rows} have an answer that repeats itself, as a model does that does not find its end.",
        "Write the answer once.",
    )


def repeated(text: str) -> str:
    """What a text says again and again; empty when it does not go in circles."""
    if parse_answer(text) is not None:
        return ""
    if stutter := _STUTTER.search(text) or _ALL_THE_SAME.match(text):
        return stutter.group()
    sentences = Counter(" ".join(part.lower().split()) for part in _SENTENCE.findall(text))
    repeated = [sentence for sentence, count in sentences.items() if count >= TIMES and len(sentence) >= 8]
    if repeated:
        return repeated[0]
    words = text.lower().split()
    runs = Counter(tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1))
    run, count = runs.most_common(1)[0] if runs else ((), 0)
    return " ".join(run) if count > TIMES and count * RUN > 0.3 * len(words) else ""


CHECK = Check("repetition", "Answers in which a sentence stands three times, or a word or run of words again and again.", find)
