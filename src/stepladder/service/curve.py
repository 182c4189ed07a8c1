"""How rungs grow with their training rows: fitted to nested parts of them, scored on validation, never on test."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import BudgetError, DataError, EngineError, ModelError
from stepladder.domain.learning_curve import CurvePoint, LearningCurve
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Score
from stepladder.domain.protocols import Drafting, Engine, FitContext, Predictor
from stepladder.engines.answers import CachedEngine
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.wrappers import Drafted
from stepladder.evaluation.learning_curve import forecast
from stepladder.service.rung_run import RungRun
from stepladder.service.setup import Base, bare_engine
from stepladder.techniques.forms import reference_text

CHEAP = ("classifier", "nearest")
"""Drawn without being asked for: nothing is trained but a regression, and a call of the model is all a point costs."""
DRAWS = 3
SHARES = (1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
FEW_SHARES = (1 / 4, 1 / 2, 7 / 8)
SMALLEST = 4  # training rows of the smallest part; below that a rung is not itself


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a rung's training rows; parts of one draw are nested."""

    draw: int
    train: tuple[Example, ...]


def nested_parts(
    rows: Sequence[Example], clusters: Mapping[str, int], *, shares: Sequence[float], draws: int, seed: int
) -> list[Part]:
    """For every draw the rows of the first clusters in a random order, whole clusters only, up to each share of the rows.

    Rows keep their order, so that a part differs from the whole in nothing but what is missing.
    """
    names = sorted({clusters[row.id] for row in rows})
    parts = []
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(len(names))
        place = {names[index]: position for position, index in enumerate(order)}
        reached = np.cumsum(np.bincount([place[clusters[row.id]] for row in rows], minlength=len(names)))
        for share in sorted(shares):
            wanted = max(SMALLEST, share * len(rows))
            last = int(np.searchsorted(reached, wanted + 1e-9, side="right"))
            kept = tuple(row for row in rows if place[clusters[row.id]] < last)
            if SMALLEST <= len(kept) < len(rows):
                parts.append(Part(draw, kept))
    return parts


def draw_curves(base: Base, runs: Sequence[RungRun], *, seconds_left: float) -> list[LearningCurve]:
    """The learning curves the settings ask for, as far as the time lasts; what is left out is said.

    Only the first world is looked at: the whole train split, or the first fold's training part.
    """
    curves = []
    first = runs[0].world.fold if runs else None
    for ran in runs:
        if ran.status is not RungStatus.RAN or ran.world.fold != first or not _is_wanted(base, ran):
            continue
        started = time.perf_counter()
        shares = _affordable_shares(ran, seconds_left)
        if not shares:
            base.watcher.say(f"Learning curve of {ran.name}: left out, the budget has no time for it.")
            continue
        try:
            curves.append(draw_curve(base, ran, shares))
        except (BudgetError, EngineError, ModelError, DataError) as error:
            base.watcher.say(f"Learning curve of {ran.name}: left out. {error}")
        seconds_left -= time.perf_counter() - started
    return curves


def draw_curve(base: Base, ran: RungRun, shares: Sequence[float], *, draws: int = DRAWS) -> LearningCurve:
    """The curve of one rung that has run."""
    assert ran.context is not None
    context, started = ran.context, time.perf_counter()
    rows = _rows_to_vary(ran)
    parts = nested_parts(rows, context.clusters, shares=shares, draws=draws, seed=context.seed)
    base.watcher.progress.start(f"learning curve: {ran.name}", len(parts))
    try:
        points = tuple(_points(base, ran, parts))
    finally:
        base.watcher.progress.finish()
    minimum = base.task.settings.minimum_gain
    curve = forecast(LearningCurve(ran.name, len(rows), len(ran.rows), points, minimum), minimum)
    return replace(curve, seconds=time.perf_counter() - started)


def _points(base: Base, ran: RungRun, parts: Sequence[Part]) -> Iterator[CurvePoint]:
    assert ran.context is not None
    answered = {row.id for row in ran.rows}
    examples = [row for row in (*ran.context.validation, *ran.context.held_out) if row.id in answered]
    asked = list({row.id: row for row in examples}.values())
    context = _with_drafts(base, ran, asked)
    for part in parts:
        grades = context.score(_fitted(ran, context, part).predict([row.input for row in asked]))
        values = [grade.value for grade in grades if isinstance(grade, Score)]
        base.watcher.progress.advance()
        if values:
            yield CurvePoint(len(part.train), part.draw, float(np.mean(values)))


def _with_drafts(base: Base, ran: RungRun, asked: Sequence[Example]) -> FitContext:
    """The rung's context; the engine of a tuned one checks what it would write against the references, which costs one pass.

    Only scores are wanted here. The answers are kept apart from the run's: their times say nothing about a call's. An untuned
    rung gains more from the run's own answers, many of which its parts ask for again.
    """
    assert ran.context is not None
    engine = bare_engine(ran.context.engine)
    if not ran.technique.tuned or not isinstance(engine, Drafting):
        return ran.context
    known: Engine = Drafted(engine, {row.id: reference_text(base.task, row) for row in asked})
    if base.answers is not None:
        known = CachedEngine(known, base.answers, manner="drafted")
    return replace(ran.context, engine=RecordedEngine(known, ran.context.folder / "curve" / "answers.jsonl"))


def _fitted(ran: RungRun, context: FitContext, part: Part) -> Predictor:
    """The rung on a part of its rows: an untuned one as it was chosen, a tuned one trained anew, one prompt and one seed."""
    if not ran.technique.tuned:
        return ran.technique.restore(ran.recipe, replace(context, train=part.train))
    held_out = {row.id for row in context.held_out}
    train = (*part.train, *(row for row in context.train if row.id in held_out))
    folder = context.folder / "curve" / f"{len(part.train)}-{part.draw}"
    choices = replace(context.choices, lora_prompts=1, seeds=1)
    smaller = replace(context, train=train, tune_rows=part.train, folder=folder, choices=choices, seed=context.seed + part.draw)
    return ran.technique.fit(smaller)


def _rows_to_vary(ran: RungRun) -> tuple[Example, ...]:
    assert ran.context is not None
    return ran.context.tune_rows if ran.technique.tuned else ran.context.train


def _is_wanted(base: Base, ran: RungRun) -> bool:
    """By `[rungs] learning_curve`; unasked only what is cheap, and nothing that is charged by the call."""
    wanted = base.task.settings.rungs.learning_curve
    if wanted is not None:
        return ran.name in wanted
    return ran.name in CHEAP and ran.context is not None and not ran.context.engine.identity.hosted


def _affordable_shares(ran: RungRun, seconds_left: float) -> tuple[float, ...]:
    """Six sizes, else three (a tuned rung at once), else none: what one point takes is known from the rung's own turn."""
    trainings = ran.recipe.get("adapters", ())
    training = float(np.mean([one["seconds"] for one in trainings])) if trainings else 0.0
    answering = sum(row.latency_seconds for row in ran.rows)
    for shares in (FEW_SHARES,) if ran.technique.tuned else (SHARES, FEW_SHARES):
        if DRAWS * sum(answering + share * training for share in shares) <= seconds_left:
            return shares
    return ()
