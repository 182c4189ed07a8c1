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
        holders = _passages_with(text, passages, holding)
        if not holders:
            continue
        answer = f" {plain_form(row.reference)} "
        with_answer = [number for number in holders if answer in passages[number]]
        mark = row.mark(f"its question stands in {context.chunks[(with_answer or holders)[0]].document}")
        (answered if with_answer and context.is_tested(row) else asked).append(mark)
    return [*_report(answered, Severity.BLOCK), *_report(asked, Severity.WARN)]


def _passages_with(text: str, passages: list[str], holding: dict[tuple[str, ...], list[int]]) -> list[int]:
    """Passages that hold the question, the surest first: a page may list its questions before it answers them."""
    if len(text) < FEWEST_CHARACTERS or len(text.split()) < FEWEST_WORDS:
        return []
    own = _grams(text)
    found = Counter(number for gram in own for number in holding.get(gram, ()))
    whole = {number for number in found if f" {text} " in passages[number]}
    surest = sorted(found, key=lambda number: (number not in whole, -found[number], number))
    return [number for number in surest if number in whole or _is_alike(text, passages[number], found[number], len(own))]


def _is_alike(text: str, passage: str, shared: int, grams: int) -> bool:
    if grams >= 5 and shared >= INSIDE * grams:
        return True
    return shared >= NEAR * grams and fuzz.partial_ratio(text, passage, score_cutoff=ALIKE) > 0


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
        "Remove the question from the document. If users really ask what a FAQ holds word by word, accept it: "
        "the verdict is then indicative and says so.",
    )


CHECK = Check(
    "leak-documents",
    "Questions that stand word by word (or with four of five word triples, or but for a slip of the keys) in a document. "
    "A test row's question beside its answer blocks.",
    find,
)
