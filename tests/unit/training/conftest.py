"""A tiny random Llama, rows that share a prompt, and settings that train in a blink."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.presets import TrainSettings

VOCAB = 61


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny model far more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build_llama() -> Callable[..., Any]:
    def build(seed: int = 0) -> Any:
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=96,
            tie_word_embeddings=True,
            initializer_range=0.4,  # wide enough for the tied head to become sure of a token
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return build


@pytest.fixture
def build_rows() -> Callable[..., list[EncodedRow]]:
    def build(count: int, *, seed: int = 0, name: str = "row") -> list[EncodedRow]:
        """Rows of 9 shared prompt tokens, 2 to 7 own ones, and an answer of 2 to 4 that ends with the stop token 2."""
        shared, draw, rows = tuple(range(20, 29)), random.Random(seed), []
        for number in range(count):
            prompt = shared + tuple(draw.randrange(3, VOCAB) for _ in range(draw.randint(2, 7)))
            answer = (*(3 + prompt[-1] % 7 for _ in range(draw.randint(1, 3))), 2)
            weights = (0.0,) * len(prompt) + (1.0,) * len(answer)
            rows.append(EncodedRow(f"{name}-{number}", prompt + answer, weights))
        return rows

    return build


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
