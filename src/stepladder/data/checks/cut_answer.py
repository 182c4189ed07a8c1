"""Answers that stop in the middle."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from stepladder.data.checks.answers import parse_answer
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.checks.rows import CheckedRow

MAJORITY = 0.8
FEWEST_WORDS = 4
FREQUENT = 3  # rows
_ENDED = re.compile(
    r"[.!?…。！？؟:;)\]}\"'”’»`*|>]\s*$|[\U0001f300-\U0001faff\u2600-\u27bf]\s*$|https?://\S+$|[\w.+-]+@[\w-]+(?:\.[\w-]+)+$"
)
_HANGING = re.compile(
    r"(?:[,–—(\[{/&+=]|(?<=\w)-|\b(?:the|a|an|and|or|but|of|to|with|for|from|by|at|as|is|are|was|were|be|because|that"
    r"|which|your|our|their"
    r"|his|its|my|if|than|into|about|de|la|le|und|der|die|das|mit|für))\s*$",
    re.IGNORECASE,
)
_LAST_SENTENCE = re.compile(r"(?:^|.*[.!?…]\s)(?P<rest>[^.!?…]*)$", re.DOTALL)
_APOSTROPHE = re.compile(r"[^\W\d_]['’]$")
_OPENING = re.compile(r"(?:^|[\s(—–-])['‘]")
SIGNATURE_WORDS = 4
_DOTS = re.compile(r"(?:\.\.\.|…|\[(?:truncated|cut|…|\.\.\.)\]|\(truncated\))\s*$", re.IGNORECASE)
_SMILEY = re.compile(r"[:;]-?[(\[)\]]")
_PAIRS = (("(", ")"), ("[", "]"), ("{", "}"), ("“", "”"), ("«", "»"))


def find(context: CheckContext) -> list[Finding]:
    closed = set(context.task.settings.output.labels)
    prose = [row for row in context.rows if _is_prose(row)]
    ending = sum(bool(_ENDED.search(row.reference)) for row in prose)
    sentences = len(prose) >= 10 and ending >= MAJORITY * len(prose)
    dotted = sum(bool(_DOTS.search(row.reference)) for row in context.rows) <= 0.2 * len(context.rows)
    passages = _Passages([chunk.text for chunk in context.chunks])
    frequent = [text for text, count in Counter(row.reference.strip() for row in context.rows).items() if count >= FREQUENT]
    marks: list[Mark] = []
    for row in context.rows:
        if row.reference.strip() in closed or row.example.reference.tool_calls:
            continue
        said = _why(row, sentences=sentences, dotted=dotted) or passages.cut_inside(row) or _beginning_of(row, frequent)
        if said:
            marks.append(row.mark(f"{said}: {quote('…' + row.reference.strip()[-40:])}"))
    return finding(
        "cut-answer",
        Severity.WARN,
        marks,
        "{rows} have an answer that seems to be cut: a model would learn to stop in the middle.",
        "Complete the answer, or drop the row.",
    )


def _is_prose(row: CheckedRow) -> bool:
    return len(row.reference.split()) >= FEWEST_WORDS and parse_answer(row.reference) is None


def _why(row: CheckedRow, *, sentences: bool, dotted: bool) -> str:
    text = _SMILEY.sub("", row.reference).strip()
    if text[:1] in ("{", "["):
        return "the JSON does not end" if parse_answer(text) is None and text[-1:] not in ("}", "]") else ""
    for opening, closing in _PAIRS:
        if text.count(opening) > text.count(closing):
            return f"an open {opening} is never closed"
    if text.count("```") % 2:
        return "a code fence is never closed"
    if dotted and _DOTS.search(text) and len(text.split()) >= FEWEST_WORDS:
        return "it ends in dots"
    if len(text.split()) >= FEWEST_WORDS - 1 and _HANGING.search(text):
        return "its last word hangs"
    if sentences and _is_prose(row) and not _is_ended(text) and not _is_signed(text, row.input_text):
        return "it ends without the punctuation that the others end with"
    return ""


def _is_ended(text: str) -> bool:
    """Whether it ends like a sentence; an apostrophe that closes no quotation ("but don'") is inside a word."""
    return bool(_ENDED.search(text)) and not (_APOSTROPHE.search(text) and not _OPENING.search(text))


def _is_signed(text: str, input_text: str) -> bool:
    """Whether an answer ends in a name below it that the input ends with too ("Nurse Okoro", "Solveig, pharmacist")."""
    last = _LAST_SENTENCE.match(text)
    rest = last["rest"].split() if last else []
    if not 0 < len(rest) <= SIGNATURE_WORDS or not rest[0][:1].isupper():
        return False
    signed = {word.strip(",.:;()") for word in input_text.split()[-SIGNATURE_WORDS:]}
    return any(word[:1].isupper() and word.strip(",.") in signed for word in rest)


def _beginning_of(row: CheckedRow, frequent: Sequence[str]) -> str:
    """Whether an answer is the beginning of one that many rows give, broken off inside a word."""
    text = row.reference.strip()
    longer = [one for one in frequent if len(one) > len(text) > 2 and one.startswith(text)]
    return f"it begins like {quote(longer[0])}" if longer and (text[-1] + longer[0][len(text)]).isalpha() else ""


class _Passages:
    """The texts an answer may be copied from."""

    def __init__(self, documents: list[str]) -> None:
        self._documents = "\n".join(documents).casefold()

    def cut_inside(self, row: CheckedRow) -> str:
        """Whether an answer stands in its input or the documents only with its last word going on there."""
        text = row.reference.strip().casefold()
        if len(text) < 2 or parse_answer(row.reference) is not None:
            return ""
        for source in (row.input_text.casefold(), self._documents):
            nexts = {source[at + len(text) : at + len(text) + 1] for at in _places(source, text)}
            if nexts:
                going_on = all(letter.isalnum() and letter.isdigit() >= text[-1:].isdigit() for letter in nexts if letter)
                return "its last word goes on where it was copied from" if going_on and "" not in nexts else ""
        return ""


def _places(source: str, text: str) -> list[int]:
    found = []
    at = source.find(text)
    while at >= 0:
        if at == 0 or not source[at - 1].isalnum():
            found.append(at)
        at = source.find(text, at + 1)
    return found


CHECK = Check(
    "cut-answer",
    'Answers that seem to stop in the middle: JSON, brackets or fences never closed, a hanging word ("and", "the", a '
    "comma), dots, no "
    "final punctuation where the other answers have it, or a last word that goes on where it was copied from.",
    find,
)
