"""Three learning rates tried in short runs: a third of the preset, the preset, three times it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import Progress, Tuned
from stepladder.domain.task import LoraSettings
from stepladder.files import hash_json, write_text
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base, settings_for, train_adapter
from stepladder.training.loop import Diverged
from stepladder.training.objectives import Objective, Sft
from stepladder.training.presets import SEARCH_FACTORS, TrainSettings, search_epochs
from stepladder.training.record import pins
from stepladder.training.stopping import within_noise


def tune_searching(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    wanted: LoraSettings,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Tuned:
    """`finetune.tune_rows` with the rate that a search has found.

    Raises:
        ModelError: No rows to learn, or none to choose by; and as `finetune.train_adapter`.
    """
    if not rows or not held_out:
        raise ModelError("a learning-rate search needs rows to learn and rows held out to choose by.", "Add examples.")
    settings = settings_for(base, wanted, len(rows), seed)
    objective = Sft(settings.label_smoothing)
    settings = search_learning_rate(base, rows, held_out, settings, objective, folder=folder, progress=progress)
    return train_adapter(base, rows, held_out, settings, objective, folder=folder, progress=progress)


def search_learning_rate(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    objective: Objective,
    *,
    folder: Path,
    progress: Progress,
) -> TrainSettings:
    """The settings with the rate whose short run ends with the lowest held-out loss.

    The preset stands unless another is better by more than one standard error of the difference, row by row. What each rate
    reached is kept in `<folder>.search.json`, so a training that is continued does not search again.

    Raises:
        ModelError: As `finetune.train_adapter`. A rate that makes the training diverge does not: it has lost.
    """
    short = replace(settings, epochs=search_epochs(len(rows), epochs=settings.epochs, batch_size=settings.batch_size))
    tried: dict[float, tuple[float, ...]] = {}
    progress.start("learning-rate search", len(SEARCH_FACTORS))
    for factor in SEARCH_FACTORS:
        trial = replace(short, learning_rate=settings.learning_rate * factor)
        tried[trial.learning_rate] = _losses(base, rows, held_out, trial, objective, folder, progress)
        progress.advance()
    progress.finish()
    chosen = choose_rate(tried, settings.learning_rate)
    said = ", ".join(f"{rate:.2g}: {fmean(losses):.4f}" for rate, losses in sorted(tried.items()))
    progress.note(f"Learning-rate search, held-out loss after {short.steps(len(rows))} steps at {said}. Chosen: {chosen:.2g}.")
    return replace(settings, learning_rate=chosen)


def choose_rate(tried: dict[float, tuple[float, ...]], preset: float) -> float:
    """The rate of the lowest mean loss; the preset where it cannot be told from that.

    Args:
        tried: Loss of every held-out row, by rate.
    """
    best = min(sorted(tried), key=lambda rate: fmean(tried[rate]))
    finite = math.isfinite(fmean(tried[preset]))
    return preset if finite and within_noise(tried[preset], tried[best]) else best


def _losses(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    trial: TrainSettings,
    objective: Objective,
    folder: Path,
    progress: Progress,
) -> tuple[float, ...]:
    """What a rate reaches on each held-out row, from the record where it is known."""
    record = folder.with_name(f"{folder.name}.search.json")
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    key = hash_json({**pins(base.identity, trial, rows, held_out), **objective.pins})
    if key not in known:
        place = folder.with_name(f"{folder.name}.search")
        try:
            tuned = train_adapter(base, rows, held_out, trial, objective, folder=place, progress=progress, anew=True, shown=False)
            known[key] = list(tuned.held_out_nll)
        except Diverged:
            known[key] = [math.inf] * len(held_out)
        for left in (place, folder.with_name(f"{place.name}.checkpoints")):
            shutil.rmtree(left, ignore_errors=True)
        write_text(record, json.dumps(known))
    return tuple(known[key])
