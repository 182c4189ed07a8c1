"""Before anything is trained: does this task want facts, or is it over before tuning pays?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stepladder.domain.messages import Example
from stepladder.domain.protocols import Engine, Predictor
from stepladder.domain.verdict import Cost
from stepladder.engines.wrappers import Drawing
from stepladder.evaluation.cost import adoption_cost
from stepladder.evaluation.facts import FactReport, find_facts, report_facts
from stepladder.evaluation.refusal import FACT_BOUND_SHARE, Refusal, tuning_refusal
from stepladder.service.contest import measured_cost, name_validated
from stepladder.service.plan import TUNED_RUNGS, Plan
from stepladder.service.rung_run import RungRun
from stepladder.service.setup import Base
from stepladder.service.worlds import World

LOOKED_AT = 40
"""Validation rows that are looked at closely; each costs nine closed-book answers."""
DRAWS = 8
DRAW_TEMPERATURE = 0.8
READS_DOCUMENTS = ("lora+rag",)
"""Tuned rungs that learn to read facts from the prompt, not to know them: a fact-bound task does not speak against them."""


def tuning_refusals(base: Base, world: World, engine: Engine, plan: Plan, runs: Sequence[RungRun]) -> dict[str, str]:
    """Tuned rungs that are refused here, each with its reason (design §4)."""
    refusal = tuning_refusal(base.task, _facts(base, world, engine, runs), *_costs(base, plan, runs))
    if refusal is None:
        return {}
    spared = READS_DOCUMENTS if refusal.kind != "one-off" and base.data.chunks else ()
    return {rung: _sentence(refusal) for rung in (*TUNED_RUNGS, "hosted") if rung not in spared}


def _sentence(refusal: Refusal) -> str:
    rows = list(refusal.rows.items())[:3]
    shown = "; ".join(f"{row}: {', '.join(spans[:3])}" for row, spans in rows)
    return f"{refusal.sentence} Rows: {shown}." if shown else refusal.sentence


def _facts(base: Base, world: World, engine: Engine, runs: Sequence[RungRun]) -> FactReport | None:
    """Facts of a part of the validation rows; the model is asked only when they could be enough to matter."""
    rows = _part(world.validation, base.options.seed)
    lacking = find_facts(rows, world.train, base.data.clusters, base.task)
    prompt = next((ran for ran in runs if ran.name == "prompt" and ran.predictor is not None), None)
    if prompt is None:
        return None
    if len(lacking) < FACT_BOUND_SHARE * len(rows):
        return report_facts(lacking, {}, len(rows))
    asked = [row for row in rows if row.id in lacking]
    return report_facts(lacking, _closed_book(base, prompt, engine, asked), len(rows))


def _closed_book(base: Base, prompt: RungRun, engine: Engine, rows: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """What the model says without documents or demonstrations: one greedy answer and eight draws a row."""
    base.watcher.progress.start("closed-book draws", 1 + DRAWS)
    answers: dict[str, list[str]] = {row.id: [] for row in rows}
    for draw in range(1 + DRAWS):
        predictor = prompt.predictor if draw == 0 else _drawing(prompt, engine, seed=draw)
        assert predictor is not None
        for prediction in predictor.predict([row.input for row in rows]):
            answers[prediction.input_id].append(prediction.text)
        base.watcher.progress.advance()
    base.watcher.progress.finish()
    return {row: tuple(texts) for row, texts in answers.items()}


def _drawing(prompt: RungRun, engine: Engine, *, seed: int) -> Predictor:
    assert prompt.context is not None
    recipe = {**prompt.recipe, "decode": "generate"}
    return prompt.technique.restore(
        recipe, replace(prompt.context, engine=Drawing(engine, temperature=DRAW_TEMPERATURE, seed=seed))
    )


def _costs(base: Base, plan: Plan, runs: Sequence[RungRun]) -> tuple[Cost, Cost] | tuple[None, None]:
    """What the job would cost with a tuned rung, as planned, and with the cheapest untuned one that looks good enough."""
    if base.task.settings.use.calls_total is None or "lora" not in plan.seconds:
        return None, None
    name = name_validated(base, runs).nominee
    nominee = next((ran for ran in runs if ran.name == name), None)
    if nominee is None:
        return None, None
    tuned = adoption_cost(
        base.task.settings.use,
        prompt_tokens_per_call=0.0,
        completion_tokens_per_call=0.0,
        seconds_per_call=plan.tuned_seconds_per_call,
        seconds_once=plan.seconds["lora"] / max(1, plan.choices.folds),
        tuned=True,
    )
    return tuned, measured_cost(base, nominee, nominee.rows)


def _part(rows: Sequence[Example], seed: int) -> list[Example]:
    if len(rows) <= LOOKED_AT:
        return list(rows)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:LOOKED_AT]
    return [rows[index] for index in sorted(chosen)]
