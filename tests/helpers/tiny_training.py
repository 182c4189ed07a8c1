"""A training in small: a random Llama, rows that share a prompt, settings that train in a blink, and a watcher that notes all."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stepladder.domain.protocols import ModelIdentity, Tuned
from stepladder.domain.task import LoraSettings
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base, tune_rows

VOCAB = 61
IDENTITY = ModelIdentity("tiny", "transformers", "aa" * 32, "bb" * 32, "cc" * 32, context_tokens=96, dtype="float32")
QUICK = LoraSettings(rank=2, learning_rate=5e-3, epochs=4, batch_size=4)
STEPS = 12  # of QUICK on ten rows, three an epoch


def build_llama(seed: int = 0, *, vocab: int = VOCAB) -> Any:
    config = LlamaConfig(
        vocab_size=vocab,
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


def build_rows(count: int, *, seed: int = 0, name: str = "row") -> list[EncodedRow]:
    """Rows of 9 shared prompt tokens, 2 to 7 own ones, and an answer of 2 to 4 that ends with the stop token 2."""
    shared, draw, rows = tuple(range(20, 29)), random.Random(seed), []
    for number in range(count):
        prompt = shared + tuple(draw.randrange(3, VOCAB) for _ in range(draw.randint(2, 7)))
        answer = (*(3 + prompt[-1] % 7 for _ in range(draw.randint(1, 3))), 2)
        weights = (0.0,) * len(prompt) + (1.0,) * len(answer)
        rows.append(EncodedRow(f"{name}-{number}", prompt + answer, weights))
    return rows


def build_base(**keywords: Any) -> Base:
    return Base(build_llama(**keywords), IDENTITY, decode=lambda ids: " ".join(map(str, ids)), stop_ids={2})


class KilledError(Exception):
    """Stands for a kill: nothing is done in answer to it."""


@dataclass
class Watcher:
    """Progress that writes down what it is told, and raises `error` at the given advance."""

    kill_at: int | None = None
    error: type[BaseException] = KilledError
    notes: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    advanced: int = 0
    total: int | None = None

    def start(self, label: str, total: int | None = None) -> None:
        self.total = total

    def advance(self, count: int = 1, detail: str = "") -> None:
        self.advanced += count
        self.details.append(detail)
        if self.advanced == self.kill_at:
            raise self.error

    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def tune(base: Base, folder: Path, **changes: Any) -> Tuned:
    """Ten rows, five held out, the quick settings; anything else as named."""
    given = {"wanted": QUICK, "seed": 0, "progress": Watcher(), "rows": build_rows(10), **changes}
    held_out = given.pop("held_out", None)
    if held_out is None:
        held_out = build_rows(5, seed=9, name="unseen")
    return tune_rows(base, given.pop("rows"), held_out, given.pop("wanted"), folder=folder, **given)


def broken_off(folder: Path, at: int, **changes: Any) -> None:
    """A training that something breaks off behind step `at`."""
    with suppress(KilledError):
        tune(build_base(), folder, progress=Watcher(at), **changes)
        raise AssertionError(f"the training ended before step {at}")


def continued(folder: Path, **changes: Any) -> tuple[Tuned, list[str]]:
    """The training gone on with, and what it said."""
    watcher = Watcher()
    return tune(build_base(), folder, progress=watcher, **changes), watcher.notes
