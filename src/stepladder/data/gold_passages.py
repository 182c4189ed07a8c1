"""Which passages hold the answer to a row, as far as the data says."""

from __future__ import annotations

from collections.abc import Sequence

from stepladder.data.words import words
from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Chunk, Example

SHORTEST_REFERENCE = 3  # characters; a shorter answer stands in passages by chance


class GoldPassages:
    """Finds the gold passages of a row among `chunks`; `rows` are all rows of the data, which say whether sources are named."""

    def __init__(self, chunks: Sequence[Chunk], rows: Sequence[Example]) -> None:
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
        wanted = _plain(expected_answer(row)).strip()
        if len(wanted) < SHORTEST_REFERENCE:
            return set()
        return {index for index, text in enumerate(self._texts) if f" {wanted} " in text}


def _plain(text: str) -> str:
    """Lower-case words between single spaces, with a space at either end, so that whole words can be looked for."""
    return f" {' '.join(words(text))} "
