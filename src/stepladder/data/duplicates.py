"""Near-duplicates: rows that ask almost the same, grouped so that no group is ever torn between train and test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from stepladder.data.normalise import own_texts
from stepladder.domain.messages import Example
from stepladder.domain.protocols import Embedder

GRAM = 5  # characters
NEAR_JACCARD = 0.8
NEAR_COSINE = 0.95
BLOCK = 512  # rows compared at once
FAR = 2.0  # any distance above 1 keeps two texts apart

Pairs = dict[tuple[int, int], float]
"""Distance of near pairs (i < j), from 0 = equal to 1 = just near enough; pairs that are far apart are not listed."""


@dataclass(frozen=True, slots=True)
class Nearness:
    """Which rows are near each other.

    texts: Different texts of the rows, less what over half of the rows share.
    text_of: Place in `texts` of every row, in row order.
    pairs: Near pairs of `texts`.
    """

    texts: tuple[str, ...]
    text_of: tuple[int, ...]
    pairs: Pairs

    def clusters(self, ids: Sequence[str]) -> dict[str, int]:
        """Cluster number of every row, numbered by first appearance. Complete linkage: in a cluster all are near each other."""
        groups = _complete_linkage(len(self.texts), self.pairs)
        number_of: dict[int, int] = {}
        return {id: number_of.setdefault(groups[text], len(number_of)) for id, text in zip(ids, self.text_of, strict=True)}


def cluster(examples: Sequence[Example], embedder: Embedder | None = None) -> dict[str, int]:
    """Cluster number of every row, numbered by first appearance; see `find_near` and `Nearness.clusters`."""
    return find_near(examples, embedder).clusters([example.id for example in examples])


def find_near(examples: Sequence[Example], embedder: Embedder | None = None) -> Nearness:
    """Two rows are near when their texts, less what over half of the rows share, have a Jaccard similarity of character
    5-grams of at least 0.8 or a cosine of at least 0.95.
    """
    own = own_texts([example.input.text for example in examples])
    place_of = {text: place for place, text in enumerate(dict.fromkeys(own))}
    texts = tuple(place_of)
    pairs = _near_by_grams(texts)
    if embedder is not None and texts:
        _add_near_by_meaning(pairs, embedder.embed(texts))
    return Nearness(texts, tuple(place_of[text] for text in own), pairs)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared share of two sets of grams."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def grams(text: str) -> frozenset[str]:
    """Character 5-grams; a shorter text is its own only gram."""
    return frozenset(text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1)))


def _near_by_grams(texts: Sequence[str]) -> Pairs:
    """Near pairs by Jaccard, found through rare grams.

    Two sets with Jaccard >= t share at least one of the |A| - ceil(t |A|) + 1 first grams of A in any common order; rarest
    first keeps the candidates few. Source: prefix filtering, Bayardo, Ma & Srikant (2007), Scaling Up All Pairs Similarity.
    """
    sets = [grams(text) for text in texts]
    counts: dict[str, int] = defaultdict(int)
    for own in sets:
        for gram in own:
            counts[gram] += 1
    seen: dict[str, list[int]] = defaultdict(list)
    pairs: Pairs = {}
    for index, own in enumerate(sets):
        prefix = sorted(own, key=lambda gram: (counts[gram], gram))[: len(own) - ceil(NEAR_JACCARD * len(own) - 1e-9) + 1]
        candidates = {other for gram in prefix for other in seen[gram]}
        for other in sorted(candidates):
            similarity = jaccard(sets[other], own)
            if similarity >= NEAR_JACCARD:
                pairs[other, index] = (1 - similarity) / (1 - NEAR_JACCARD)
        for gram in prefix:
            seen[gram].append(index)
    return pairs


def _add_near_by_meaning(pairs: Pairs, vectors: NDArray[np.float32]) -> None:
    """Add near pairs by cosine of unit vectors, shape (texts, dimensions); the nearer of both measures counts."""
    for start in range(0, len(vectors), BLOCK):
        cosines = vectors[start : start + BLOCK] @ vectors.T
        for row, column in zip(*np.nonzero(cosines >= NEAR_COSINE), strict=True):
            first, second = start + int(row), int(column)
            if first < second:
                distance = max(0.0, (1 - float(cosines[row, column])) / (1 - NEAR_COSINE))
                pairs[first, second] = min(pairs.get((first, second), 1.0), distance)


def _complete_linkage(count: int, pairs: Pairs) -> list[int]:
    """A group number for each text. Groups never cross a connected component of near pairs, so each is linked alone."""
    if not pairs:
        return list(range(count))
    ends = np.array(list(pairs))
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, component_of = connected_components(graph, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for index, component in enumerate(component_of):
        members[int(component)].append(index)
    groups = [0] * count
    used = 0
    for own in members.values():
        numbers = _link(own, pairs)
        for index, number in zip(own, numbers, strict=True):
            groups[index] = used + number
        used += max(numbers) + 1
    return groups


def _link(members: list[int], pairs: Pairs) -> list[int]:
    if len(members) == 1:
        return [0]
    distances = np.full((len(members), len(members)), FAR)
    np.fill_diagonal(distances, 0.0)
    for row, first in enumerate(members):
        for column in range(row + 1, len(members)):
            distance = pairs.get((first, members[column]), FAR)
            distances[row, column] = distances[column, row] = distance
    tree = linkage(squareform(distances), method="complete")
    return [int(number) - 1 for number in fcluster(tree, t=1.0 + 1e-9, criterion="distance")]
