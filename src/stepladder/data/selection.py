"""Which unlabelled rows to label first: those that are unlike everything labelled so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def k_centre(vectors: NDArray[np.float32], count: int, *, labelled: Sequence[int] = ()) -> list[int]:
    """Rows in the order in which each is the farthest from all that stand before it, `labelled` included.

    Going on from what is labelled gives the same order as never having stopped. The first row of all is the one nearest to
    the middle; of equally far rows the first in the file is taken.

    Args:
        vectors: Unit vectors, shape (rows, dimensions).
        count: Rows wanted; fewer come back when there are fewer.
        labelled: Rows that are centres already; they are not returned.
    Source:
        Gonzalez (1985), Clustering to minimize the maximum intercluster distance; as active learning: Sener & Savarese (2018).
    """
    wanted = min(count, len(vectors) - len(set(labelled)))
    farness = np.full(len(vectors), np.inf)
    for row in labelled:
        _draw_near(farness, vectors, row)
    chosen: list[int] = []
    if wanted > 0 and not labelled:
        chosen.append(int(np.argmax(vectors @ vectors.mean(axis=0))))
        _draw_near(farness, vectors, chosen[0])
    while len(chosen) < wanted:
        chosen.append(int(np.argmax(farness)))
        _draw_near(farness, vectors, chosen[-1])
    return chosen


def _draw_near(farness: NDArray[np.float64], vectors: NDArray[np.float32], centre: int) -> None:
    """Update each row's cosine distance to its nearest centre; a centre itself is never chosen again."""
    taken = farness == -1.0
    np.minimum(farness, np.maximum(0.0, 1.0 - (vectors @ vectors[centre]).astype(np.float64)), out=farness)
    farness[taken] = -1.0
    farness[centre] = -1.0
