"""The starter embedder: static English word-piece vectors, read straight from their files. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer as Backend

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import Progress
from stepladder.models.catalog import STARTER_EMBEDDER
from stepladder.models.pull import pull

BATCH = 512


class StaticEmbedder:
    """Mean of a text's token vectors, brought to length 1. A text without tokens gets the zero vector."""

    def __init__(self, name: str, backend: Backend, vectors: NDArray[np.float32]) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._name = name
        self._backend = backend
        self._vectors = vectors

    @classmethod
    def from_folder(cls, folder: Path, *, name: str) -> StaticEmbedder:
        """Read `model.safetensors` (one table, a row for each token) and `tokenizer.json`.

        Raises:
            ModelError: A file is missing or unreadable, or the table has too few rows for the tokenizer.
        """
        again = f"Run: stepladder models pull {name}"
        try:
            (table,) = load_file(folder / "model.safetensors").values()
            backend = Backend.from_file(str(folder / "tokenizer.json"))
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(f"{folder}: the embedder cannot be read ({error}).", again) from error
        if table.ndim != 2 or table.shape[0] < backend.get_vocab_size():
            raise ModelError(f"{folder}: the embedder's table {table.shape} does not fit its tokenizer.", again)
        return cls(name, backend, np.ascontiguousarray(table, dtype=np.float32))

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimensions(self) -> int:
        return int(self._vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimensions), rows of length 1 (0 for a text without any token)."""
        means = np.zeros((len(texts), self.dimensions), dtype=np.float64)
        for start in range(0, len(texts), BATCH):
            encodings = self._backend.encode_batch(list(texts[start : start + BATCH]), add_special_tokens=False)
            for row, encoding in enumerate(encodings, start):
                if encoding.ids:
                    means[row] = self._vectors[encoding.ids].mean(axis=0, dtype=np.float64)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        lengths[lengths == 0] = 1.0
        unit: NDArray[np.float32] = (means / lengths).astype(np.float32)
        return unit


def load_embedder(*, progress: Progress | None = None) -> StaticEmbedder:
    """The starter embedder, fetched first if need be; read once a process.

    Raises:
        ModelError: It cannot be had; the message holds the command that gets it.
    """
    return _read(pull(STARTER_EMBEDDER.name, progress=progress))


@lru_cache(maxsize=2)
def _read(folder: Path) -> StaticEmbedder:
    return StaticEmbedder.from_folder(folder, name=STARTER_EMBEDDER.name)
