"""Kinds of rows on which a rung is clearly worse than on the rest: by the columns of the data, and by the expected answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from stepladder.domain.climb import Slice
from stepladder.domain.messages import Example
from stepladder.evaluation.statistics import mean_interval

FEWEST_ROWS = 10
"""A slice with fewer rows, or fewer rows outside it, is not looked at."""
MOST_VALUES = 12
"""A column with more different values is a text, not a kind."""
CLEARLY = 0.05
"""Probability of finding any slice worse where none is (Holm over all slices of the rung)."""
SMALLEST_GAP = 0.05  # a slice less than five points worse is not named, however sure that is
DRAWS = 10_000
BOOKKEEPING = frozenset({"source"})  # who labelled the row, not what kind it is


def kinds_of(examples: Sequence[Example], strata: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """By column, the value of every row that has one: the data's own columns, and `expected answer` from `strata`."""
    columns: dict[str, dict[str, str]] = {}
    for example in examples:
        for column, value in example.metadata.items():
            if column not in BOOKKEEPING and value.strip():
                columns.setdefault(column, {})[example.id] = value.strip()
    columns["expected answer"] = {example.id: strata[example.id] for example in examples if example.id in strata}
    return {column: values for column, values in columns.items() if 2 <= len(set(values.values())) <= MOST_VALUES}


def find_slices(
    rung: str,
    ids: Sequence[str],
    scores: NDArray[np.float64],
    clusters: NDArray[np.int64],
    kinds: Mapping[str, Mapping[str, str]],
    *,
    seed: int = 0,
) -> tuple[Slice, ...]:
    """Every slice that is large enough, worst first within its column; `worse` marks those that are clearly worse.

    A permutation test of the mean of the slice's clusters against the others', one-sided, Holm's correction over all slices.

    Args:
        scores: Shape (rows,), mean over seeds, nan = ungraded; `ids` and `clusters` in the same order.
    Source:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    found: list[Slice] = []
    chances: list[float] = []
    known = ~np.isnan(scores)
    for column, values in kinds.items():
        for value in sorted(set(values.values())):
            inside = np.asarray([values.get(name) == value for name in ids]) & known
            outside = known & ~inside
            if inside.sum() < FEWEST_ROWS or outside.sum() < FEWEST_ROWS:
                continue
            chances.append(_chance(scores, clusters, inside, outside, seed))
            interval = mean_interval(scores[inside], clusters[inside], seed=seed)
            found.append(Slice(rung, column, value, interval, float(scores[outside].mean()), 1.0, False))
    adjusted = holm(chances)
    judged = [
        Slice(
            one.rung,
            one.column,
            one.value,
            one.score,
            one.rest,
            chance,
            chance < CLEARLY and one.rest - one.score.value >= SMALLEST_GAP,
        )
        for one, chance in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(judged, key=lambda one: (list(kinds).index(one.column), one.score.value)))


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted p values: below α means that a false alarm anywhere among them has at most probability α."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    adjusted = [1.0] * len(chances)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = largest
    return adjusted


def _chance(
    scores: NDArray[np.float64],
    clusters: NDArray[np.int64],
    inside: NDArray[np.bool_],
    outside: NDArray[np.bool_],
    seed: int,
) -> float:
    """P(a random set of as many clusters scores as low as the slice): near-duplicates count as one row.

    Exact for pass/fail (Fisher's test), else by drawing.
    """
    within, beyond = _cluster_means(scores[inside], clusters[inside]), _cluster_means(scores[outside], clusters[outside])
    pool = np.concatenate([within, beyond])
    if np.isin(pool, (0.0, 1.0)).all():
        return float(hypergeom.cdf(within.sum(), len(pool), pool.sum(), len(within)))
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.broadcast_to(pool, (DRAWS, len(pool))), axis=1)[:, : len(within)].mean(axis=1)
    return float((1 + (drawn <= within.mean() + 1e-12).sum()) / (1 + DRAWS))


def _cluster_means(scores: NDArray[np.float64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    names = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    means: NDArray[np.float64] = np.bincount(names, weights=scores) / np.bincount(names)
    return means
