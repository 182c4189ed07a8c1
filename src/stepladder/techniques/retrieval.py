"""Which passages belong to a question: words (BM25) and meaning (embedding), joined by rank."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import bm25s
import numpy as np
from numpy.typing import NDArray

from stepladder.data.words import words
from stepladder.domain.messages import Chunk, Example, Input
from stepladder.domain.protocols import Embedder
from stepladder.domain.task import Task
from stepladder.techniques.forms import last_user_text, reference_text

RANK_CONSTANT = 60
SHORTEST_REFERENCE = 3  # characters; a shorter answer stands in passages by chance

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


class GoldPassages:
    """Which passages hold the answer to a row, as far as the data says."""

    def __init__(self, task: Task, chunks: Sequence[Chunk], rows: Sequence[Example]) -> None:
        self._task = task
        self._documents = [chunk.document for chunk in chunks]
        self._texts = [_plain(f"{chunk.heading} {chunk.text}") for chunk in chunks]
        self._sources_given = any(row.sources for row in rows)

    def of(self, row: Example) -> frozenset[int]:
        """Indices of the gold passages; empty when the row has none that can be known.

        Passages of the row's `sources`, only those that contain the reference if any does. Where no row of the data names
        sources, passages that contain the reference.
        """
        if row.sources:
            sources = set(row.sources)
            inside = {index for index, document in enumerate(self._documents) if document in sources}
            return frozenset(self._containing(row) & inside or inside)
        return frozenset() if self._sources_given else frozenset(self._containing(row))

    def traces_of(self, row: Example) -> frozenset[int]:
        """What must go so that the answer stands nowhere: every passage of the gold documents or with the reference in it."""
        documents = {*row.sources, *(self._documents[index] for index in self.of(row))}
        inside = {index for index, document in enumerate(self._documents) if document in documents}
        return frozenset(inside | self._containing(row))

    def _containing(self, row: Example) -> set[int]:
        wanted = _plain(reference_text(self._task, row)).strip()
        if len(wanted) < SHORTEST_REFERENCE:
            return set()
        return {index for index, text in enumerate(self._texts) if f" {wanted} " in text}


def query_of(input: Input) -> str:
    """What is searched for: the last user turn."""
    return last_user_text(input.messages)


def _searchable(chunk: Chunk) -> str:
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def _plain(text: str) -> str:
    """Lower-case words between single spaces, with a space at either end, so that whole words can be looked for."""
    return f" {' '.join(words(text))} "


def _reciprocal_ranks(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / (60 + rank), rank 1 for the highest score; equal scores in the passages' order."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1.0 / (RANK_CONSTANT + ranks)
