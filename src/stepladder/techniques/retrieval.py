"""Which passages belong to a question: words (BM25) and meaning (embedding), joined by rank."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import bm25s
import numpy as np
from numpy.typing import NDArray

from stepladder.data.words import words
from stepladder.domain.messages import Chunk, Input
from stepladder.domain.protocols import Embedder
from stepladder.techniques.forms import last_user_text

RANK_CONSTANT = 60

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for its debug lines to be shown as soon as it is imported


class Retriever:
    """Ranks passages by reciprocal rank fusion of BM25 and embedding cosine.

    Source:
        Cormack, Clarke & Büttcher (2009), Reciprocal rank fusion outperforms Condorcet, SIGIR; BM25 by bm25s.
    """

    def __init__(self, chunks: Sequence[Chunk], embedder: Embedder) -> None:
        self.chunks = tuple(chunks)
        self._embedder = embedder

    def search(self, queries: Sequence[str], count: int, without: Sequence[frozenset[int]] | None = None) -> list[list[int]]:
        """Indices of the best `count` passages for each query, best first; `without[i]` are left out for query i."""
        if not queries:
            return []
        banned = without if without is not None else [frozenset[int]()] * len(queries)
        similarities = self._embedder.embed(list(queries)) @ self._vectors.T
        found = []
        for query, similarity, some in zip(queries, similarities, banned, strict=True):
            order = self._fuse(query, similarity)
            found.append([index for index in order if index not in some][:count])
        return found

    def _fuse(self, query: str, similarity: NDArray[np.float32]) -> list[int]:
        matches = self._word_scores(query)
        fused = _reciprocal_ranks(similarity) + np.where(matches > 0, _reciprocal_ranks(matches), 0.0)
        return [int(index) for index in np.argsort(-fused, kind="stable")]

    def _word_scores(self, query: str) -> NDArray[np.float32]:
        asked = words(query)
        if not asked:
            return np.zeros(len(self.chunks), dtype=np.float32)
        return np.asarray(self._index.get_scores(asked), dtype=np.float32)

    @cached_property
    def _index(self) -> bm25s.BM25:
        index = bm25s.BM25()
        index.index([words(_searchable(chunk)) for chunk in self.chunks], show_progress=False)
        return index

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        return self._embedder.embed([_searchable(chunk) for chunk in self.chunks])


def query_of(input: Input) -> str:
    """What is searched for: the last user turn."""
    return last_user_text(input.messages)


def _searchable(chunk: Chunk) -> str:
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def _reciprocal_ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / (60 + rank), rank 1 for the highest score; equal scores in the passages' order."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1.0 / (RANK_CONSTANT + ranks)
