"""A tiny random Llama, rows that share a prompt, and settings that train in a blink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tiny_training
from stepladder.domain.protocols import Tuned
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.presets import TrainSettings


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny model far more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build_llama() -> Callable[..., Any]:
    return tiny_training.build_llama


@pytest.fixture
def build_rows() -> Callable[..., list[EncodedRow]]:
    return tiny_training.build_rows


@pytest.fixture
def build_pairs(build_rows: Callable[..., list[EncodedRow]]) -> Callable[..., list[EncodedRow]]:
    def build(count: int, *, seed: int = 0, name: str = "pair") -> list[EncodedRow]:
        """Rows of `build_rows`, each followed by another answer to its prompt, of another length."""
        pairs = []
        for number, row in enumerate(build_rows(count, seed=seed, name=name)):
            prompt = row.token_ids[: row.labelled[0]]
            answer = (*((5 + number + place) % 50 + 3 for place in range(number % 4 + 1)), 2)
            weights = (0.0,) * len(prompt) + (1.0,) * len(answer)
            pairs += [row, EncodedRow(f"{row.id} (rejected)", prompt + answer, weights)]
        return pairs

    return build


@pytest.fixture
def quick_settings() -> TrainSettings:
    return TrainSettings(rank=4, alpha=8, learning_rate=5e-3, epochs=3, batch_size=4, max_tokens=96, tokens_per_pass=40, seed=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """The tiny training without any interruption."""
    return tiny_training.tune(tiny_training.build_base(), tmp_path_factory.mktemp("whole") / "adapter")
