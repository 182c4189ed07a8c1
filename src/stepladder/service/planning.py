"""From a task's rows to its plan: which rungs can apply, how large the prompts are, how fast this machine is."""

from __future__ import annotations

from collections.abc import Sequence

from stepladder.domain.answer import expected_answer, wants_tool_calls
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Prompt
from stepladder.service import wiring
from stepladder.service.plan import FREE_RUNGS, TUNED_RUNGS, Plan, make_plan
from stepladder.service.setup import CHARACTERS_PER_TOKEN, Base, new_token_limit
from stepladder.service.speeds import Speeds, measure_speeds
from stepladder.service.style import untuned_answers
from stepladder.service.workload import Workload
from stepladder.service.worlds import World, build_worlds
from stepladder.techniques.ladder import LADDER
from stepladder.training.presets import batch_size_for, epochs_for

SIZED_ROWS = 40
"""Rows whose lengths are measured; their mean is close enough for a plan."""
FULL_FOLDS = 5


def plan_climb(base: Base) -> Plan:
    """What a climb of this task can show, how long it takes, and what it leaves out (design §2, `stepladder plan`)."""
    settings = base.task.settings
    worlds = build_worlds(base.task, base.data.examples, base.data.splits, folds=FULL_FOLDS)
    speeds = _speeds(base)
    work = _workload(base, worlds)
    minutes = base.options.budget_minutes or settings.budget.minutes
    return make_plan(
        settings, work, speeds, _rungs_that_may_apply(base, worlds[0]), budget_minutes=minutes, refit=len(worlds) > 1
    )


def _speeds(base: Base) -> Speeds:
    base.watcher.progress.start("measuring speed")
    try:
        return measure_speeds(base.engine, wiring.speeds_path(), task=base.task.settings.name)
    finally:
        base.watcher.progress.finish()


def _rungs_that_may_apply(base: Base, world: World) -> tuple[str, ...]:
    """Rungs worth planning for; each says for itself later whether it applies."""
    settings = base.task.settings
    closed = bool(settings.output.labels or settings.output.json_schema or settings.output.regex)
    closed &= not wants_tool_calls(base.data.examples)
    names = []
    for rung in LADDER:
        possible = rung.name not in (*FREE_RUNGS, *settings.rungs.skip)
        possible &= closed or "constrained" not in rung.name
        possible &= bool(base.data.chunks) or "rag" not in rung.name
        possible &= rung.name not in TUNED_RUNGS or (base.tuner is not None and len(world.train) >= 40)
        if possible:
            names.append(rung.name)
    return tuple(names)


def _workload(base: Base, worlds: Sequence[World]) -> Workload:
    world = worlds[0]
    settings = base.task.settings
    rows = world.train[:SIZED_ROWS]
    inputs = _mean(_count(base, [row.input.text for row in rows]))
    prompts = [Prompt(row.id, (Message("system", settings.instruction), *row.input.messages), row.input.tools) for row in rows]
    whole = _mean(base.engine.count_tokens(prompts)) if "count" in base.engine.can else inputs * 1.2 + 60
    lora = settings.rungs.lora
    return Workload(
        validation_rows=len(world.validation),
        held_out_rows=len(world.held_out),
        tune_rows=len(world.tune_rows),
        test_rows=len(world.test),
        worlds=len(worlds),
        shared_tokens=max(0.0, whole - inputs),
        input_tokens=inputs,
        answer_tokens=_mean(_count(base, [expected_answer(row) for row in rows])),
        max_new_tokens=new_token_limit(world.train, base.engine),
        epochs=epochs_for(lora, len(world.tune_rows)),
        batch_size=batch_size_for(lora, len(world.tune_rows)),
        labels=0 if wants_tool_calls(base.data.examples) else len(settings.output.labels),
        graded_rows=0 if world.chooses_on_train else untuned_answers(base.marker, world),  # else `prompt` asks for them anyway
    )


def _count(base: Base, texts: Sequence[str]) -> list[int]:
    if "count" in base.engine.can:
        return base.engine.count_text_tokens(texts)
    return [round(len(text) / CHARACTERS_PER_TOKEN) for text in texts]


def _mean(counts: Sequence[int]) -> float:
    return sum(counts) / len(counts) if counts else 0.0
