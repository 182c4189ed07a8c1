"""What a fine-tune uses unless told otherwise, from the number of rows and the model's width.

Sources: rank, batch, epochs and warm-up from the small-data practice of several tools; the rate's shape from the Tinker
cookbook's hyper-parameter formula (2025), its use below a width of 2,000 is our assumption; all-linear targets from
"LoRA Without Regret" (Thinking Machines, 2025).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from stepladder.domain.task import LoraSettings

WARMUP_SHARE = 0.08
WARMUP_STEPS_AT_LEAST = 3
FINAL_RATE_SHARE = 0.1
STEPS_BETWEEN_EVALUATIONS = 20
QWEN_RATE = 3e-4
LOWEST_DPO_RATE = 5e-6
SEARCH_FACTORS = (1.0, 1 / 3, 3.0)
SEARCH_STEPS = 20  # of a short run, about; whole epochs are run
STABILISED_ALPHA = 16.0  # the scale of rank-stabilised LoRA falls with √rank only, so one alpha serves every rank
ACTIVATION_BYTES = 2**30  # for one pass; what a pass needs beyond the weights
ACTIVATION_SHARE, ACTIVATION_SHARE_OF_GPU = 1 / 16, 1 / 8  # of all memory
TRAINING_SHARE, TRAINING_SHARE_OF_GPU = 1 / 2, 4 / 5  # of all memory, for weights and activations; others need the rest
BYTES_PER_TOKEN_LAYER_WIDTH = 40  # kept of a llama shape in bf16 for the backward pass, attention weights included
TOKENS_PER_PASS_AT_LEAST = 512  # fewer rows leave the matrix products waiting for the weights


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that decides a training but the rows and the base model. Equal settings and data give equal adapters."""

    rank: int
    alpha: float
    learning_rate: float  # the peak
    epochs: int
    batch_size: int  # rows an optimizer step, at most
    max_tokens: int  # longest row; 0 = the model says no limit
    tokens_per_pass: int  # rows × longest own part of one forward pass
    seed: int
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 1.0
    rank_stabilised: bool = False  # scaled by alpha / √rank
    target_modules: tuple[str, ...] = ()  # none = every linear layer but the head
    prompt_loss_weight: float = 0.0  # of a prompt's token, beside 1 of an answer's
    label_smoothing: float = 0.0

    def steps_per_epoch(self, rows: int) -> int:
        return math.ceil(rows / self.batch_size)

    def steps(self, rows: int) -> int:
        """Optimizer steps when nothing stops the training early."""
        return self.epochs * self.steps_per_epoch(rows)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Rate of optimizer step `step` (from 1) of `steps`: linear to the peak, then linear to a tenth of it."""
        warmup = min(steps, max(WARMUP_STEPS_AT_LEAST, round(WARMUP_SHARE * steps)))
        if step <= warmup:
            return self.learning_rate * step / warmup
        left = (steps - step) / (steps - warmup)
        return self.learning_rate * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * left)

    def evaluates_after(self, step: int, rows: int) -> bool:
        """After every epoch, every 20 steps where an epoch is longer, and after the last step."""
        return step % min(self.steps_per_epoch(rows), STEPS_BETWEEN_EVALUATIONS) == 0 or step == self.steps(rows)

    def batches(self, rows: int, *, after_step: int = 0) -> Iterator[tuple[int, list[int]]]:
        """(step from 1, row numbers) of every step after `after_step`; each epoch sees every row once, in its own order.

        A pure function of the seed, so the step number alone is the place to continue from. Batches of an epoch differ
        by one row at most: a last batch of one or two rows would weigh as much as a full one.
        """
        per_epoch = self.steps_per_epoch(rows)
        for epoch in range(after_step // per_epoch, self.epochs):
            order = list(range(rows))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            bounds = [rows * part // per_epoch for part in range(per_epoch + 1)]
            for part in range(per_epoch):
                step = epoch * per_epoch + part + 1
                if step > after_step:
                    yield step, order[bounds[part] : bounds[part + 1]]


def activation_bytes(device: str, total: int | None) -> int:
    """What one pass may take beyond the weights, of a machine or a GPU with `total` bytes of memory (None = not known).

    By all memory and not by what is free: the same training on the same machine is then cut into the same passes. On a CPU
    passes of more than a gibibyte are no faster; a GPU wants thousands of tokens at once.
    """
    if total is None:
        return ACTIVATION_BYTES
    if device == "cuda":
        return max(ACTIVATION_BYTES, int(total * ACTIVATION_SHARE_OF_GPU))
    return min(ACTIVATION_BYTES, int(total * ACTIVATION_SHARE))


def room_for_tokens(
    device: str, total: int | None, *, weights: int, layers: int, hidden: int, bytes_per_number: int
) -> int | None:
    """Tokens for which a training may hold all that its backward pass needs; layers of those beyond are computed twice.

    Args:
        total: Bytes of the machine's memory, or the GPU's; None = not known, and then any number of tokens.
        weights: Bytes of the base model.
    """
    if total is None:
        return None
    share = TRAINING_SHARE_OF_GPU if device == "cuda" else TRAINING_SHARE
    left = max(activation_bytes(device, total), int(total * share) - weights)
    return left // bytes_per_token(layers, hidden, bytes_per_number)


def bytes_per_token(layers: int, hidden: int, bytes_per_number: int = 2) -> int:
    """What a token's backward pass needs of its forward pass, over all layers."""
    return layers * hidden * BYTES_PER_TOKEN_LAYER_WIDTH * bytes_per_number // 2


def choose_settings(
    wanted: LoraSettings,
    *,
    rows: int,
    hidden: int,
    layers: int,
    model_type: str,
    context_tokens: int,
    seed: int,
    activations: int = ACTIVATION_BYTES,
) -> TrainSettings:
    """The preset for `rows` training rows and a model of `hidden` width, with the user's own values in place of ours.

    Args:
        activations: Bytes that one pass may take beyond the weights.
    """
    rank = wanted.rank or (8 if rows < 100 else 16)
    limits = [limit for limit in (wanted.max_tokens, context_tokens) if limit]
    return TrainSettings(
        rank=rank,
        alpha=wanted.alpha or (STABILISED_ALPHA if wanted.rank_stabilised else 2 * rank),
        learning_rate=wanted.learning_rate or default_learning_rate(hidden, model_type),
        epochs=epochs_for(wanted, rows),
        batch_size=batch_size_for(wanted, rows),
        max_tokens=min(limits, default=0),
        tokens_per_pass=wanted.tokens_per_pass or max(TOKENS_PER_PASS_AT_LEAST, activations // bytes_per_token(layers, hidden)),
        seed=seed,
        rank_stabilised=wanted.rank_stabilised,
        target_modules=wanted.target_modules,
        prompt_loss_weight=wanted.prompt_loss_weight,
        label_smoothing=wanted.label_smoothing,
    )


def epochs_for(wanted: LoraSettings, rows: int) -> int:
    """Most passes over `rows` training rows."""
    return wanted.epochs or _by_size(rows, 10, 6, 4)


def batch_size_for(wanted: LoraSettings, rows: int) -> int:
    """Examples an optimizer step."""
    return wanted.batch_size or _by_size(rows, 4, 8, 16)


def default_learning_rate(hidden: int, model_type: str) -> float:
    """Peak rate by width: 5e-4 · (2000 / hidden)^0.78, kept in [1e-4, 1e-3]; Qwen models take 3e-4 at any width."""
    if model_type.startswith("qwen"):
        return QWEN_RATE
    return min(1e-3, max(1e-4, 5e-4 * math.pow(2000 / hidden, 0.78)))


def search_epochs(rows: int, *, epochs: int, batch_size: int) -> int:
    """Epochs of a short run of the learning-rate search: about 20 steps, and never more than the training's own."""
    return min(epochs, math.ceil(SEARCH_STEPS / max(1, math.ceil(rows / batch_size))))


def dpo_learning_rate(sft: float) -> float:
    """Peak rate of preference tuning from the preset of the fine-tune before it: a hundredth, at least 5e-6."""
    return max(LOWEST_DPO_RATE, sft / 100)


def _by_size(rows: int, small: int, medium: int, large: int) -> int:
    if rows < 100:
        return small
    return medium if rows <= 300 else large
