"""One label in several spellings, and answers in another letter case than the rest."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial

from rapidfuzz.distance import OSA

from stepladder.data.checks.answer_fields import WHOLE, Field, answer_fields
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity
from stepladder.data.checks.rows import CheckedRow

RARER = 0.34  # a spelling that occurs at most so often as another may be meant as that one
FEWEST = 3
EDITS = 2
MAJORITY = 0.8
_SIGNS = re.compile(r"[\W_]+")


def find_spelling(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for field in answer_fields(context):
        meant = _meant(field)
        for place, text in field.texts:
            if (usual := meant.get(text.strip())) is None:
                continue
            row = context.rows[place]
            marks.append(row.mark(f"{field.name()} is {quote(text)}, elsewhere {quote(usual)}"))
            written = row.reference_field
            if field.path == WHOLE and written.place is not None:
                repairs.append(
                    Repair(row.file, row.line, f"written '{usual}' as elsewhere", written.place, partial(_instead, usual))
                )
    return finding(
        "label-spelling",
        Severity.WARN,
        marks,
        "{rows} spell a value in another way than most rows do: to a grader and to a model these are different answers.",
        "Choose one spelling; `[output] labels` or a schema with `enum` then holds every row to it.",
        repairs,
    )


def _instead(usual: str, _: str) -> str:
    return usual


def _meant(field: Field) -> dict[str, str]:
    """The commoner spelling of values that differ from it by letter case or signs, and for labels also by a slip or two."""
    counts = Counter(text.strip() for _, text in field.texts)
    by_letters: dict[str, list[str]] = {}
    for text in counts:
        by_letters.setdefault(_SIGNS.sub("", text.casefold()) or text, []).append(text)
    meant: dict[str, str] = {}
    for spellings in by_letters.values():
        usual = max(spellings, key=lambda text: counts[text])
        meant |= {
            text: usual
            for text in spellings
            if text != usual and counts[usual] >= FEWEST and (field.is_label or counts[text] <= RARER * counts[usual])
        }
    if field.is_label:
        usuals = [text for text, count in counts.items() if count >= FEWEST and text not in meant]
        for text, count in counts.items():
            near = [usual for usual in usuals if count <= RARER * counts[usual] and _is_slip(text, usual)]
            if near and text not in meant:
                meant[text] = max(near, key=lambda usual: counts[usual])
    return meant


def _is_slip(text: str, usual: str) -> bool:
    one, other = text.casefold(), usual.casefold()
    if one == other or any(letter.isdigit() for letter in one + other) or min(len(one), len(other)) < 4:
        return False
    allowed = 1 if min(len(one), len(other)) < 6 else EDITS
    if OSA.distance(one, other, score_cutoff=allowed) <= allowed:
        return one[:1] == other[:1] or one[-2:] == other[-2:]
    return one in (f"{other}s", f"{other}es") or other in (f"{one}s", f"{one}es")


def find_case(context: CheckContext) -> list[Finding]:
    """Letter case of whole answers: shouted, or begun in small letters, where four of five are not."""
    shouting: list[Mark] = []
    begun: list[Mark] = []
    for field in answer_fields(context):
        texts = [(place, text.strip()) for place, text in field.texts if sum(map(str.isalpha, text)) >= 4]
        if len(texts) < 20 or field.is_label:
            continue
        styles = [_style(text) for _, text in texts]
        common, count = Counter(styles).most_common(1)[0]
        shouted = [place for (place, _), style in zip(texts, styles, strict=True) if style == "capital letters"]
        shouted = [place for place in shouted if not _is_short_name(context.rows[place], context)]
        if common != "capital letters" and len(shouted) <= (1 - MAJORITY) * len(texts):
            shouting += [context.rows[place].mark(f"{field.name()} is all in capital letters") for place in shouted]
        if common == "a capital" and count >= MAJORITY * len(texts):
            for (place, text), style in zip(texts, styles, strict=True):
                if style not in (common, "capital letters"):
                    begun.append(context.rows[place].mark(f"{field.name()} begins with {style}: {quote(text[:20])}"))
    fix = "Write it as the others are written."
    return [
        *finding("format-case", Severity.WARN, shouting, "{rows} have an answer in capital letters, and the others do not.", fix),
        *finding(
            "format-case", Severity.NOTE, begun, "{rows} have an answer that begins in another letter case than the rest.", fix
        ),
    ]


def _is_short_name(row: CheckedRow, context: CheckContext) -> bool:
    """One word in capitals that stands so in the input or a document: an abbreviation, a ship, a station."""
    text = row.reference.strip()
    return len(text.split()) == 1 and (text in row.input_text or any(text in chunk.text for chunk in context.chunks))


def _style(text: str) -> str:
    letters = [letter for letter in text if letter.isalpha()]
    if len(letters) >= 4 and not any(map(str.islower, letters)) and any(map(str.isupper, letters)):
        return "capital letters"
    return "a capital" if letters[0].isupper() else "a small letter" if letters[0].islower() else "another letter"


SPELLING = Check(
    "label-spelling",
    'Values that occur in several spellings: letter case, signs between words ("cancel_return", "Cancel return"), and '
    "for labels "
    "slips of one or two letters and plurals.",
    find_spelling,
)
CASE = Check(
    "format-case",
    "Answers all in capital letters, or begun with a small letter, where four of five begin with a capital.",
    find_case,
)
