"""Which labels are a part of a rung, and so have to be made again when the facts behind them change (docs/decisions/012)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from stepladder.domain.protocols import Recipe
from stepladder.service.rung_run import RungRun
from stepladder.service.worlds import World


def rows_to_label_again(ran: RungRun) -> int:
    """Labelled rows that this rung's answers are made of: what it shows, looks up or was trained on.

    Rows that choose (validation) or confirm (test) are none of them: every rung needs those alike.
    """
    used = _USED.get(ran.technique.name)
    return 0 if used is None else len(set(used(ran.recipe, ran.world)))


def _shown(recipe: Recipe, world: World) -> Collection[str]:
    return [*recipe.get("shots", ()), *recipe.get("reserves", ())]


def _all_train(recipe: Recipe, world: World) -> Collection[str]:
    return [row.id for row in world.train]


def _trained_on(recipe: Recipe, world: World) -> Collection[str]:
    """What it learns, and what tells its training when to stop."""
    return [row.id for row in (*world.tune_rows, *world.held_out)]


def _trained_on_and_shown(recipe: Recipe, world: World) -> Collection[str]:
    return [*_trained_on(recipe, world), *_all_train(recipe, world)]


_USED: Mapping[str, Callable[[Recipe, World], Collection[str]]] = {
    "baseline": lambda recipe, world: [] if recipe.get("kind") == "copy of the input" else _all_train(recipe, world),
    "classifier": _all_train,
    "few-shot": _shown,
    "nearest": _all_train,
    "lora": _trained_on,
    "lora+constrained": _trained_on,
    "lora+nearest": _trained_on_and_shown,
    "lora+rag": _trained_on,
    "qlora": _trained_on,
    "dpo": _trained_on,
    "hosted": _trained_on,
}
"""Rungs that are not named here use no labels: prompts, grammars and documents hold none, and `recorded` is not ours."""
