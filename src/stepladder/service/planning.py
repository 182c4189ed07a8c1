"""From a task's rows to its plan: which rungs can apply, how large the prompts are, how fast this machine is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stepladder.domain.answer import expected_answer, wants_tool_calls
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Choices, Comparing, Prompt
from stepladder.domain.task import OutputSettings, Task
from stepladder.models.hardware import memory_available_bytes, memory_total_bytes
from stepladder.service import wiring
from stepladder.service.judging import plan_remark
from stepladder.service.leaks import find_accepted, find_leaks
from stepladder.service.memory import Local, Memory, memory_lines, predict_memory
from stepladder.service.money import label_lines, money_lines, predict_money, tuning_lines
from stepladder.service.plan import COMPARED, FREE_RUNGS, TUNED_RUNGS, Plan, make_plan
from stepladder.service.setup import (
    CHARACTERS_PER_TOKEN,
    FOUR_BIT_RUNGS,
    Base,
    ClimbOptions,
    Tools,
    Watcher,
    make_base,
    new_token_limit,
)
from stepladder.service.speeds import Speeds, measure_speeds
from stepladder.service.style import untuned_answers
from stepladder.service.workload import Workload
from stepladder.service.worlds import World, build_worlds
from stepladder.techniques.ladder import LADDER
from stepladder.training.presets import (
    SEARCH_FACTORS,
    activation_bytes,
    batch_size_for,
    choose_settings,
    epochs_for,
    room_for_tokens,
    search_epochs,
)

SIZED_ROWS = 40
"""Rows whose lengths are measured; their mean is close enough for a plan."""
FULL_FOLDS = 5


def plan(
    task: Task | Path | str,
    *,
    budget_minutes: float | None = None,
    device: str = "auto",
    seed: int = 0,
    watcher: Watcher | None = None,
    tools: Tools | None = None,
) -> Plan:
    """Say what a climb of this task can show, how long it takes and what it leaves out; nothing is written into the task.

    Args and errors: As of `stepladder.climb`.
    """
    task = task if isinstance(task, Task) else Task.load(task)
    options = ClimbOptions(budget_minutes, device, seed)
    return plan_climb(make_base(task, options, watcher or Watcher(), tools=tools, write_split=False))


def plan_climb(base: Base) -> Plan:
    """What a climb of this task can show, how long it takes, and what it leaves out (design §2, `stepladder plan`)."""
    settings = base.task.settings
    worlds = build_worlds(base.task, base.data.examples, base.data.splits, folds=FULL_FOLDS)
    speeds = _speeds(base)
    work = _workload(base, worlds)
    minutes = base.options.budget_minutes or settings.budget.minutes
    rungs = _rungs_that_may_apply(base, worlds[0])
    if not _wants_four_bits(base, work):
        rungs = tuple(rung for rung in rungs if rung not in FOUR_BIT_RUNGS)
    plan = make_plan(settings, work, speeds, rungs, budget_minutes=minutes, refit=len(worlds) > 1)
    remarks = [f"Leak, the verdict would be invalid: {leak}" for leak in find_leaks(base.data, worlds)]
    remarks += [f"Accepted leak, the verdict will be indicative: {leak}." for leak in find_accepted(base.data, worlds)]
    judged = plan_remark(base.task)
    return _with_needs(base, plan, work, [*remarks, *([judged] if judged else [])])


def _with_needs(base: Base, plan: Plan, work: Workload, leaks: Sequence[str]) -> Plan:
    """The plan with the memory and the money it takes."""
    settings = base.task.settings
    work = replace(work, worlds=plan.choices.folds)
    hosted = [(settings.model.base, plan.rungs)] if base.engine.identity.hosted else []
    hosted += [(name, COMPARED) for name in settings.model.compare if wiring.is_hosted(name)]
    money = predict_money(settings, work, plan.choices, hosted, seconds=plan.total_seconds)
    memory = _memory(base, plan, work)
    trained_rows = work.tune_rows + work.held_out_rows if plan.trainings else 0
    lines = (
        *plan.lines,
        *memory_lines(memory, base.engine.identity, memory_available_bytes()),
        *money_lines(settings, money),
        *tuning_lines(settings, work, refit=len(base.data.splits.fold_of) > 0),
        *label_lines(settings, trained_rows),
        *leaks,
    )
    return replace(plan, lines=lines, memory=memory, money=money)


def reason_no_four_bits(base: Base) -> str:
    """Why the rungs over 4-bit weights are left out, in a sentence."""
    if base.four_bit is None:
        return f"'{base.engine.identity.name}' cannot be held in 4 bits here."
    return 'Tuning over 16-bit weights fits this machine; `[rungs] include = ["qlora"]` climbs it all the same.'


def _wants_four_bits(base: Base, work: Workload) -> bool:
    """Asked for, or the fine-tune needs more memory than is free beside the model."""
    if base.four_bit is None:
        return False
    if set(base.task.settings.rungs.include) & set(FOUR_BIT_RUNGS):
        return True
    memory = _predicted(base, work, Choices(), ("prompt", "lora"), trained=True)
    free = memory_available_bytes()
    return memory is not None and memory.process > 0 and free is not None and memory.training > free


def _memory(base: Base, plan: Plan, work: Workload) -> Memory | None:
    """None for an engine whose model lies elsewhere."""
    return _predicted(base, work, plan.choices, plan.rungs, trained=bool(plan.trainings))


def _predicted(base: Base, work: Workload, choices: Choices, rungs: tuple[str, ...], *, trained: bool) -> Memory | None:
    engine = base.engine
    if not isinstance(engine, Local):
        return None
    shape = engine.shape
    total = memory_total_bytes(shape.device)
    training = choose_settings(
        base.task.settings.rungs.lora,
        rows=work.tune_rows,
        hidden=shape.hidden,
        layers=shape.layers,
        model_type="",  # decides the learning rate only
        context_tokens=engine.identity.context_tokens,
        seed=base.options.seed,
        activations=activation_bytes(shape.device, total),
    )
    room = room_for_tokens(
        shape.device,
        total,
        weights=shape.parameters * shape.bytes_per_number,
        layers=shape.layers,
        hidden=shape.hidden,
        bytes_per_number=shape.bytes_per_number,
    )
    return predict_memory(shape, engine.limits, work, choices, rungs, training if trained else None, room)


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
        possible &= rung.name != "dpo" or any(row.rejected is not None for row in world.tune_rows)
        possible &= rung.name not in TUNED_RUNGS or (base.tuner is not None and len(world.train) >= 40)
        if possible:
            names.append(rung.name)
    return tuple(names)


def _workload(base: Base, worlds: Sequence[World]) -> Workload:
    world = worlds[0]
    settings = base.task.settings
    rows = world.train[:SIZED_ROWS]
    input_counts = _count(base, [row.input.text for row in rows])
    answer_counts = _count(base, [expected_answer(row) for row in rows])
    inputs = _mean(input_counts)
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
        answer_tokens=_mean(answer_counts),
        max_new_tokens=new_token_limit(world.train, base.engine),
        epochs=epochs_for(lora, len(world.tune_rows)),
        batch_size=batch_size_for(lora, len(world.tune_rows)),
        search_epochs=_search_epochs(base, len(world.tune_rows)),
        labels=0 if wants_tool_calls(base.data.examples) else len(settings.output.labels),
        longest_input_tokens=max(input_counts, default=0),
        longest_answer_tokens=max(answer_counts, default=0),
        latency_decides=settings.use.max_latency_seconds is not None,
        graded_rows=0 if world.chooses_on_train else untuned_answers(base.marker, world),  # else `prompt` asks for them anyway
        compares=isinstance(base.engine, Comparing),
        free_text=settings.output == OutputSettings(style=settings.output.style) and not wants_tool_calls(base.data.examples),
        tested=tuple(len(each.test) for each in worlds),
    )


def _search_epochs(base: Base, rows: int) -> int:
    """Of all short runs of one training's search for its learning rate."""
    lora = base.task.settings.rungs.lora
    if not lora.search_learning_rate:
        return 0
    return len(SEARCH_FACTORS) * search_epochs(rows, epochs=epochs_for(lora, rows), batch_size=batch_size_for(lora, rows))


def _count(base: Base, texts: Sequence[str]) -> list[int]:
    if "count" in base.engine.can:
        return base.engine.count_text_tokens(texts)
    return [round(len(text) / CHARACTERS_PER_TOKEN) for text in texts]


def _mean(counts: Sequence[int]) -> float:
    return sum(counts) / len(counts) if counts else 0.0
