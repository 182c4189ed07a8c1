"""Follows a training to its end: shows every step, saves in time, stops when it has seen enough, leaves in order when told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from stepladder.domain.errors import StepladderError
from stepladder.domain.protocols import UNWATCHED, Progress, TrainPlan, TrainPoint, TrainWatch
from stepladder.models.prefix.paths import Path as ComputePath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import adapter_files, adapter_tensors, is_silenced, set_adapter_tensors, silenced
from stepladder.training.binding import BINDING_FILE, Binding, changed_since, read_binding, write_binding
from stepladder.training.checkpoint import (
    Progressed,
    load_adapter,
    newest_checkpoint,
    prune,
    restore_optimizer,
    save_checkpoint,
    steps_taken,
)
from stepladder.training.failures import disk_named, refuse_full_disk
from stepladder.training.loop import Diverged, Evaluation, TrainStep, train, worst_rows
from stepladder.training.objectives import Objective
from stepladder.training.presets import TrainSettings
from stepladder.training.stopping import candidates, far_above, learned_by_heart, may_diverge, settled, steps_to_judge_by

SAVE_EVERY_SECONDS = 60.0
"""Between two evaluations; so much work, and the step under way, is lost by a kill at the worst moment."""


@dataclass(frozen=True, slots=True)
class LiveTraining:
    """A training's live state and the folder of its checkpoints."""

    wrapped: Any
    optimizer: torch.optim.Optimizer
    checkpoints: Path
    binding: Binding

    def restore(self, note: Callable[[str], None]) -> Progressed:
        """Go back to the newest whole checkpoint, or to the start.

        Raises:
            ModelError / RunError: The checkpoint does not fit the adapter tensor by tensor, or the disk has no room.
        """
        device = self.wrapped.device
        found = newest_checkpoint(self.checkpoints, self.binding.digest, note)
        if found is None:
            refuse_full_disk(self.checkpoints, sum(value.nbytes for value in adapter_tensors(self.wrapped).values()))
            with disk_named("the training's checkpoints", self.checkpoints):
                write_binding(self.checkpoints, self.binding, device)
            return Progressed()
        set_adapter_tensors(self.wrapped, load_adapter(self.checkpoints, found.step))
        restore_optimizer(self.checkpoints, found.step, self.optimizer)
        note(f"Continuing the training behind step {found.step}.")
        if read_binding(self.checkpoints) is None:
            note(f"Its {BINDING_FILE} was lost and is written anew; where and with which versions it was begun is not known.")
            with disk_named("the training's checkpoints", self.checkpoints):
                write_binding(self.checkpoints, self.binding, device)
        for changed in changed_since(self.checkpoints, device):
            note(f"It was begun {changed}, so its last digits may differ from those of one run.")
        return found

    def save(self, progressed: Progressed) -> None:
        """Write a checkpoint, then delete those that nothing needs any more.

        Raises:
            RunError: The disk is full or fails; the checkpoints before are whole.
        """
        with disk_named(f"the checkpoint of step {progressed.step}", self.checkpoints):
            tensors = adapter_tensors(self.wrapped)
            save_checkpoint(self.checkpoints, progressed, tensors, self.optimizer, self.binding.digest)
        prune(self.checkpoints, progressed.step)

    def save_before_leaving(self, progressed: Progressed, note: Callable[[str], None]) -> None:
        """Save, unless the interruption came in the middle of an update or of a look at the base without its adapter: then the
        newest checkpoint has to do."""
        if not progressed.step or steps_taken(self.optimizer) != progressed.step or is_silenced(self.wrapped):
            return
        try:
            self.save(progressed)
        except StepladderError as error:
            note(str(error))
        else:
            note(f"Interrupted behind step {progressed.step}, which is saved.")


@dataclass(frozen=True, slots=True)
class Reported:
    """Who hears of a training, and how often it is saved."""

    progress: Progress
    watch: TrainWatch = UNWATCHED
    save_every_seconds: float = SAVE_EVERY_SECONDS

    def tell(
        self, live: LiveTraining, event: TrainStep | Evaluation, progressed: Progressed, settings: TrainSettings, groups: int
    ) -> None:
        """Tell the watch of one event. An epoch's end is told with its evaluation, where there is one."""
        step, point = event.step, progressed.history[-1]
        evaluated = settings.evaluates_after(step, groups)
        if isinstance(event, TrainStep):
            self.watch.stepped(point)
        elif point.held_out_nll is not None:
            self.watch.stepped(point)  # again, now with what the held-out rows say
        epoch_ends = step % settings.steps_per_epoch(groups) == 0 or step == settings.steps(groups)
        if epoch_ends and evaluated == isinstance(event, Evaluation):
            self.watch.epoch_ended(point, partial(adapter_files, live.wrapped, live.binding.pins["base"]))
        self.watch.may_go_on()


def _plan(settings: TrainSettings, steps: int, history: tuple[TrainPoint, ...]) -> TrainPlan:
    return TrainPlan(steps, settings.epochs, settings.batch_size, settings.learning_rate, settings.rank, settings.alpha, history)


def follow(
    live: LiveTraining,
    progressed: Progressed,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    *,
    path: ComputePath,
    objective: Objective,
    reported: Reported,
) -> Progressed:
    """Run the loop to its end; save at every evaluation, every `save_every_seconds` between, and on an interruption.

    Raises:
        KeyboardInterrupt / SystemExit: As raised by a signal or by who is told, after what was done is saved.
        Diverged: The loss is no number, or far above where it began. RunError: It cannot be saved.
    """
    if enough(progressed):  # killed between its last evaluation and its end
        return progressed
    groups, from_step, progress = len(rows) // objective.loss.together, progressed.step, reported.progress
    steps = settings.steps(groups)
    before, started = progressed.seconds, time.perf_counter()
    saved_at = started
    progress.start("training", steps)
    if from_step:
        progress.advance(from_step)
    model = live.wrapped.get_base_model()
    events = train(
        model,
        live.optimizer,
        rows,
        held_out,
        settings,
        path=path,
        objective=objective,
        after_step=from_step,
        evaluated=progressed.evaluated,
    )
    try:
        reported.watch.begun(_plan(settings, steps, progressed.history))
        for event in events:
            now = time.perf_counter()
            progressed = replace(_after(progressed, event), seconds=before + now - started)
            if isinstance(event, TrainStep):
                left = (now - started) / (event.step - from_step) * (steps - event.step)
                progress.advance(detail=f"loss {event.loss:.3f}, at most {_duration(left)} left")
                if may_diverge(progressed.history, settings.batch_size):
                    _refuse_divergence(live, progressed, rows, settings, path, objective)
            reported.tell(live, event, progressed, settings, groups)
            if isinstance(event, Evaluation) or now - saved_at >= reported.save_every_seconds:
                live.save(progressed)
                reported.watch.saved(progressed.step)
                saved_at = time.perf_counter()
            if isinstance(event, Evaluation) and (why := enough(progressed)):
                progress.note(f"Stopped at step {event.step}: {why}.")
                break
    except (KeyboardInterrupt, SystemExit):
        live.save_before_leaving(progressed, progress.note)
        raise
    progress.finish()
    return progressed


def enough(progressed: Progressed) -> str:
    """Why the training can end here, in words; empty when it goes on. Follows from the record alone, so a resume agrees."""
    evaluations = progressed.evaluations or {}
    if not evaluations or not all(evaluations.values()) or not progressed.evaluated:
        return ""
    if learned_by_heart(progressed.history):
        return "the rows are learned by heart and the held-out loss rises"
    if settled(progressed.history, candidates(evaluations)[0]):
        return "the held-out loss no longer falls by more than its noise"
    return ""


def _after(progressed: Progressed, event: TrainStep | Evaluation) -> Progressed:
    """What is known after one more event."""
    if isinstance(event, TrainStep):
        point = TrainPoint(event.step, event.epoch, event.learning_rate, event.loss)
        return replace(progressed, step=event.step, history=(*progressed.history, point), tokens=progressed.tokens + event.tokens)
    if not event.held_out_nll:  # nothing to choose by: the newest is the one to keep
        return replace(progressed, evaluations={event.step: ()})
    known = {**(progressed.evaluations or {}), event.step: event.held_out_nll}
    last = replace(progressed.history[-1], held_out_nll=fmean(event.held_out_nll))
    kept = {*candidates(known), event.step}
    evaluations = {step: nll for step, nll in known.items() if step in kept}
    return replace(progressed, history=(*progressed.history[:-1], last), evaluations=evaluations)


def _refuse_divergence(
    live: LiveTraining,
    progressed: Progressed,
    rows: Sequence[EncodedRow],
    settings: TrainSettings,
    path: ComputePath,
    objective: Objective,
) -> None:
    """Whether the rows of the last steps have become far worse than they are without the adapter.

    Raises:
        Diverged: They have; the worst is named.
    """
    first, together = progressed.step - steps_to_judge_by(settings.batch_size), objective.loss.together
    recent = takewhile(lambda step: step[0] <= progressed.step, settings.batches(len(rows) // together, after_step=first))
    seen = [row for _, batch in recent for index in batch for row in rows[index * together : (index + 1) * together]]
    tuned = objective.judge(path, seen, tokens_per_pass=settings.tokens_per_pass)
    untuned = objective.loss_at_start
    if untuned is None:
        with silenced(live.wrapped):
            untuned = fmean(objective.judge(path, seen, tokens_per_pass=settings.tokens_per_pass))
    if far_above(fmean(tuned), untuned):
        raise Diverged(
            f"training diverges: at step {progressed.step} the loss of the rows it just learned is {fmean(tuned):.3g}, "
            f"and without training it is {untuned:.3g} (worst now: row {worst_rows(seen[::together], tuned)[0].id}).",
            f"Lower [rungs.lora] learning_rate (it peaks at {settings.learning_rate:.2g} here), or look at this row.",
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
