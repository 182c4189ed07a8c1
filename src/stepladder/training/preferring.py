"""Preference tuning of an adapter that has learned the task: from pairs of answers to another adapter folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import UNWATCHED, Progress, TrainWatch, Tuned
from stepladder.domain.task import DpoSettings, LoraSettings
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base, check_start, settings_for, shaped_as, train_adapter
from stepladder.training.follow import SAVE_EVERY_SECONDS
from stepladder.training.objectives import Dpo, check_pairs
from stepladder.training.presets import TrainSettings, dpo_learning_rate


def tune_pairs(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    wanted: DpoSettings,
    *,
    start: Path,
    folder: Path,
    seed: int,
    progress: Progress,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
    watch: TrainWatch = UNWATCHED,
) -> Tuned:
    """Train the adapter of `start` on, so that it prefers the first of each pair; `start` itself stays, as the reference.

    Args:
        rows, held_out: Chosen and rejected answers by turns. `held_out_nll` of the result is the loss of each held-out pair.
    Raises:
        ModelError: No pairs, or one with equal answers; `start` is no adapter of this base; and as `finetune.train_adapter`.
    """
    if not rows:
        raise ModelError("there are no preference rows to train on.", "Add rows with a preferred and a non-preferred answer.")
    check_pairs(rows)
    check_pairs(held_out)
    check_start(start, base)
    settings = dpo_settings_for(base, wanted, start, pairs=len(rows) // 2, seed=seed)
    return train_adapter(
        base,
        rows,
        held_out,
        settings,
        Dpo(wanted.beta, start),
        folder=folder,
        progress=progress,
        save_every_seconds=save_every_seconds,
        watch=watch,
        passes_are_set=wanted.tokens_per_pass is not None,
    )


def dpo_settings_for(base: Base, wanted: DpoSettings, start: Path, *, pairs: int, seed: int) -> TrainSettings:
    """The preset for so many pairs; the adapter keeps the shape it has in `start`."""
    same = LoraSettings(epochs=wanted.epochs, batch_size=wanted.batch_size, tokens_per_pass=wanted.tokens_per_pass)
    preset = settings_for(base, same, pairs, seed)
    return replace(shaped_as(start, base, preset), learning_rate=wanted.learning_rate or dpo_learning_rate(preset.learning_rate))
