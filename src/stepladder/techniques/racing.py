"""Choosing among variants with few model calls: all on a few rows, the better half on twice as many, the last on all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepladder.domain.messages import Example, Input
from stepladder.domain.prediction import Grade, Prediction, Score
from stepladder.domain.protocols import FitContext

FIRST_ROWS = 12
NOTHING_GRADED = -1.0


@dataclass(frozen=True, slots=True)
class Tried:
    """How far one variant came: its mean score on the rows it was given; None when nothing could be graded."""

    name: str
    rows: int
    score: float | None

    def as_recipe(self, **more: Any) -> dict[str, Any]:
        return {"name": self.name, "rows": self.rows, "score": self.score, **more}


Value = Callable[[str, int], float | None]
"""Mean score of a variant on the first `rows` rows."""


def race(names: Sequence[str], value: Value, rows: int, *, finalists: Iterable[str] = ()) -> tuple[str, list[Tried]]:
    """The best variant by successive halving, and how each fared, in the order given.

    `finalists` are never dropped. The last two, and the finalists, are compared on all rows; the earlier one wins a tie.

    Source:
        Jamieson & Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization, AISTATS.
    """
    always = set(finalists)
    alive = list(dict.fromkeys(names))
    seen: dict[str, Tried] = {}
    count = min(FIRST_ROWS, rows)
    while len(alive) > 1:
        at_end = count >= rows or len([name for name in alive if name not in always]) <= 2
        count = rows if at_end else count
        for name in alive:
            seen[name] = Tried(name, count, value(name, count))
        if at_end:
            break
        kept = _better_half([name for name in alive if name not in always], seen)
        alive = [name for name in alive if name in kept or name in always]
        count = min(2 * count, rows)
    if not seen:
        seen[alive[0]] = Tried(alive[0], rows, value(alive[0], rows))
    return max(alive, key=lambda name: _rank(seen[name])), [seen[name] for name in dict.fromkeys(names)]


@dataclass
class Answers:
    """Answers of several variants to the same rows, in one seeded order; none is asked for twice."""

    context: FitContext
    rows: Sequence[Example]
    answer: Callable[[str, Sequence[Input]], list[Prediction]]
    _given: dict[str, list[Prediction]] = field(default_factory=dict)

    def first(self, name: str, count: int) -> list[Prediction]:
        """Answers of a variant to the first `count` rows."""
        given = self._given.setdefault(name, [])
        if len(given) < count:
            given += self.answer(name, [row.input for row in self.rows[len(given) : count]])
        return given[:count]

    def value(self, name: str, count: int) -> float | None:
        """Mean score of a variant on the first `count` rows."""
        return mean_score(self.context.score(self.first(name, count)))


def mean_score(grades: Iterable[Grade]) -> float | None:
    """Mean of the scores; an ungraded answer counts for nothing. None when there is no score."""
    scores = [grade.value for grade in grades if isinstance(grade, Score)]
    return float(np.mean(scores)) if scores else None


def shuffled(rows: Sequence[Example], seed: int) -> list[Example]:
    """The rows in one order for a seed, so that the first few are a fair draw."""
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]


def best(scores: Mapping[str, float | None]) -> str:
    """The name of the highest score; the earlier wins a tie, and what could not be graded never wins against what could."""
    return max(scores, key=lambda name: NOTHING_GRADED if scores[name] is None else float(scores[name] or 0.0))


def _better_half(names: Sequence[str], seen: Mapping[str, Tried]) -> set[str]:
    ranked = sorted(names, key=lambda name: -_rank(seen[name]))
    return set(ranked[: (len(ranked) + 1) // 2])


def _rank(tried: Tried) -> float:
    return NOTHING_GRADED if tried.score is None else tried.score
