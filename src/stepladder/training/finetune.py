"""One fine-tune from encoded rows to an adapter folder: continued where it broke off, returned at once when it is done."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import UNWATCHED, ModelIdentity, Progress, TrainWatch, Tuned
from stepladder.domain.task import LoraSettings
from stepladder.files import finish_exchange, hash_bytes, new_folder, write_bytes
from stepladder.models.adapter import check_pins, read_config
from stepladder.models.hardware import memory_total_bytes
from stepladder.models.prefix.paths import FusedPath
from stepladder.models.prefix.paths import Path as ComputePath
from stepladder.models.prefix.rows import EncodedRow, common_prefix_length
from stepladder.training.adapters import (
    WEIGHTS,
    adapted,
    adapter_files,
    fast_attention,
    set_adapter_tensors,
    short_targets,
    silenced,
)
from stepladder.training.binding import Binding, as_begun, bind, place_of, refuse_others
from stepladder.training.checkpoint import Progressed, load_adapter
from stepladder.training.compiling import compile_where_it_pays
from stepladder.training.failures import disk_named, memory_named
from stepladder.training.follow import SAVE_EVERY_SECONDS, LiveTraining, Reported, follow
from stepladder.training.loop import build_optimizer
from stepladder.training.masks import Decode, check_rows, learned_shares, masked_examples
from stepladder.training.memory import reused_memory
from stepladder.training.objectives import Objective, Sft
from stepladder.training.presets import TrainSettings, activation_bytes, choose_settings, room_for_tokens
from stepladder.training.proof import STOPPING_ALARM, Proof, Stopping, check_saved, measure_stopping, probe_logits, shortest
from stepladder.training.record import model_card, pins, read_finished, side_file, tokenizer_files, write_papers
from stepladder.training.stopping import candidates
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
    anew: bool = False,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
    watch: TrainWatch = UNWATCHED,
    start: Path | None = None,
) -> Tuned:
    """Fine-tune on `rows`: see `train_adapter`, with the preset for so many rows.

    Args:
        start: An adapter to go on from instead of a fresh one; its shape is kept.
    Raises:
        ModelError: No rows; `start` is no adapter of this base; and as `train_adapter`.
        RunError, KeyboardInterrupt: As `train_adapter`.
    """
    if not rows:
        raise ModelError("there are no rows to train on.", "Add examples, or lower the share that is held out.")
    settings = settings_from(start, base, wanted, len(rows), seed)
    return train_adapter(
        base,
        rows,
        held_out,
        settings,
        Sft(settings.label_smoothing, start),
        folder=folder,
        progress=progress,
        anew=anew,
        save_every_seconds=save_every_seconds,
        watch=watch,
        passes_are_set=wanted.tokens_per_pass is not None,
    )


def settings_from(start: Path | None, base: Base, wanted: LoraSettings, rows: int, seed: int) -> TrainSettings:
    """The preset for so many rows, in the shape of the adapter to go on from where there is one.

    Raises:
        ModelError: `start` is no adapter of this base.
    """
    settings = settings_for(base, wanted, rows, seed)
    if start is None:
        return settings
    check_start(start, base)
    return shaped_as(start, base, settings)


def check_start(start: Path, base: Base) -> None:
    """Whether there is an adapter of this base to go on from.

    Raises:
        ModelError: There is none, or it belongs to another base.
    """
    if not (start / WEIGHTS).is_file():
        raise ModelError(f"{start}: there is no adapter to go on from.", "Give the folder that a fine-tune has left.")
    check_pins(start, base.identity)


def shaped_as(start: Path, base: Base, settings: TrainSettings) -> TrainSettings:
    """The settings with the shape of the adapter at `start`."""
    adapter = read_config(start)
    targets = adapter.target_modules
    return replace(
        settings,
        rank=adapter.r,
        alpha=adapter.lora_alpha,
        rank_stabilised=adapter.use_rslora,
        target_modules=short_targets(base.model, [targets] if isinstance(targets, str) else list(targets or ())),
    )


def train_adapter(
    base: Base,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    objective: Objective,
    *,
    folder: Path,
    progress: Progress,
    anew: bool = False,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
    shown: bool = True,
    watch: TrainWatch = UNWATCHED,
    passes_are_set: bool = False,
) -> Tuned:
    """Train an adapter on `rows`, keep the step `held_out` chooses (the last without such rows), and leave it at `folder`.

    A finished adapter of equal rows, settings and base is returned as it is. A training that was broken off continues
    from its newest checkpoint in `<folder>.checkpoints` and ends, in fp32 on a CPU, with the same bits.

    Args:
        anew: Train although `folder` or its checkpoints belong to other data, settings or another base; the adapter there
            is replaced in the end, the other training's checkpoints stay.
        save_every_seconds: Longest time between two checkpoints, but for a single step that takes longer.
        shown: Whether the settings and some rows with their masks are said first.
        watch: Told of every step, unless the training was finished already.
        passes_are_set: Whether the user chose `tokens_per_pass`; then a continued training takes it, else what it was begun with.
    Raises:
        ModelError: A row that cannot be learned from (named); the training diverged (`loop.Diverged`); the memory is used up;
            the model cannot be tuned; the saved adapter is not the trained one, or changes nothing.
        RunError: `folder` or its checkpoints belong to something else (with the difference); the disk is full or fails.
        KeyboardInterrupt: The process was told to stop, after the last step was saved.
    """
    check_rows(rows, what="training", max_tokens=settings.max_tokens, stop_ids=base.stop_ids)
    check_rows(held_out, what="held-out", max_tokens=settings.max_tokens, stop_ids=base.stop_ids)
    pinned = {**pins(base.identity, settings, rows, held_out), **objective.pins}
    all_checkpoints = folder.with_name(folder.name + ".checkpoints")
    binding = as_begun(all_checkpoints, bind(pinned, rows, held_out))
    checkpoints = place_of(all_checkpoints, binding)
    with disk_named("the adapter", folder):
        finish_exchange(folder)
    finished = read_finished(folder, binding, anew=anew)
    if not isinstance(finished, Tuned):
        if finished is not None:
            progress.note(f"The adapter at {folder.name} is trained again: {finished}.")
        if not anew:
            refuse_others(all_checkpoints, binding)
        if shown:
            introduce(base, rows, settings, objective, progress)
        settings = _passes_as_begun(settings, binding.tokens_per_pass, progress, are_set=passes_are_set)
        reported = Reported(progress, watch, save_every_seconds)
        finished = _train(base, rows, held_out, settings, objective, folder, checkpoints, binding, reported)
    _remove(checkpoints)
    return finished


def _passes_as_begun(settings: TrainSettings, begun: int, progress: Progress, *, are_set: bool) -> TrainSettings:
    """The settings that a continued training goes on with: its own passes and so its own bits, unless others are asked for."""
    wanted = settings.tokens_per_pass
    if wanted == begun:
        return settings
    if are_set:
        progress.note(
            f"The training was begun with {begun:,} tokens per pass and goes on with {wanted:,}, as `tokens_per_pass` says: its "
            "last digits may differ from those of one run."
        )
        return settings
    progress.note(
        f"The training goes on with {begun:,} tokens per pass, as it was begun; this machine's memory would give {wanted:,}. "
        "`tokens_per_pass` sets others."
    )
    return replace(settings, tokens_per_pass=begun)


def settings_for(base: Base, wanted: LoraSettings, rows: int, seed: int) -> TrainSettings:
    """The settings a training of `rows` rows on this base would use."""
    config, device = base.model.config.get_text_config(decoder=True), base.model.device.type
    return choose_settings(
        wanted,
        rows=rows,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        model_type=config.model_type,
        context_tokens=base.identity.context_tokens,
        seed=seed,
        activations=activation_bytes(device, memory_total_bytes(device)),
    )


def room_of(base: Base) -> int | None:
    """Tokens whose layers a training on this base computes once only; None = of all."""
    model = base.model
    config, device = model.config.get_text_config(decoder=True), model.device.type
    return room_for_tokens(
        device,
        memory_total_bytes(device),
        weights=model.get_memory_footprint(),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        bytes_per_number=model.dtype.itemsize,
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
        + (f" What is asked counts {settings.prompt_loss_weight:g}." if settings.prompt_loss_weight else "")
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
    binding: Binding,
    reported: Reported,
) -> Tuned:
    progress = reported.progress
    longest, room = max(len(row) for row in (*rows, *held_out)), room_of(base)
    with (
        reused_memory(),
        memory_named(f"training {base.identity.name}", _memory_advice(base, rows, held_out, settings)),
        fast_attention(base.model, longest=longest, tokens_per_pass=settings.tokens_per_pass),
    ):
        weighted = [row.with_prompt_weight(settings.prompt_loss_weight) for row in rows]
        answers, unseen = rows[:: objective.loss.together], held_out[:: objective.loss.together]  # of a pair, the better one
        with adapted(base.model, settings) as wrapped:
            objective.prepare(wrapped)
            path = choose_path(wrapped.get_base_model(), weighted, progress.note, room=room)
            if _lacks_room(path, weighted, settings, objective.loss.together):
                progress.note(f"What is beyond {room:,} tokens at once is computed twice, layer by layer, for want of memory.")
            compile_where_it_pays(
                path, wrapped.get_base_model(), weighted, settings, progress.note, together=objective.loss.together
            )
            objective = objective.begin(path, [*rows, *held_out], tokens_per_pass=settings.tokens_per_pass)
            live = LiveTraining(wrapped, build_optimizer(wrapped, settings), checkpoints, binding)
            progressed = live.restore(progress.note)
            progressed = follow(
                live,
                progressed,
                weighted,
                held_out,
                settings,
                path=path,
                objective=objective,
                reported=reported,
            )
            kept = _keep(base, live, progressed, answers, unseen, settings, path, progress)
        return _publish(base, kept, shortest(answers), folder, binding)


def _lacks_room(path: ComputePath, rows: Sequence[EncodedRow], settings: TrainSettings, together: int) -> bool:
    """Whether layers are computed twice, in batches of the rows as they stand."""
    size = settings.batch_size * together
    batches = (rows[first : first + size] for first in range(0, len(rows), size))
    return isinstance(path, FusedPath) and any(
        path.lacks_room(batch, tokens_per_pass=settings.tokens_per_pass, together=together) for batch in batches
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """The chosen step's adapter: its files, and what it says while it is still in memory."""

    tuned: Tuned
    files: Mapping[str, bytes]
    logits: Sequence[torch.Tensor]  # on the shortest training rows
    stopping: Stopping | None


def _keep(
    base: Base,
    live: LiveTraining,
    progressed: Progressed,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    path: ComputePath,
    progress: Progress,
) -> _Kept:
    """Choose the step, bring its adapter back and measure it."""
    evaluations = progressed.evaluations or {}
    nll = evaluations[progressed.step]
    step = candidates(evaluations)[0] if nll else progressed.step
    set_adapter_tensors(live.wrapped, load_adapter(live.checkpoints, step))
    untuned = progressed.history[0].loss
    alike = not (settings.prompt_loss_weight or settings.label_smoothing)  # losses of one kind
    if nll and alike and fmean(evaluations[step]) > untuned:
        progress.note(
            f"The held-out loss ({fmean(evaluations[step]):.3f}) ended above the loss before training ({untuned:.3f}): "
            "the learning rate is too high, or the held-out rows are of another kind."
        )
    tuned = Tuned(
        folder=live.checkpoints,
        adapter_sha256="",
        held_out_nll=evaluations[step],
        history=progressed.history,
        best_step=step,
        steps=progressed.step,
        seconds=progressed.seconds,
        tokens=progressed.tokens,
    )
    stopping = _stopping(base, live, rows, held_out, settings, path, progress)
    files = adapter_files(live.wrapped, base.identity.name)
    return _Kept(tuned, files, probe_logits(live.wrapped.get_base_model(), shortest(rows)), stopping)


def _stopping(
    base: Base,
    live: LiveTraining,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    path: ComputePath,
    progress: Progress,
) -> Stopping | None:
    """How surely the tuned model ends its turn; where it often does not, the untuned one is asked too."""

    def measure() -> Stopping | None:
        return measure_stopping(path, rows, held_out, stop_ids=base.stop_ids, tokens_per_pass=settings.tokens_per_pass)

    tuned = measure()
    if tuned is None or tuned.share >= STOPPING_ALARM:
        return tuned
    with silenced(live.wrapped):
        untuned = measure()
    tuned = replace(tuned, untuned_share=None if untuned is None else untuned.share)
    if untuned is not None and tuned.share <= untuned.share:
        progress.note(
            f"The tuned model is sure to end its turn on {tuned.share:.0%} of {tuned.rows} {tuned.part} rows, the untuned one on "
            f"{untuned.share:.0%}: its answers may run on. Look whether each answer's end of turn is learned, or raise "
            "[rungs.lora] epochs."
        )
    return tuned


def _publish(base: Base, kept: _Kept, probe: Sequence[EncodedRow], folder: Path, binding: Binding) -> Tuned:
    """Write the adapter to `folder`, proved and whole, or not at all. The base carries no adapter now."""
    tuned = replace(kept.tuned, folder=folder, adapter_sha256=hash_bytes(kept.files[WEIGHTS]))
    with disk_named("the adapter", folder), new_folder(folder) as fresh:
        files = {**kept.files, **tokenizer_files(base.tokenizer_folder)}
        for name, content in files.items():
            write_bytes(fresh / name, content)
        proof = Proof(*check_saved(base.model, fresh, probe, kept.logits, kept.files[WEIGHTS]), kept.stopping)
        write_papers(
            fresh, side=side_file(binding, tuned, proof, files, base.model.device), card=model_card(binding.pins, tuned, proof)
        )
    return tuned


def _memory_advice(base: Base, rows: Sequence[EncodedRow], held_out: Sequence[EncodedRow], settings: TrainSettings) -> str:
    """What would lower the memory of this training, most effective first."""
    longest = max((*rows, *held_out), key=len)
    halve = "set STEPLADDER_DTYPE=bfloat16, which halves the weights; " if base.identity.dtype == "float32" else ""
    return (
        f"To lower it: {halve}lower `tokens_per_pass` in [rungs.lora] or [rungs.dpo] (it is {settings.tokens_per_pass}); "
        f"shorten or drop the longest rows (row {longest.id} has {len(longest):,} tokens), each of which is one pass at least; "
        f"lower [rungs.lora] rank (it is {settings.rank}); or take a smaller [model] base. "
        "What was saved is whole: with another `tokens_per_pass`, or on a machine with more memory, it continues. With other "
        "rows, weights or another rank it is another training, for another folder."
    )


def _remove(checkpoints: Path) -> None:
    """Delete a finished training's checkpoints; those of other settings or data stay."""
    shutil.rmtree(checkpoints, ignore_errors=True)
    with suppress(OSError):
        checkpoints.parent.rmdir()
