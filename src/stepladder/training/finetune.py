"""One fine-tune from encoded rows to an adapter folder: continued where it broke off, returned at once when it is done."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import ModelIdentity, Progress, TrainPoint, Tuned
from stepladder.domain.task import LoraSettings
from stepladder.files import hash_file, hash_json, new_folder
from stepladder.models.prefix.paths import Path as ComputePath
from stepladder.models.prefix.rows import EncodedRow, common_prefix_length
from stepladder.training.adapters import (
    adapted,
    adapter_tensors,
    fast_attention,
    set_adapter_tensors,
    write_papers,
    write_weights,
)
from stepladder.training.checkpoint import (
    Progressed,
    load_adapter,
    newest_checkpoint,
    prune,
    restore_optimizer,
    save_checkpoint,
)
from stepladder.training.loop import Evaluation, TrainStep, build_optimizer, train
from stepladder.training.masks import Decode, check_rows, learned_shares, masked_examples
from stepladder.training.objectives import Objective, Sft
from stepladder.training.presets import TrainSettings, choose_settings
from stepladder.training.record import WEIGHTS, model_card, pins, read_finished, side_file
from stepladder.training.stopping import candidates, learned_by_heart, settled
from stepladder.training.verify import choose_path


@dataclass(frozen=True, slots=True)
class Base:
    """The model to adapt, with what its adapter has to carry along. `model` is a transformers causal language model."""

    model: Any
    identity: ModelIdentity
    decode: Decode
    stop_ids: Collection[int] = ()
    tokenizer_folder: Path | None = None


def tune_rows(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    wanted: LoraSettings,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Tuned:
    """Fine-tune on `rows`: see `train_adapter`, with the preset for so many rows.

    Raises:
        ModelError: No rows; and as `train_adapter`.
    """
    if not rows:
        raise ModelError("there are no rows to train on.", "Add examples, or lower the share that is held out.")
    settings = settings_for(base, wanted, len(rows), seed)
    return train_adapter(base, rows, held_out, settings, Sft(settings.label_smoothing), folder=folder, progress=progress)


def train_adapter(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    objective: Objective,
    *,
    folder: Path,
    progress: Progress,
    shown: bool = True,
) -> Tuned:
    """Train an adapter on `rows`, keep the step `held_out` chooses (the last without such rows), and leave it at `folder`.

    A finished adapter of equal rows, settings and base is returned as it is. A training that was broken off continues
    from its newest checkpoint in `<folder>.checkpoints` and ends, in fp32 on a CPU, with the same bits.

    Args:
        shown: Whether the settings and some rows with their masks are said first.
    Raises:
        ModelError: A row that cannot be learned from (named); the training diverged; the model cannot be tuned.
    """
    check_rows(rows, what="training", max_tokens=settings.max_tokens, stop_ids=base.stop_ids)
    check_rows(held_out, what="held-out", max_tokens=settings.max_tokens, stop_ids=base.stop_ids)
    pinned = {**pins(base.identity, settings, rows, held_out), **objective.pins}
    checkpoints = folder.with_name(folder.name + ".checkpoints") / hash_json(pinned)[:16]
    finished = read_finished(folder, pinned)
    if not isinstance(finished, Tuned):
        if finished is not None:
            progress.note(f"The adapter at {folder.name} is trained again: {finished}.")
        if shown:
            introduce(base, rows, settings, objective, progress)
        weighted = [row.with_prompt_weight(settings.prompt_loss_weight) for row in rows]
        finished = _train(base, weighted, held_out, settings, objective, folder, checkpoints, pinned, progress)
    _remove(checkpoints)
    return finished


def settings_for(base: Base, wanted: LoraSettings, rows: int, seed: int) -> TrainSettings:
    """The settings a training of `rows` rows on this base would use."""
    config = base.model.config.get_text_config(decoder=True)
    return choose_settings(
        wanted,
        rows=rows,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        model_type=config.model_type,
        context_tokens=base.identity.context_tokens,
        seed=seed,
    )


def introduce(base: Base, rows: Sequence[EncodedRow], settings: TrainSettings, objective: Objective, progress: Progress) -> None:
    """Say what is about to be trained: settings, what rows share, what is learned of them, three rows with their masks."""
    smallest, middle = learned_shares(rows)
    shared = common_prefix_length(rows)
    groups = len(rows) // objective.loss.together
    of = "rows" if objective.loss.together == 1 else "pairs of rows"
    progress.note(
        f"LoRA of rank {settings.rank} on {groups} {of}: at most {settings.epochs} epochs of "
        f"{settings.steps_per_epoch(groups)} steps, learning rate {settings.learning_rate:.2g}. "
        f"All rows begin with the same {shared} tokens. Learned of a row: {middle:.0%} of its tokens (at least {smallest:.0%})."
        + (f" Every other token counts {settings.prompt_loss_weight:g}." if settings.prompt_loss_weight else "")
    )
    for number, text in enumerate(masked_examples(rows, base.decode), 1):
        progress.note(f"Training row {number}, learned between ⟦ and ⟧:\n{text}")


def _train(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    objective: Objective,
    folder: Path,
    checkpoints: Path,
    pinned: dict[str, Any],
    progress: Progress,
) -> Tuned:
    longest = max(len(row) for row in (*rows, *held_out))
    with (
        fast_attention(base.model, longest=longest, tokens_per_pass=settings.tokens_per_pass),
        adapted(base.model, settings) as wrapped,
    ):
        objective.prepare(wrapped)
        path = choose_path(wrapped.get_base_model(), rows, progress.note)
        objective = objective.begin(path, [*rows, *held_out], tokens_per_pass=settings.tokens_per_pass)
        run = _Run(wrapped, build_optimizer(wrapped, settings), checkpoints, hash_json(pinned))
        progressed = run.restore(progress.note)
        progressed = _follow(run, progressed, rows, held_out, settings, objective, path, progress)
        return _finish(base, run, progressed, folder, pinned, progress)


@dataclass(frozen=True, slots=True)
class _Run:
    """A training's live state and where its checkpoints lie."""

    wrapped: Any
    optimizer: torch.optim.Optimizer
    checkpoints: Path
    binding: str

    def restore(self, note: Callable[[str], None]) -> Progressed:
        """Go back to the newest whole checkpoint, or to the start."""
        found = newest_checkpoint(self.checkpoints, self.binding, note)
        if found is None:
            return Progressed()
        set_adapter_tensors(self.wrapped, load_adapter(self.checkpoints, found.step))
        restore_optimizer(self.checkpoints, found.step, self.optimizer)
        note(f"Continuing the training behind step {found.step}.")
        return found

    def save(self, progressed: Progressed) -> None:
        tensors = adapter_tensors(self.wrapped)
        save_checkpoint(self.checkpoints, progressed, tensors, self.optimizer, self.binding)
        prune(self.checkpoints, tuple(progressed.evaluations or ()))


def _follow(
    run: _Run,
    progressed: Progressed,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    objective: Objective,
    path: ComputePath,
    progress: Progress,
) -> Progressed:
    """Run the loop to its end: show every step, save every evaluation, stop when the rows are learned by heart."""
    if _enough(progressed):  # killed between its last evaluation and its end
        return progressed
    steps, from_step = settings.steps(len(rows) // objective.loss.together), progressed.step
    before, started = progressed.seconds, time.perf_counter()
    progress.start("training", steps)
    if from_step:
        progress.advance(from_step)
    model = run.wrapped.get_base_model()
    training = train(model, run.optimizer, rows, held_out, settings, path=path, objective=objective, after_step=from_step)
    for event in training:
        elapsed = time.perf_counter() - started
        progressed = replace(_after(progressed, event), seconds=before + elapsed)
        if isinstance(event, TrainStep):
            left = elapsed / (event.step - from_step) * (steps - event.step)
            progress.advance(detail=f"loss {event.loss:.3f}, at most {_duration(left)} left")
            continue
        run.save(progressed)
        enough = _enough(progressed)
        if enough:
            progress.note(f"Stopped at step {event.step}: {enough}.")
            break
    progress.finish()
    return progressed


def _enough(progressed: Progressed) -> str:
    """Why the training can end here, in words; empty when it goes on. Follows from the record alone, so a resume agrees."""
    evaluations = progressed.evaluations or {}
    if not evaluations or not all(evaluations.values()):
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


def _finish(base: Base, run: _Run, progressed: Progressed, folder: Path, pinned: dict[str, Any], progress: Progress) -> Tuned:
    """Write the adapter of the chosen step to `folder`, whole or not at all."""
    evaluations = progressed.evaluations or {}
    nll = evaluations[progressed.step]
    step = candidates(evaluations)[0] if nll else progressed.step
    set_adapter_tensors(run.wrapped, load_adapter(run.checkpoints, step))
    untuned = progressed.history[0].loss
    alike = not (pinned["settings"]["prompt_loss_weight"] or pinned["settings"]["label_smoothing"])  # losses of one kind
    if nll and alike and fmean(evaluations[step]) > untuned:
        progress.note(
            f"The held-out loss ({fmean(evaluations[step]):.3f}) ended above the loss before training ({untuned:.3f}): "
            "the learning rate is too high, or the held-out rows are of another kind."
        )
    tuned = Tuned(
        folder=folder,
        adapter_sha256="",
        held_out_nll=evaluations[step],
        history=progressed.history,
        best_step=step,
        steps=progressed.step,
        seconds=progressed.seconds,
        tokens=progressed.tokens,
    )
    with new_folder(folder) as fresh:
        write_weights(fresh, run.wrapped)
        tuned = replace(tuned, adapter_sha256=hash_file(fresh / WEIGHTS))
        write_papers(fresh, tokenizer_folder=base.tokenizer_folder, side=side_file(pinned, tuned), card=model_card(pinned, tuned))
    return tuned


def _remove(checkpoints: Path) -> None:
    """Delete a finished training's checkpoints; those of other settings or data stay."""
    shutil.rmtree(checkpoints, ignore_errors=True)
    with suppress(OSError):
        checkpoints.parent.rmdir()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
