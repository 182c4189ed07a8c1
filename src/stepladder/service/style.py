"""The style grader learns: training references against what the untuned model writes for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stepladder import files
from stepladder.domain.answer import expected_answer
from stepladder.domain.climb import GradedRow
from stepladder.domain.errors import EvaluationError, RunError
from stepladder.domain.messages import Example
from stepladder.domain.protocols import Choices, Engine
from stepladder.evaluation.graders.style import Style, style_metrics
from stepladder.evaluation.graders.style_model import Pair, StyleModel
from stepladder.service.rung_run import Marker
from stepladder.service.setup import Base, fit_context
from stepladder.service.worlds import World
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.asking import ZeroShot, generate
from stepladder.techniques.forms import PLAIN

MOST_PAIRS = 400
"""Training rows the grader learns from; more would cost untuned answers and hardly make it surer."""


def with_fitted_graders(base: Base, world: World, engine: Engine, run: RunFolder, choices: Choices) -> Base:
    """`base` for one world, its style grader fitted on that world's training rows, or read back from the run.

    The untuned answers are recorded in the run like every answer.
    """
    if _style_of(base.marker) is None:
        return base
    model = load_style(run, world.fold)
    if model is None:
        base.watcher.progress.start("fitting the style grader")
        model = StyleModel.fit(_pairs(base, world, engine, run, choices), seed=base.options.seed)
        base.watcher.progress.finish()
        files.write_text(run.grader_path(Style.name, world.fold), json.dumps(model.to_json()) + "\n")
        base.watcher.say(_fitted_line(model))
    return replace(base, marker=fitted_marker(base.marker, model))


def untuned_answers(marker: Marker, world: World) -> int:
    """How many zero-shot answers the fit of a world's graders asks for."""
    return 0 if _style_of(marker) is None else min(MOST_PAIRS, len(world.train))


def check_decider(base: Base) -> None:
    """Stop before any rung is asked when the grader that decides cannot judge a single row.

    Raises:
        EvaluationError: It says why.
    """
    decider = base.marker.graders[0]
    refusal = decider.model.refusal if isinstance(decider, Style) and decider.model is not None else None
    if refusal is not None:
        raise EvaluationError(
            f"the style grader, which decides, cannot grade: {refusal}.",
            "Put another grader first in task.toml, or give references whose style the model does not already have.",
        )


def fitted_marker(marker: Marker, model: StyleModel) -> Marker:
    """The same graders, the style grader with what it has learned."""
    return Marker(tuple(Style(model) if isinstance(grader, Style) else grader for grader in marker.graders))


def load_style(run: RunFolder, fold: int | None) -> StyleModel | None:
    """The style model that was fitted in this run; None when there is none.

    Raises:
        RunError: Its file is broken.
    """
    path = run.grader_path(Style.name, fold)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}.", "Restore it, or climb again.") from error
    return StyleModel.from_json(record)


def style_figures(
    markers: Mapping[int | None, Marker], rows: Sequence[GradedRow], examples: Mapping[str, Example]
) -> dict[str, float]:
    """What the style grader has to say about graded rows together, each fold's rows judged by its own fit."""
    parts = []
    for fold, marker in markers.items():
        style = _style_of(marker)
        own = [row for row in rows if row.fold == fold]
        if style is not None:
            parts.append((style, [examples[row.id] for row in own], [row.answer for row in own]))
    return style_metrics(parts)


def style_remark(metrics: Mapping[str, float]) -> str:
    """A rung's test AUC in a sentence; empty without one."""
    if "test/style_auc" not in metrics:
        return ""
    auc, p = metrics["test/style_auc"], metrics["test/style_auc_p"]
    return f"References are told from its test answers with AUC {auc:.2f} (0.5 = not at all; p {p:.2g})."


def _style_of(marker: Marker) -> Style | None:
    return next((grader for grader in marker.graders if isinstance(grader, Style)), None)


def _pairs(base: Base, world: World, engine: Engine, run: RunFolder, choices: Choices) -> list[Pair]:
    """References and zero-shot answers to the same training inputs."""
    rows = _some(world.train, base.options.seed)
    context = fit_context(base, world, engine, choices, run.rung_folder("prompt", world.fold), {})
    answers = generate(context, ZeroShot(context, PLAIN)([row.input for row in rows]))
    return [
        Pair(row.id, base.data.clusters[row.id], expected_answer(row), answer.text)
        for row, answer in zip(rows, answers, strict=True)
        if not answer.fault
    ]


def _some(rows: Sequence[Example], seed: int) -> list[Example]:
    if len(rows) <= MOST_PAIRS:
        return list(rows)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:MOST_PAIRS]
    return [rows[index] for index in sorted(chosen)]


def _fitted_line(model: StyleModel) -> str:
    if model.refusal is not None:
        return f"The style grader cannot grade: {model.refusal}."
    return f"The style grader tells references from untuned answers with a cross-validated AUC of {model.auc:.2f}."
