"""What the tuned rungs share: training rows, adapters and where they lie, and answering with one adapter per seed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import Conversation, FitContext, Grammar, Prompt, Recipe, Tuned
from stepladder.models.adapter_scale import write_scaled
from stepladder.techniques.asking import Asked, ModelPredictor, Prompter, say_dropped, step
from stepladder.techniques.decode import Decode, choose_decode
from stepladder.techniques.forms import reference_turn

FEWEST_ROWS = 40  # training rows, held-out ones among them; in each fold


@dataclass(frozen=True, slots=True)
class TunedPredictor:
    """A rung with one adapter a seed; the first answers, `seed_predictors` gives each of them."""

    context: FitContext
    recipe: Recipe
    prompter: Prompter
    grammar: Grammar | None = None

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order, with the first seed's adapter."""
        return self._of_seed(0).predict(inputs)

    def seed_predictors(self) -> list[ModelPredictor]:
        """One predictor a trained seed, the first one's first; each recipe names its own adapter only."""
        return [self._of_seed(index) for index in range(len(self.recipe["adapters"]))]

    def _of_seed(self, index: int) -> ModelPredictor:
        record = self.recipe["adapters"][index]
        recipe = {**self.recipe, "adapters": [record]}
        if index:
            recipe["priors"] = None  # priors belong to one adapter's weights; the scorer measures its own
        return ModelPredictor(self.context, recipe, self.prompter, adapter_folder(self.context, record), self.grammar)


def reason_not_to_tune(context: FitContext) -> str | None:
    """Why nothing is trained here, in a sentence; None when it can be."""
    if context.tuner is None:
        return f"The weights of '{context.engine.identity.name}' are not on this machine, so they cannot be tuned here."
    if "adapter" not in context.engine.can:
        return f"The engine '{context.engine.identity.engine}' cannot answer with an adapter."
    if len(context.train) < FEWEST_ROWS:
        return f"Fine-tuning needs at least {FEWEST_ROWS} training rows; there are {len(context.train)}."
    if not context.tune_rows or not context.held_out:
        return "Fine-tuning needs rows to learn and rows held out to stop by; one of the two is empty."
    return None


def conversations(context: FitContext, examples: Sequence[Example], asked: Sequence[Asked]) -> list[Conversation]:
    """Training rows: each example's prompt, as the rung will ask it, and the reference."""
    say_dropped(context, asked)
    return [conversation(context, example, one.prompt) for example, one in zip(examples, asked, strict=True)]


def conversation(context: FitContext, example: Example, prompt: Prompt) -> Conversation:
    """The prompt, then the reference.

    The input's own assistant turns keep their weight (1 where the data gives none); demonstrations are shown, not learned.
    """
    spoken = [_weight(message) for message in example.input.messages if message.role == "assistant"]
    turns = list(prompt.messages)
    places = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    shown = len(places) - len(spoken)
    for place, weight in zip(places, [0.0] * shown + spoken, strict=True):
        turns[place] = replace(turns[place], weight=weight)
    answer = reference_turn(context.task, example)
    return Conversation(example.id, (*turns, replace(answer, weight=_weight(answer))), prompt.tools)


def tune(context: FitContext, rows: Sequence[Conversation], held_out: Sequence[Conversation], label: str, seed: int) -> Tuned:
    """Train one adapter in its own folder of the rung's folder; a broken-off training there goes on.

    Raises:
        ModelError: There is no tuner.
    """
    if context.tuner is None:
        raise ModelError("nothing here can train an adapter.", "Run: pip install 'stepladder[train]'")
    folder = context.folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', label)}-seed{seed}"
    with step(context.progress, f"training, {label}, seed {seed}"):
        return context.tuner.tune(
            rows, held_out, context.task.settings.rungs.lora, folder=folder, seed=seed, progress=context.progress
        )


def tune_seeds(
    context: FitContext,
    rows: Sequence[Conversation],
    held_out: Sequence[Conversation],
    label: str,
    first: Tuned | None = None,
) -> list[dict[str, Any]]:
    """Records of one adapter for every seed of `choices.seeds`, from `context.seed` on; `first` is that one, if it is trained."""
    records = []
    for seed in range(context.seed, context.seed + max(1, context.choices.seeds)):
        done = first if first is not None and seed == context.seed else tune(context, rows, held_out, label, seed)
        records.append(adapter_record(context, done, seed))
    return records


def adapter_record(context: FitContext, tuned: Tuned, seed: int) -> dict[str, Any]:
    """What a recipe keeps of a training; `folder` is relative to the rung's folder, so that a run can be moved."""
    return {
        "seed": seed,
        "folder": _relative(tuned.folder, context.folder),
        "adapter_sha256": tuned.adapter_sha256,
        "held_out_nll": list(tuned.held_out_nll),
        "history": [asdict(point) for point in tuned.history],
        "best_step": tuned.best_step,
        "steps": tuned.steps,
        "seconds": tuned.seconds,
        "tokens": tuned.tokens,
    }


def adapter_folder(context: FitContext, record: Mapping[str, Any]) -> Path:
    """Where a record's adapter lies now."""
    return Path(os.path.normpath(context.folder / record["folder"]))


def borrowed_adapters(context: FitContext, rung: str) -> list[dict[str, Any]]:
    """Adapters of another rung, named from this rung's folder. The folders of a run's rungs lie side by side."""
    recipe = context.recipes[rung]
    home = context.folder.parent / recipe["folder_name"]
    return [{**record, "folder": _relative(home / record["folder"], context.folder)} for record in recipe["adapters"]]


def scaled_recipe(context: FitContext, recipe: Recipe, scale: float) -> dict[str, Any]:
    """The recipe with every adapter's effect times `scale`: written beside the trained ones, which stay as they are.

    Raises:
        ModelError: An adapter cannot be scaled.
    """
    return {
        **recipe,
        "adapters": [_scaled(context, record, scale) for record in recipe["adapters"]],
        "adapter_scale": scale,
        "priors": None,  # they belonged to the weights before; the label scorer measures its own
    }


def _scaled(context: FitContext, record: Mapping[str, Any], scale: float) -> dict[str, Any]:
    source = adapter_folder(context, record)
    target = source.with_name(f"{source.name}-scaled-{scale:g}")
    digest = write_scaled(source, target, scale)
    return {**record, "folder": _relative(target, context.folder), "adapter_sha256": digest, "scale": scale}


def choose_tuned_decode(context: FitContext, prompter: Prompter, adapters: Sequence[Mapping[str, Any]]) -> Decode:
    """Generation or label scoring with the first adapter, by the held-out rows that can be graded."""
    graded = {row.id for row in context.validation}
    rows = [row for row in context.held_out if row.id in graded]
    return choose_decode(context, prompter, rows, adapter=adapter_folder(context, adapters[0]))


def _weight(message: Message) -> float:
    return 1.0 if message.weight is None else message.weight


def _relative(path: Path, folder: Path) -> str:
    return PurePath(os.path.relpath(path, folder)).as_posix()
