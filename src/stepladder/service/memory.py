"""How much memory a climb needs at its peak, from the model's shape and the planned work, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepladder.domain.protocols import Choices, ModelIdentity
from stepladder.models.prefix.rows import LOGITS_AT_ONCE
from stepladder.models.shape import ModelShape
from stepladder.service.workload import PASSAGE_TOKENS, Workload
from stepladder.training.presets import TrainSettings, bytes_per_token

PROCESS_BYTES = 500 * 2**20
"""Our estimate of Python with torch, transformers and peft loaded, before any weights."""
TRAINED_PARAMETER_BYTES = 16
"""An adapter's parameter in fp32, its gradient, and AdamW's two moments."""
LOGIT_BYTES = 12
"""A logit in the model's format, in fp32, and its gradient."""
ENTERED_SHARE = 6 / 40
"""Of what a token's backward pass needs, what stays where its layers are computed twice: what enters them, keys and values."""


class Limits(Protocol):
    """What an engine computes at once."""

    @property
    def rows(self) -> int: ...

    @property
    def tokens(self) -> int: ...


@runtime_checkable
class Local(Protocol):
    """An engine whose model lies in this process."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def limits(self) -> Limits: ...


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of a climb. Answering and training take turns, so the larger of the two counts."""

    process: int
    weights: int
    answering: int
    training: int

    @property
    def peak(self) -> int:
        return self.process + self.weights + max(self.answering, self.training)


def memory_lines(memory: Memory | None, identity: ModelIdentity, available: int | None) -> Iterator[str]:
    """The plan's words about memory.

    Args:
        available: Bytes that can still be taken on this machine, the loaded model already counted as taken.
    """
    if memory is None:
        yield f"Memory: not known; '{identity.name}' does not run in this process."
        return
    where = "" if memory.process else " of the accelerator's"
    yield (
        f"Memory: about {_gib(memory.peak)}{where} at the peak ({_gib(memory.weights)} weights; answering takes "
        f"{_gib(memory.answering)}, training {_gib(memory.training)} more)."
    )
    wanted = max(memory.answering, memory.training)
    if memory.process and available is not None and wanted > available:
        yield f"Memory: only {_gib(available)} are free beside the model; close other programs, or set `[rungs.lora] batch_size`."


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def predict_memory(
    shape: ModelShape,
    limits: Limits,
    work: Workload,
    choices: Choices,
    rungs: tuple[str, ...],
    training: TrainSettings | None,
    room: int | None = None,
) -> Memory:
    """The memory of a climb of `rungs`.

    Args:
        training: The settings of the fine-tune; None when nothing is trained.
        room: Tokens whose layers a training computes once only, None = of all; see `room_for_tokens`.
    """
    return Memory(
        process=PROCESS_BYTES if shape.device == "cpu" else 0,
        weights=shape.parameters * shape.bytes_per_number + shape.laid_out_bytes,
        answering=max(_answering(shape, limits, work, *kind) for kind in _prompts(work, choices, rungs)),
        training=0 if training is None else _training(shape, work, choices, rungs, training, room),
    )


def _prompts(work: Workload, choices: Choices, rungs: tuple[str, ...]) -> Iterator[tuple[float, float]]:
    """Tokens of each kind of prompt the rungs ask: what its rows share, and a row's own.

    All kinds count: the longest prompts are asked in the smallest batches, so they need not take the most memory.
    """
    shared, own = work.shared_tokens, work.longest_input_tokens
    shown = max(choices.shots) * work.demonstration_tokens
    yield shared, own
    if "few-shot" in rungs:
        yield shared + shown, own
    if {"nearest", "lora+nearest"} & set(rungs):
        yield shared, own + shown
    if {"rag", "lora+rag"} & set(rungs):
        yield shared, own + max(choices.passages) * PASSAGE_TOKENS


def _answering(shape: ModelShape, limits: Limits, work: Workload, shared: float, own: float) -> int:
    """Keys and values of the largest batch, one layer of them repeated for every head, and the reading of its own tokens."""
    row = shared + own + work.max_new_tokens
    asked = max(work.validation_rows, work.test_rows, 1)
    rows = max(1, min(limits.rows, asked, int(limits.tokens // row)))
    repeated = 2 * rows * row * shape.heads * shape.head_width * shape.bytes_per_number
    reading = rows * own * (10 * shape.hidden + 4 * shape.intermediate) * shape.bytes_per_number
    logits = rows * shape.vocabulary * LOGIT_BYTES
    return int(rows * row * shape.token_bytes + repeated + reading + logits)


def _training(
    shape: ModelShape, work: Workload, choices: Choices, rungs: tuple[str, ...], settings: TrainSettings, room: int | None
) -> int:
    """Activations of the fullest pass and of the prefix kept beside it, one piece of logits, the adapter with its optimizer.

    Beyond `room` tokens only what enters the layers is held, and all of one layer.
    """
    own = work.longest_input_tokens + work.longest_answer_tokens
    if "lora+nearest" in rungs:
        own += min(choices.shots) * work.demonstration_tokens
    if "lora+rag" in rungs:
        own += max(choices.passages) * PASSAGE_TOKENS
    if "dpo" in rungs:
        own += work.longest_answer_tokens  # both answers of a pair stay in one pass
    tokens = min(settings.batch_size * own, max(settings.tokens_per_pass, own)) + work.shared_tokens
    held = tokens * bytes_per_token(shape.layers, shape.hidden, shape.bytes_per_number)
    if room is not None and tokens > room:
        held *= ENTERED_SHARE + 1 / shape.layers
    learned = settings.batch_size * work.longest_answer_tokens
    logits = min(learned * shape.vocabulary, LOGITS_AT_ONCE) * (shape.bytes_per_number + 4)
    adapter = shape.adapter_parameters(settings.rank) * TRAINED_PARAMETER_BYTES
    return int(held + logits + adapter)
