"""Test inputs that resemble nothing in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity

FEWEST = 20
SCORE = 4.0  # robust standard deviations below the median similarity of training rows to each other
LEAST_SPREAD = 0.05
UNLIKE = 0.6  # cosine; two texts of one task are rarely less alike than this unless something is odd
MANY = 0.02  # share of the test rows from which on it is a warning
BLOCK = 512

DOUBTFUL_QUANTILE = 0.75  # of the training rows' similarities: about rows that are nearer than this the model is not asked
NATS_MARGIN = 0.05  # likeness is the mean of two samples, and not quite steady
MANY_STRANGE = 0.25  # of the test rows; some clean rows are strange to the model, too


@dataclass(frozen=True)
class _Nearness:
    """How near each test row is to its nearest training row, and training rows to each other, by cosine."""

    train: list[int]
    test: list[int]
    nearest: NDArray[np.float32]  # shape (test,)
    usual: NDArray[np.float32]  # shape (train,)


def find(context: CheckContext) -> list[Finding]:
    near = _nearness(context)
    if near is None:
        return []
    middle = float(np.median(near.usual))
    spread = 1.4826 * float(np.median(np.abs(near.usual - middle)))
    limit = min(middle - SCORE * max(spread, LEAST_SPREAD), float(np.quantile(near.usual, 0.02)), UNLIKE)
    far = {place: float(nearest) for nearest, place in zip(near.nearest, near.test, strict=True) if nearest < limit}
    found = {place: f"cosine {max(0.0, nearest):.2f} to the nearest, typically {middle:.2f}" for place, nearest in far.items()}
    nearest = dict(zip(near.test, map(float, near.nearest), strict=True))
    for place in near.test:
        nats = (context.likeness or {}).get(context.rows[place].id)
        if nats is not None and nats + nearest[place] < middle + NATS_MARGIN:  # a foreign row gains on neither scale
            found.setdefault(
                place,
                f"cosine {max(0.0, nearest[place]):.2f} to the nearest, typically {middle:.2f}; "
                f"after training inputs it is likelier by {nats:.2f} nats a token",
            )
    marks = [
        context.rows[place].mark(f"{quote(context.rows[place].input_text)}: {found[place]}")
        for place in sorted(found, key=lambda place: (place not in far, nearest[place]))
    ]
    many = len(far) > MANY * len(near.test) or len(marks) > MANY_STRANGE * len(near.test)
    return finding(
        "coverage",
        Severity.WARN if len(marks) >= 3 and many else Severity.NOTE,
        marks,
        "No training row resembles {rows} of the test split: what is learned cannot help there.",
        "Write training rows like these, or see whether they belong to the task.",
    )


def thinly_covered(context: CheckContext) -> list[int]:
    """Places of test rows that are not clearly near a training row: worth asking the model about."""
    near = _nearness(context)
    if near is None:
        return []
    limit = np.quantile(near.usual, DOUBTFUL_QUANTILE)
    return [place for nearest, place in zip(near.nearest, near.test, strict=True) if nearest < limit]


def _nearness(context: CheckContext) -> _Nearness | None:
    """None where there is no test split, or too little training to say what is usual."""
    train = [place for place, row in enumerate(context.rows) if context.part_of.get(row.id) == "train"]
    test = [place for place, row in enumerate(context.rows) if context.part_of.get(row.id) == "test"]
    if len(train) < FEWEST or not test:
        return None
    clusters = np.array([context.clusters[row.id] for row in context.rows])
    nearest, usual = _best(context.vectors, test, train, None), _best(context.vectors, train, train, clusters)
    return _Nearness(train, test, nearest, usual)


def _best(
    vectors: NDArray[np.float32], rows: list[int], others: list[int], clusters: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """Highest cosine of each row to another; with `clusters`, to one outside its own near-duplicate cluster."""
    best = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        cosines = vectors[part] @ vectors[others].T
        if clusters is not None:
            cosines[clusters[part][:, None] == clusters[others][None, :]] = -1.0
        best[start : start + BLOCK] = cosines.max(axis=1)
    return best


CHECK = Check(
    "coverage",
    "Test inputs that are less like any training input, by embedding, than training inputs are like each other; "
    "with the base model also those that training inputs make hardly likelier.",
    find,
    needs=("embedder",),
    sharper_with=("likeness",),
)
