"""How much memory a climb needs at its peak, from the model's shape and the planned work, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepladder.domain.protocols import Choices, ModelIdentity
from stepladder.models.prefix.rows import ENTERED_SHARE, KEPT_WEIGHTS_BYTES, LOGITS_AT_ONCE
from stepladder.models.shape import ModelShape
from stepladder.service.workload import PASSAGE_TOKENS, Workload
from stepladder.training.presets import TrainSettings

PROCESS_BYTES = 500 * 2**20
"""Our estimate of Python with torch, transformers and peft loaded, before any weights."""
TRAINED_PARAMETER_BYTES = 16
"""An adapter's parameter in fp32, its gradient, and AdamW's two moments."""
LOGIT_BYTES = 12
"""A logit in the model's format, in fp32, and its gradient."""
HELD_TIMES = 1.4
"""What the allocator takes for the tensors that a backward pass needs, as a multiple of their sizes; measured."""
TEMPORARY_TIMES = 6.0
"""What a layer's backward pass makes on its way, as a multiple of what it needs of the forward pass; measured."""
TRAINING_BYTES = 60 * 2**20
"""Of a training, however short its rows are; measured."""


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

    Beyond `room` tokens only what enters the layers is held, and all of one layer; a shared prefix gives way first.
    """
    own = work.longest_input_tokens + work.longest_answer_tokens
    if "lora+nearest" in rungs:
        own += min(choices.shots) * work.demonstration_tokens
    if "lora+rag" in rungs:
        own += max(choices.passages) * PASSAGE_TOKENS
    if "dpo" in rungs:
        own += work.longest_answer_tokens  # both answers of a pair stay in one pass
    shared, passed = work.shared_tokens, min(settings.batch_size * own, max(settings.tokens_per_pass, own))
    prefix_fits = room is None or shared + passed <= room
    passes_fit = room is None or passed + shared * (1.0 if prefix_fits else ENTERED_SHARE) <= room
    held = shared * (1.0 if prefix_fits else ENTERED_SHARE) + passed * (1.0 if passes_fit else ENTERED_SHARE)
    of_layer = _held_of_layer(shape, settings)
    temporary = TEMPORARY_TIMES * max(shared, passed) * of_layer
    weights = shape.layers * shape.heads * shape.bytes_per_number
    kept = _kept(prefix_fits, shared * shared * weights) + _kept(passes_fit, passed * (shared + own) * weights)
    learned = settings.batch_size * work.longest_answer_tokens
    logits = min(learned * shape.vocabulary, LOGITS_AT_ONCE) * (shape.bytes_per_number + 4)
    adapter = shape.adapter_parameters(settings.rank) * TRAINED_PARAMETER_BYTES
    return int(HELD_TIMES * held * shape.layers * of_layer + temporary + kept + logits + adapter + TRAINING_BYTES)


def _held_of_layer(shape: ModelShape, settings: TrainSettings) -> int:
    """Bytes that a token's backward pass needs of one layer's forward pass; `models/prefix/layer.py` holds them in a `Tape`."""
    queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    numbers = 2 * (shape.hidden + shape.intermediate + queries + keys) + 7 * settings.rank
    return numbers * shape.bytes_per_number


def _kept(fits: bool, weights: float) -> float:
    """Of so many bytes of softmax weights, those that a pass keeps; shorter rows than the longest may just fit."""
    return min(weights, KEPT_WEIGHTS_BYTES) if fits else 0.0
