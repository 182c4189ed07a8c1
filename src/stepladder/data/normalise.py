"""Texts as duplicate checks see them: without case, punctuation, and what over half of the inputs share."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

SHARED_WORDS = 8  # a run of words this long that over half of the inputs share is boilerplate
_NOT_WORDS = re.compile(r"[\W_]+")

T = TypeVar("T", bound=Hashable)


def plain_form(text: str) -> str:
    """Case-folded words with single spaces; a text without any word stays as it is, folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORDS.sub(" ", folded).strip() or " ".join(folded.split())


def own_texts(texts: Sequence[str]) -> list[str]:
    """Plain forms without what over half of the texts share: lines, openings, endings, runs of at least eight words.

    A text of which nothing would be left keeps its whole plain form.
    """
    plain = [plain_form(text) for text in texts]
    lines = [[plain_form(line) for line in text.splitlines() if line.strip()] for text in texts]
    shared = _over_half([set(own) for own in lines], len(texts))
    words = [" ".join(line for line in own if line not in shared).split() for own in lines]
    words = _without_common_opening(words)
    words = [own[::-1] for own in _without_common_opening([own[::-1] for own in words])]
    words = _without_shared_runs(words)
    return [" ".join(own) or whole for own, whole in zip(words, plain, strict=True)]


def _over_half(groups: Sequence[set[T]], total: int) -> set[T]:
    counts = Counter(item for group in groups for item in group)
    return {item for item, count in counts.items() if 2 * count > total}


def _without_common_opening(texts: list[list[str]]) -> list[list[str]]:
    """Take away the longest sequence of first words that over half of the texts begin with."""
    sharing = list(range(len(texts)))
    length = 0
    while True:
        nexts = Counter(texts[index][length] for index in sharing if len(texts[index]) > length)
        word, count = nexts.most_common(1)[0] if nexts else ("", 0)
        if 2 * count <= len(texts):
            break
        sharing = [index for index in sharing if len(texts[index]) > length and texts[index][length] == word]
        length += 1
    members = set(sharing) if length else set()
    return [words[length:] if index in members else words for index, words in enumerate(texts)]


def _without_shared_runs(texts: list[list[str]]) -> list[list[str]]:
    """Take away every word that lies in a run of eight words which over half of the texts contain."""
    runs = [[tuple(words[at : at + SHARED_WORDS]) for at in range(len(words) - SHARED_WORDS + 1)] for words in texts]
    shared = _over_half([set(own) for own in runs], len(texts))
    if not shared:
        return texts
    result = []
    for words, own in zip(texts, runs, strict=True):
        gone = {at + step for at, run in enumerate(own) if run in shared for step in range(SHARED_WORDS)}
        result.append([word for at, word in enumerate(words) if at not in gone])
    return result
