"""Three learning rates tried in short runs: a third of the preset, the preset, three times it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import UNWATCHED, Progress, TrainWatch, Tuned, Unwatched
from stepladder.domain.task import LoraSettings
from stepladder.files import write_text
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.binding import bind
from stepladder.training.failures import disk_named
from stepladder.training.finetune import Base, settings_from, train_adapter
from stepladder.training.follow import SAVE_EVERY_SECONDS
from stepladder.training.loop import Diverged
from stepladder.training.objectives import Objective, Sft
from stepladder.training.presets import SEARCH_FACTORS, TrainSettings, search_epochs
from stepladder.training.record import pins
from stepladder.training.stopping import within_noise


class _MayGoOn(Unwatched):
    """Asks the watch between two steps, and tells it nothing: the steps of a short run are none of the training's."""

    def __init__(self, watch: TrainWatch) -> None:
        self._watch = watch

    def may_go_on(self) -> None:
        self._watch.may_go_on()


def tune_searching(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    wanted: LoraSettings,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
    watch: TrainWatch = UNWATCHED,
    start: Path | None = None,
) -> Tuned:
    """`finetune.tune_rows` with the rate that a search has found.

    Raises:
        ModelError: No rows to learn, or none to choose by; and as `finetune.train_adapter`.
        RunError, KeyboardInterrupt: As `finetune.train_adapter`; what the search has found so far is kept.
    """
    if not rows or not held_out:
        raise ModelError("a learning-rate search needs rows to learn and rows held out to choose by.", "Add examples.")
    settings = settings_from(start, base, wanted, len(rows), seed)
    objective = Sft(settings.label_smoothing, start)
    train = partial(
        train_adapter,
        base,
        rows,
        held_out,
        progress=progress,
        save_every_seconds=save_every_seconds,
        passes_are_set=wanted.tokens_per_pass is not None,
    )
    search = Search(partial(train, watch=_MayGoOn(watch), anew=True, shown=False), base, rows, held_out, objective, folder)
    return train(search.rate(settings, progress), objective, folder=folder, watch=watch)


@dataclass(frozen=True, slots=True)
class Search:
    """A search for a learning rate. What each rate reached is kept in `<folder>.search.json`, so nothing is searched twice."""

    train: Callable[..., Tuned]  # a short run: settings, objective, folder
    base: Base
    rows: Sequence[EncodedRow]
    held_out: Sequence[EncodedRow]
    objective: Objective
    folder: Path

    def rate(self, settings: TrainSettings, progress: Progress) -> TrainSettings:
        """The settings with the rate whose short run ends with the lowest held-out loss.

        The preset stands unless another is better by more than one standard error of the difference, row by row.

        Raises:
            ModelError: As `finetune.train_adapter`. A rate that makes the training diverge does not: it has lost.
            RunError, KeyboardInterrupt: As `finetune.train_adapter`.
        """
        count = len(self.rows)
        short = replace(settings, epochs=search_epochs(count, epochs=settings.epochs, batch_size=settings.batch_size))
        known = self._known(progress.note)
        tried: dict[float, tuple[float, ...]] = {}
        progress.start("learning-rate search", len(SEARCH_FACTORS))
        for factor in SEARCH_FACTORS:
            trial = replace(short, learning_rate=settings.learning_rate * factor)
            tried[trial.learning_rate] = self._losses(trial, known)
            progress.advance()
        progress.finish()
        self._clear()  # of what a kill has left
        chosen = choose_rate(tried, settings.learning_rate)
        said = ", ".join(f"{rate:.2g}: {fmean(losses):.4f}" for rate, losses in sorted(tried.items()))
        progress.note(f"Learning-rate search, held-out loss after {short.steps(count)} steps at {said}. Chosen: {chosen:.2g}.")
        return replace(settings, learning_rate=chosen)

    def _losses(self, trial: TrainSettings, known: dict[str, Any]) -> tuple[float, ...]:
        """What a rate reaches on each held-out row, from the record where it is known."""
        pinned = {**pins(self.base.identity, trial, self.rows, self.held_out), **self.objective.pins}
        key = bind(pinned, self.rows, self.held_out).training
        if not self._are_losses(known.get(key)):
            try:
                known[key] = list(self.train(trial, self.objective, folder=self._place).held_out_nll)
            except Diverged:
                known[key] = [math.inf] * len(self.held_out)
            with disk_named("what the learning-rate search has found", self._record):
                write_text(self._record, json.dumps(known))
            self._clear()
        return tuple(known[key])

    @property
    def _place(self) -> Path:
        """Where the short runs train."""
        return self.folder.with_name(f"{self.folder.name}.search")

    @property
    def _record(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.search.json")

    def _known(self, note: Callable[[str], None]) -> dict[str, Any]:
        """Losses by what they depend on; none where the record cannot be read."""
        if not self._record.is_file():
            return {}
        try:
            known = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if isinstance(known, dict):
            return known
        note(f"{self._record.name} cannot be read: the learning rates are tried again.")
        return {}

    def _are_losses(self, value: object) -> bool:
        return isinstance(value, list) and len(value) == len(self.held_out) and all(isinstance(nats, float) for nats in value)

    def _clear(self) -> None:
        """Delete what the short runs have left."""
        for left in (self._place, self._place.with_name(f"{self._place.name}.checkpoints")):
            shutil.rmtree(left, ignore_errors=True)


def choose_rate(tried: dict[float, tuple[float, ...]], preset: float) -> float:
    """The rate of the lowest mean loss; the preset where it cannot be told from that.

    Args:
        tried: Loss of every held-out row, by rate.
    """
    best = min(sorted(tried), key=lambda rate: fmean(tried[rate]))
    finite = math.isfinite(fmean(tried[preset]))
    return preset if finite and within_noise(tried[preset], tried[best]) else best
