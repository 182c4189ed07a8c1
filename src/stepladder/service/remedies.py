"""What can be done for a tuned rung that forgot too much, gentlest first: a weaker adapter, replay, a lower learning rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder.domain.protocols import Conversation, FitContext, Predictor, Preference, Progress, Recipe, Tuned, Tuner
from stepladder.domain.task import DpoSettings, LoraSettings
from stepladder.service.probing import replayed_beside
from stepladder.service.rung_run import RungRun
from stepladder.service.shipping import STANDS_ON
from stepladder.techniques.ladder import technique
from stepladder.techniques.tuning import scaled_recipe

SCALES = (0.75, 0.5, 0.25)
LOWER_RATE = 0.25
FEWEST_REPLAYED = 8

Remedy = tuple[str, Callable[[], Predictor]]
"""Its name, and what applies it."""


@dataclass(frozen=True, slots=True)
class GentlerTuner:
    """A tuner that mixes further rows in and may hold the learning rate down; its adapters lie beside the first ones."""

    tuner: Tuner
    suffix: str
    replayed: tuple[Conversation, ...]
    learning_rate: float | None = None  # None = as the settings say

    def tune(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        settings: LoraSettings,
        *,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> Tuned:
        """As the tuner does, in `folder` with the suffix; the held-out rows stay the task's own."""
        if self.learning_rate is not None:
            settings = settings.model_copy(update={"learning_rate": self.learning_rate})
        mixed = (*rows, *self.replayed[: replayed_beside(len(rows))])
        return self.tuner.tune(mixed, held_out, settings, folder=self._beside(folder), seed=seed, progress=progress)

    def prefer(
        self,
        rows: Sequence[Preference],
        held_out: Sequence[Preference],
        settings: DpoSettings,
        *,
        start: Path,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> Tuned:
        """As the tuner does, in `folder` with the suffix, at the lower rate; replayed rows are no pairs and stay out."""
        if self.learning_rate is not None:
            settings = settings.model_copy(update={"learning_rate": self.learning_rate})
        beside = self._beside(folder)
        return self.tuner.prefer(rows, held_out, settings, start=start, folder=beside, seed=seed, progress=progress)

    def _beside(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}-{self.suffix}")


def remedies(
    ran: RungRun, below: Sequence[RungRun], replay_rows: Callable[[], tuple[Conversation, ...]], *, deadline: float
) -> Iterator[Remedy]:
    """Remedies in order; training again only while there is time for it.

    Args:
        below: The finished rungs of the same world.
        replay_rows: Asked for once, when the weaker adapters did not help.
        deadline: Of `time.monotonic`.
    """
    context = _context(ran)
    for scale in SCALES:
        yield (
            f"adapter scale {scale:g}",
            lambda scale=scale: ran.technique.restore(  # type: ignore[misc]
                scaled_recipe(context, ran.recipe, scale), context
            ),
        )
    if not _time_for(ran, deadline):
        return
    replayed = replay_rows()
    if len(replayed) >= FEWEST_REPLAYED:
        yield "replay of the base's own answers", lambda: _train_again(ran, below, "replay", replayed)
    rate = _lower_rate(ran.recipe)
    if rate > 0 and _time_for(ran, deadline):
        yield f"learning rate {rate:.2g}", lambda: _train_again(ran, below, "slower", replayed, slower=True)


def _train_again(
    ran: RungRun, below: Sequence[RungRun], suffix: str, replayed: tuple[Conversation, ...], *, slower: bool = False
) -> Predictor:
    """Fit the rung, and a tuned rung it stands on, once more; the prompt form is the one chosen before."""
    recipes = dict(_context(ran).recipes)
    for name in (*(name for name in STANDS_ON.get(ran.name, ()) if technique(name).tuned), ran.name):
        own = ran if name == ran.name else next(one for one in below if one.name == name)
        context = _context(own)
        if context.tuner is not None:
            context = replace(
                context, tuner=GentlerTuner(context.tuner, suffix, replayed, _lower_rate(own.recipe) if slower else None)
            )
        chosen = {**recipes, "prompt": {**recipes.get("prompt", {}), **_form(own.recipe)}}
        context = replace(context, recipes=chosen, choices=replace(context.choices, lora_prompts=1))
        fitted = own.technique.fit(context)
        recipes[name] = fitted.recipe
    return fitted


def _form(recipe: Recipe) -> Recipe:
    return {key: recipe[key] for key in ("form", "own_prompt") if key in recipe}


def _lower_rate(recipe: Recipe) -> float:
    """A quarter of the highest learning rate of the first adapter's training."""
    return LOWER_RATE * max((float(point["learning_rate"]) for point in recipe["adapters"][0]["history"]), default=0.0)


def _time_for(ran: RungRun, deadline: float) -> bool:
    return time.monotonic() + ran.seconds < deadline


def _context(ran: RungRun) -> FitContext:
    assert ran.context is not None, "a rung that ran has its context"
    return ran.context
