"""Is a list of values drawn from a small closed set, or will the next one be new?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MOST_VALUES = 200
LONGEST_VALUE = 60  # characters
MOST_WORDS = 6
FEWEST_REPEATS = 3  # rows by value, on average
MOST_UNSEEN = 0.05


def closed_set(texts: Sequence[str]) -> tuple[str, ...] | None:
    """The different values, commonest first, when they are short, few and repeat; None when they look open.

    Values seen once say how likely the next row holds an unseen one: at most a twentieth of the rows (or one row) may be such.

    Source:
        Good (1953), The population frequencies of species and the estimation of population parameters, Biometrika 40.
    """
    counts = Counter(texts)
    if not 2 <= len(counts) <= min(MOST_VALUES, len(texts) // FEWEST_REPEATS):
        return None
    if any(len(value) > LONGEST_VALUE or len(value.split()) > MOST_WORDS or "\n" in value or not value for value in counts):
        return None
    once = sum(count == 1 for count in counts.values())
    if once > max(1, MOST_UNSEEN * len(texts)):
        return None
    return tuple(value for value, _ in counts.most_common())
