"""Test inputs that resemble nothing in training."""

from __future__ import annotations

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


def find(context: CheckContext) -> list[Finding]:
    train = [place for place, row in enumerate(context.rows) if context.part_of.get(row.id) == "train"]
    test = [place for place, row in enumerate(context.rows) if context.part_of.get(row.id) == "test"]
    if len(train) < FEWEST or not test:
        return []
    vectors = context.vectors
    clusters = np.array([context.clusters[row.id] for row in context.rows])
    usual = _best(vectors, train, train, clusters)
    middle = float(np.median(usual))
    spread = 1.4826 * float(np.median(np.abs(usual - middle)))
    limit = min(middle - SCORE * max(spread, LEAST_SPREAD), float(np.quantile(usual, 0.02)), UNLIKE)
    found = [
        (similarity, place)
        for similarity, place in zip(_best(vectors, test, train, None), test, strict=True)
        if similarity < limit
    ]
    marks = [
        context.rows[place].mark(
            f"{quote(context.rows[place].input_text)}: cosine {max(0.0, similarity):.2f} to the nearest, typically {middle:.2f}"
        )
        for similarity, place in sorted(found)
    ]
    return finding(
        "coverage",
        Severity.WARN if len(marks) >= 3 and len(marks) > MANY * len(test) else Severity.NOTE,
        marks,
        "No training row resembles {rows} of the test split: what is learned cannot help there.",
        "Write training rows like these, or see whether they belong to the task.",
    )


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
    "Test inputs that are less like any training input, by embedding, than training inputs are like each other.",
    find,
    needs=("embedder",),
)
