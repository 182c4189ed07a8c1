"""Leaving the winner ready to be used: its adapter at the top of the run, and after cross-fitting one refit on all rows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from stepladder import files
from stepladder.domain.climb import ClimbRecord, RungStatus
from stepladder.domain.protocols import Choices, Engine, Recipe
from stepladder.service.rung_run import RungRun
from stepladder.service.setup import Base, context_of_rung, fit_context, record_engine
from stepladder.service.style import with_fitted_graders
from stepladder.service.worlds import whole_world
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.ladder import LADDER, technique

STANDS_ON = {
    "constrained": ("prompt",),
    "few-shot": ("prompt",),
    "nearest": ("prompt",),
    "rag": ("prompt",),
    "lora": ("prompt",),
    "lora+constrained": ("prompt", "lora"),
    "lora+nearest": ("prompt", "nearest"),
    "lora+rag": ("prompt", "rag"),
    "qlora": ("prompt",),
    "dpo": ("prompt", "lora"),
}
"""Which lower rungs' choices a rung builds on."""


def ship_champion(run: RunFolder, runs: Sequence[RungRun], record: ClimbRecord) -> None:
    """Put the tuned champion's adapter where it is looked for."""
    champion = next((rung.name for rung in record.rungs if "tuned champion" in rung.role), None)
    if champion is not None:
        _ship_adapter(run, plain_name(champion) or champion, runs)


def plain_name(contender: str | None) -> str | None:
    """The rung behind a contender's name: of "nominee (few-shot or nearest)" the first, which most folds gave it."""
    if contender is None or not contender.endswith(")"):
        return contender
    return contender.partition(" (")[2].removesuffix(")").split(" or ")[0]


def refit_rung(base: Base, run: RunFolder, engines: Mapping[str, Engine], choices: Choices, winner: str) -> list[RungRun]:
    """Fit a rung, and what it stands on, once on every row; the rungs fitted, the winner last.

    Its own score stays unknown: no row is left to measure it.

    Args:
        engines: By name of a compared model; "" is the task's own.
    """
    winner, separator, compared = winner.partition(" @ ")
    engine = engines[compared]
    world = whole_world(base.task, base.data.examples, base.data.splits)
    base = with_fitted_graders(base, world, engines.get("") or record_engine(base.engine, run, base.answers), run, choices)
    recipes: dict[str, Recipe] = {}
    measured = run.read_result("lora", 0)
    if winner in ("lora+nearest", "lora+rag", "qlora") and measured is not None:
        recipes["lora"] = measured["recipe"]  # they take its prompt form, not its adapter
    if run.read_result(f"{winner}{separator}{compared}", None) is None:
        base.watcher.say(
            f"Fitting '{winner}' once more on all {len(world.train)} rows; that fit is shipped, not itself measured."
        )
    fitted: list[RungRun] = []
    wanted = {*STANDS_ON.get(winner, ()), winner}
    for name in [rung.name for rung in LADDER if rung.name in wanted]:
        rung = technique(name)
        label = f"{name}{separator}{compared}"
        context = fit_context(base, world, engine, choices, run.rung_folder(label, None), recipes)
        context = context_of_rung(base, name, context, run)
        recorded = run.read_result(label, None)
        if rung.reason_not_to(context) is not None:
            continue
        base.watcher.progress.start(f"refit: {label}")
        try:
            predictor = rung.fit(context) if recorded is None else rung.restore(recorded["recipe"], context)
        finally:
            base.watcher.progress.finish()
        recipes[name] = predictor.recipe
        if recorded is None:
            run.write_result(label, None, {"recipe": predictor.recipe, "seconds": 0.0, "measured": False})
        fitted.append(RungRun(label, rung, world, RungStatus.RAN, "", predictor, context))
    return fitted


def _ship_adapter(run: RunFolder, name: str, runs: Sequence[RungRun]) -> None:
    """The champion's adapter at the top of the run: the refit one, else the one that was measured (of the first fold)."""
    refitted = run.read_result(name, None)
    measured = next((ran for ran in runs if ran.name == name and ran.status is RungStatus.RAN), None)
    if refitted is not None:
        recipe, home = refitted["recipe"], run.rung_folder(name, None)
    elif measured is not None:
        recipe, home = measured.recipe, run.rung_folder(name, measured.world.fold)
    else:
        return
    adapters = recipe.get("adapters", ())
    source = home / adapters[0]["folder"] if adapters else home / "none"
    if source.is_dir():
        with files.new_folder(run.path / "adapter") as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
