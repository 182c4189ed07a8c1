"""Passages of a document: 120 to 200 words, cut where the text itself pauses, overlapping by about a fifth."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from stepladder.domain.messages import Chunk

FEWEST_WORDS = 120
MOST_WORDS = 200
OVERLAP = 0.2  # of the passage before
LONGEST_WORD = 60  # characters; a longer run without space is counted in pieces

# Chinese, Japanese and Korean write without spaces: there every character counts as a word.
_DENSE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_DENSE}]|[^\s{_DENSE}]{{1,{LONGEST_WORD}}}")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")

HEADING, PARAGRAPH, SENTENCE, LINE, NONE = 4, 3, 2, 1, 0
"""How good a place between two words is for a cut."""


def chunk_text(text: str, document: str, headings: Sequence[tuple[int, str]] = ()) -> tuple[Chunk, ...]:
    """Passages of `text`, in order, together covering all of its words.

    A passage after a heading's border begins right there; others repeat about a fifth of the one before. Only a document
    shorter than 120 words gives a passage shorter than that.

    Args:
        headings: (offset, words), offsets ascending.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    if not words:
        return ()
    offsets = [offset for offset, _ in headings]
    quality = _border_qualities(text, words, set(offsets))
    chunks = []
    for first, last in _ranges(quality):
        start, end = words[first][0], words[last - 1][1]
        above = bisect_right(offsets, start)
        heading = headings[above - 1][1] if above else ""
        chunks.append(Chunk(document, start, end, text[start:end], heading))
    return tuple(chunks)


def _border_qualities(text: str, words: Sequence[tuple[int, int]], heading_offsets: set[int]) -> list[int]:
    """`quality[i]` judges a cut before word i; both ends of the text are as good as a heading."""
    qualities = [HEADING]
    for (before, end), (start, _) in pairwise(words):
        gap = text[end:start]
        if start in heading_offsets:
            qualities.append(HEADING)
        elif gap.count("\n") > 1:
            qualities.append(PARAGRAPH)
        elif _SENTENCE_END.search(text[before:end]) and (gap or text[end - 1] in "。！？"):
            qualities.append(SENTENCE)
        else:
            qualities.append(LINE if "\n" in gap else NONE)
    return [*qualities, HEADING]


def _ranges(quality: Sequence[int]) -> list[tuple[int, int]]:
    """Word ranges [first, last) of the passages."""
    total = len(quality) - 1
    ranges = []
    first = 0
    while total - first > MOST_WORDS:
        last = _best(quality, first + FEWEST_WORDS, first + MOST_WORDS, first + MOST_WORDS)
        ranges.append((first, last))
        first = _next_first(quality, first, last, total)
    return [*ranges, (first, total)]


def _next_first(quality: Sequence[int], first: int, last: int, total: int) -> int:
    length = last - first
    following = last
    if quality[last] < HEADING:
        goal = last - round(OVERLAP * length)
        following = _best(quality, last - round(1.5 * OVERLAP * length), last - round(0.5 * OVERLAP * length), goal)
    if total - following < FEWEST_WORDS:  # the rest would be too short alone: let it reach back further
        goal = total - FEWEST_WORDS
        following = _best(quality, total - MOST_WORDS, goal, goal)
    return following


def _best(quality: Sequence[int], low: int, high: int, goal: int) -> int:
    """The best cut in [low, high]; among equals the one nearest to `goal`."""
    return max(range(low, high + 1), key=lambda cut: (quality[cut], -abs(cut - goal), -cut))
