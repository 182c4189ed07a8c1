"""Test questions that stand in the documents, beside their answers."""

from __future__ import annotations

from collections import Counter, defaultdict

from rapidfuzz import fuzz

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.normalise import plain_form

FEWEST_WORDS = 4
FEWEST_CHARACTERS = 18
GRAM = 3  # words
INSIDE = 0.8  # share of a question's word 3-grams that stand in one passage
NEAR = 0.3  # share from which on it is looked at letter by letter
ALIKE = 92.0  # similarity of the question to the best place of the passage; two slips in forty letters are 95


def find(context: CheckContext) -> list[Finding]:
    if not context.chunks:
        return []
    passages = [f" {plain_form(f'{chunk.heading} {chunk.text}')} " for chunk in context.chunks]
    holding: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, passage in enumerate(passages):
        for gram in _grams(passage):
            holding[gram].append(number)
    answered: list[Mark] = []
    asked: list[Mark] = []
    for row, text in zip(context.rows, context.plain_inputs, strict=True):
        passage_number = _passage_with(text, passages, holding)
        if passage_number is None:
            continue
        mark = row.mark(f"its question stands in {context.chunks[passage_number].document}")
        near_answer = f" {plain_form(row.reference)} " in passages[passage_number]
        (answered if near_answer and context.is_tested(row) else asked).append(mark)
    return [*_report(answered, Severity.BLOCK), *_report(asked, Severity.WARN)]


def _passage_with(text: str, passages: list[str], holding: dict[tuple[str, ...], list[int]]) -> int | None:
    if len(text) < FEWEST_CHARACTERS or len(text.split()) < FEWEST_WORDS:
        return None
    own = _grams(text)
    found = Counter(number for gram in own for number in holding.get(gram, ()))
    if not found:
        return None
    number, count = max(found.items(), key=lambda item: (f" {text} " in passages[item[0]], item[1]))
    if f" {text} " in passages[number] or (len(own) >= 5 and count >= INSIDE * len(own)):
        return number
    near = count >= NEAR * len(own) and fuzz.partial_ratio(text, passages[number], score_cutoff=ALIKE) > 0
    return number if near else None


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)}


def _report(marks: list[Mark], severity: Severity) -> list[Finding]:
    beside = ", beside their answers" if severity is Severity.BLOCK else ""
    return finding(
        "leak-documents",
        severity,
        marks,
        f"The questions of {{rows}} stand in the documents{beside}: retrieval would find the question, not the knowledge.",
        "Remove the question from the document. If users really ask what a FAQ holds word by word, accept it.",
    )


CHECK = Check(
    "leak-documents",
    "Questions that stand word by word (or with four of five word triples, or but for a slip of the keys) in a document. "
    "A test row's question beside its answer blocks.",
    find,
)
