"""Pairs of inputs that ask the same in almost the same words: found wider than near-duplicates, judged word by word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

GRAM = 4  # characters
RARE_GRAMS = 14  # of a text: its rarest grams that another text has too
COMMON = 60  # texts; a gram in more of them says nothing
SHARED_GRAMS = 4
ALIKE = 70.0  # of 100, rapidfuzz' ratio
LONGEST_TYPO = 2  # edits that still count as a slip of the keys

NEGATING = ("un", "in", "im", "il", "ir", "dis", "non")
# Words that can be added or left out of a question without asking something else. "not" and numbers are not among them.
FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "please",
        "pls",
        "plz",
        "kindly",
        "just",
        "really",
        "very",
        "so",
        "also",
        "well",
        "oh",
        "hi",
        "hello",
        "hey",
        "dear",
        "thanks",
        "thank",
        "you",
        "cheers",
        "then",
        "now",
        "um",
        "uh",
        "er",
        "hmm",
        "actually",
        "basically",
        "simply",
        "quickly",
        "again",
        "maybe",
        "could",
        "can",
        "would",
        "will",
        "i",
        "me",
        "my",
        "we",
        "us",
        "to",
        "is",
        "are",
        "be",
        "am",
        "it",
        "this",
        "that",
        "there",
        "of",
        "for",
        "in",
        "on",
        "at",
        "with",
        "and",
        "or",
        "but",
        "do",
        "does",
        "did",
        "have",
        "has",
        "need",
        "want",
        "know",
        "tell",
        "help",
        "some",
        "any",
        "get",
        "let",
        "if",
        "like",
        "asap",
        "currently",
        "here",
        "quick",
        "question",
        "wondering",
        "ask",
    ]
)


def variant_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (i < j) of different plain texts that differ by fillers, word order or slips of the keys only."""
    return [(one, other) for one, other in _candidates(texts) if same_words(texts[one], texts[other])]


@lru_cache(maxsize=65_536)
def same_words(one: str, other: str) -> bool:
    """Whether two plain texts differ only by fillers and misspellings; a changed number or name is another question."""
    left, right = Counter(one.split()), Counter(other.split())
    gone, come = list((left - right).elements()), list((right - left).elements())
    if gone and come and "".join(gone) == "".join(come):
        return True  # "log in" and "login"
    most = max(1, min(len(one.split()), len(other.split())) // 3)
    unmatched = [word for word in gone if not _take_misspelling(word, come)]
    if len(gone) - len(unmatched) > most:
        return False
    return all(word in FILLERS for word in (*unmatched, *come))


def same_meaning(one: str, other: str) -> bool:
    """Whether two texts of the same words are likely to ask the same thing, too.

    Other words in their order, and no other beginning of a word: "man bites dog" asks something else than "dog bites man",
    and neither "untie", "improved" nor "external" is a slip for "tie", "approved" and "internal".
    """
    if "".join(one.split()) == "".join(other.split()):
        return True
    left, right = ([word for word in text.split() if word not in FILLERS] for text in (one, other))
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(one: str, other: str) -> bool:
    if one == other:
        return True
    negated = any(longer == f"{prefix}{word}" for longer, word in ((one, other), (other, one)) for prefix in NEGATING)
    return one[0] == other[0] and not negated and _misspelt(one, other)


def _take_misspelling(word: str, others: list[str]) -> bool:
    for other in others:
        if _misspelt(word, other):
            others.remove(other)
            return True
    return False


def _misspelt(one: str, other: str) -> bool:
    if any(letter.isdigit() for letter in one + other) or min(len(one), len(other)) < 4:
        return False
    allowed = 1 if min(len(one), len(other)) < 7 else LONGEST_TYPO
    return OSA.distance(one, other, score_cutoff=allowed) <= allowed


def _candidates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs that share several of their rare grams and read alike."""
    grams = [frozenset(text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1))) for text in texts]
    counts = Counter(gram for own in grams for gram in own)
    seen: dict[str, list[int]] = defaultdict(list)
    pairs = []
    for index, own in enumerate(grams):
        shared = sorted((gram for gram in own if 1 < counts[gram] <= COMMON), key=lambda gram: (counts[gram], gram))
        others = Counter(other for gram in shared for other in seen[gram])
        least = min(SHARED_GRAMS, max(1, len(shared) // 2))
        near = [other for other, count in others.items() if count >= least]
        for _, _, place in process.extract(
            texts[index], [texts[other] for other in near], scorer=fuzz.token_sort_ratio, score_cutoff=ALIKE, limit=None
        ):
            pairs.append((near[place], index))
        for gram in shared[:RARE_GRAMS]:
            seen[gram].append(index)
    return pairs
