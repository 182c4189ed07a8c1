"""The main job: load, check, split; fit every rung; let the contenders answer the test rows; decide; record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

from stepladder.domain.climb import ClimbRecord, RungStatus
from stepladder.domain.errors import BudgetError, DataError, EngineError, EvaluationError, MissingExtra, ModelError, UsageError
from stepladder.domain.protocols import Choices, Engine, Recipe, Remarking, Technique
from stepladder.domain.retention import Retention
from stepladder.domain.task import Task
from stepladder.domain.verdict import Verdict
from stepladder.engines.tuning_ticket import SUBMITTED
from stepladder.evaluation.records import inputs_to_json
from stepladder.evaluation.verdict import decide
from stepladder.evaluation.wording import growth
from stepladder.service import wiring
from stepladder.service.check import to_json
from stepladder.service.comparable import why_not_comparable
from stepladder.service.contest import hold_contest
from stepladder.service.curve import draw_curves
from stepladder.service.figures import cache_line, counted, usd_text
from stepladder.service.judging import judge_remarks, keep_judgements
from stepladder.service.plan import COMPARED, OVERRUN, Plan
from stepladder.service.planning import plan_climb, reason_no_four_bits
from stepladder.service.record import make_record
from stepladder.service.refusal import tuning_refusals
from stepladder.service.report import write_report
from stepladder.service.retention import Guard
from stepladder.service.rung_run import RungRun, run_rung, validation_interval
from stepladder.service.setup import (
    FOUR_BIT_RUNGS,
    Base,
    ClimbOptions,
    Tools,
    Watcher,
    bare_engine,
    check_tools,
    context_of_rung,
    fit_context,
    keep_plan,
    make_base,
    open_run,
    open_test,
    record_engine,
    runs_folder,
)
from stepladder.service.shipping import plain_name, refit_rung, ship_champion
from stepladder.service.show import Rungs, html_fragment, interval_text, ladder_lines, ladder_table
from stepladder.service.speeds import remember_training
from stepladder.service.style import check_decider, with_fitted_graders
from stepladder.service.worlds import World, build_worlds
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.ladder import LADDER, technique


@dataclass(frozen=True)
class Climb:
    """A finished climb. Prints as the ladder and its verdict, in a terminal and in a notebook."""

    record: ClimbRecord
    folder: Path

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict

    @property
    def rungs(self) -> Rungs:
        """Every rung in ladder order; printed, the table of the ladder."""
        return Rungs(self.record)

    def __str__(self) -> str:
        return "\n".join(ladder_lines(self.record))

    def __rich__(self) -> object:
        return ladder_table(self.record)

    def _repr_html_(self) -> str:
        return html_fragment(self.record)


@dataclass
class Ascent:
    """A climb under way: what it stands on, and what every rung did so far."""

    base: Base
    run: RunFolder
    plan: Plan
    engine: Engine
    compared: dict[str, Engine]
    started: float = field(default_factory=time.monotonic)
    runs: list[RungRun] = field(default_factory=list)
    apart: dict[str, str] = field(default_factory=dict)  # compared models and why they may not stand beside the base; "" = may

    @property
    def choices(self) -> Choices:
        return self.plan.choices

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def budget_seconds(self) -> float:
        return 60 * (self.base.options.budget_minutes or self.base.task.settings.budget.minutes)

    @property
    def deadline(self) -> float:
        """When (of `time.monotonic`) no more should be asked than must be; the last refit of cross-fitting still follows."""
        refit = max(map(self.planned_seconds, self.plan.seconds), default=0.0) if _is_cross(self.base) else 0.0
        return self.started + self.budget_seconds - refit

    def planned_seconds(self, rung: str) -> float:
        """What a rung takes in one world, by the plan."""
        return self.plan.seconds.get(rung, 0.0) / max(1, self.choices.folds)

    def overrun_by(self, rung: str) -> bool:
        """Whether this rung and the test answers would go over the budget by more than a quarter; the plan was too hopeful."""
        wanted = self.planned_seconds(rung) + self.plan.confirmation_seconds / 2
        return self.planned_seconds(rung) > 0 and self.seconds + wanted > OVERRUN * self.budget_seconds


def climb(
    task: Task | Path | str,
    *,
    budget_minutes: float | None = None,
    device: str = "auto",
    seed: int = 0,
    tune_anyway: bool = False,
    fresh: bool = False,
    cache: bool = True,
    watcher: Watcher | None = None,
    tools: Tools | None = None,
) -> Climb:
    """Climb the ladder on a task and return the verdict with everything behind it.

    Args:
        task: A task, or its folder.
        budget_minutes: Instead of `[budget] minutes`.
        device: "auto", "cuda", "mps" or "cpu".
        tune_anyway: Climb tuned rungs even where tuning would be refused.
        fresh: Start anew although an unfinished run of the same task could be continued.
        cache: Read back what earlier climbs have asked, and keep what this one asks.
        watcher: Who is told about progress.
        tools: Your own engine, tuner and embedder instead of those task.toml names.
    Raises:
        DataError: The task or its data cannot be used; nothing has been written.
        PrivacyError, ModelError, EngineError, BudgetError: See `stepladder.domain.errors`.
    """
    watcher = watcher or Watcher()
    options = ClimbOptions(budget_minutes, device, seed, tune_anyway, fresh, cache)
    task = task if isinstance(task, Task) else Task.load(task)
    _check_skipped(task)
    purse = wiring.build_purse(task)
    base = make_base(task, options, watcher, tools=tools, purse=purse)
    compared = {
        name: wiring.build_engine(name, base.task, device=device, purse=purse) for name in base.task.settings.model.compare
    }
    for engine in compared.values():
        check_tools(base.data, engine)
    run = open_run(base, runs_folder(base.task))
    with run.locked():
        purse.keep_in(run.money_path)
        run.write_checks(to_json(base.checked))
        plan = keep_plan(run, plan_climb(base))
        for line in (*plan.lines, *judge_remarks(base.task, base.marker.graders, base.data.examples)):
            watcher.say(line)
        recorded = {name: record_engine(engine, run, base.answers) for name, engine in compared.items()}
        ascent = Ascent(base, run, plan, record_engine(base.engine, run, base.answers), dict(recorded))
        try:
            return _ascend(ascent)
        finally:
            if purse.spent_usd:
                limit = f" of {usd_text(purse.budget_usd)}" if isfinite(purse.budget_usd) else ""
                watcher.say(f"Hosted models: {usd_text(purse.spent_usd)}{limit} spent in this run.")


def _check_skipped(task: Task) -> None:
    names = [rung.name for rung in LADDER]
    unknown = [name for name in task.settings.rungs.skip if name not in names]
    if unknown:
        raise UsageError(f"`[rungs] skip` names '{unknown[0]}', which is no rung.", f"Choose among: {', '.join(names)}.")
    unknown = [name for name in task.settings.rungs.include if name not in FOUR_BIT_RUNGS]
    if unknown:
        raise UsageError(
            f"`[rungs] include` names '{unknown[0]}', which is not left out.", f"It may name: {', '.join(FOUR_BIT_RUNGS)}."
        )


def _ascend(ascent: Ascent) -> Climb:
    base, run = ascent.base, ascent.run
    worlds = build_worlds(base.task, base.data.examples, base.data.splits, folds=ascent.choices.folds)
    for world in worlds:
        check_decider(_fitted(ascent, world))  # in every world, before any rung is asked
    for world in worlds:
        for finished in _climb_world(ascent, world):
            ascent.runs.append(finished)
            run.replace_rows(row for ran in ascent.runs for row in ran.rows)
            base.watcher.say(_rung_line(finished, world, len(worlds)))
    if not any(ran.status is RungStatus.RAN for ran in ascent.runs):
        raise EvaluationError("no rung could be climbed.", "See the reason of each above; `[rungs] skip` may name too many.")
    left = ascent.budget_seconds - ascent.seconds - ascent.plan.confirmation_seconds - ascent.plan.refit_seconds
    curves = draw_curves(base, ascent.runs, seconds_left=left)  # before test opens: they rest on validation alone
    guard = Guard.of(base, run, ascent.runs, deadline=ascent.deadline)
    ascent.runs, retention = guard.keep_abilities(ascent.runs)  # the last choice: what answers the test rows is what ships
    opened = open_test(base, run, worlds)
    contest = hold_contest(
        base,
        run,
        ascent.runs,
        opened,
        cross_fit=_is_cross(base),
        deadline=ascent.deadline,
        retention=retention,
        growth=tuple(filter(None, map(growth, curves))),
    )
    run.replace_rows([*(row for ran in ascent.runs for row in ran.rows), *contest.rows])
    record = make_record(
        base,
        run,
        ascent.plan,
        ascent.runs,
        contest,
        curves=curves,
        compared=[engine.identity for engine in ascent.compared.values()],
        seconds=ascent.seconds,
    )
    refit, fault = _refit_winner(ascent, guard, record) if _is_cross(base) else ((), "")
    record = replace(record, retention=(*retention, *refit))
    record = replace(record, answering=tuple(_how_answers_came(ascent, record)))
    inputs = contest.inputs
    for line in record.answering:
        base.watcher.say(line)
    if fault and record.verdict.rung is not None:
        base.watcher.say(f"The fit on all rows failed: {fault}")
        inputs = replace(inputs, refit_faults={record.verdict.rung: fault})
        record = replace(record, verdict=decide(inputs))
    else:
        ship_champion(run, ascent.runs, record)
    write_report(record, run.report_path)
    keep_judgements(base.task, run, cache=base.options.cache)
    run.write_verdict(record, inputs_to_json(inputs))
    return Climb(record, run.path)


def _fitted(ascent: Ascent, world: World) -> Base:
    """The base of one world: graders that learn have learned from its training rows."""
    return with_fitted_graders(ascent.base, world, ascent.engine, ascent.run, ascent.choices)


def _refit_winner(ascent: Ascent, guard: Guard, record: ClimbRecord) -> tuple[tuple[Retention, ...], str]:
    """Fit the recommended rung on all rows; what a tuned one kept is measured anew, since these are other weights.

    Also why that fit cannot be used, in a sentence; empty when it can. The model of an untuned rung that does not answer is no
    such reason: the climb can be continued when it does.
    """
    winner = plain_name(record.verdict.rung)
    if winner is None:
        return (), ""
    rung, _, compared = winner.partition(" @ ")
    try:
        fitted = refit_rung(ascent.base, ascent.run, {"": ascent.engine, **ascent.compared}, ascent.choices, winner)
    except BudgetError as error:
        return (), str(error)
    except (EngineError, ModelError, DataError) as error:
        if not (compared or technique(rung).tuned):
            raise
        return (), str(error)
    if not fitted or not fitted[-1].technique.tuned:
        return (), ""
    report = guard.guard(fitted[-1], fitted, refit=True)[1]
    return (report,), f"Fitted on all rows, {report.blocked}" if report.blocked else ""


def _how_answers_came(ascent: Ascent, record: ClimbRecord) -> Iterator[str]:
    """What was read back and what was asked, and what servers made otherwise than they were asked."""
    store = ascent.base.answers
    if store is not None:
        anew, used = tuple(_computed_anew(ascent, record)), store.folder is not None
        yield cache_line(read_back=store.read_back, asked=store.asked, broken=store.broken, used=used, anew=anew)
    for engine in (ascent.base.engine, *map(bare_engine, ascent.compared.values())):
        if isinstance(engine, Remarking):
            yield from engine.remarks


def _computed_anew(ascent: Ascent, record: ClimbRecord) -> Iterator[str]:
    """What a model did in this climb besides answering."""
    if any(ran.technique.tuned and ran.status is RungStatus.RAN and not ran.restored for ran in ascent.runs):
        yield "trainings"
    if any(not one.unmeasured for one in record.retention):
        yield "general abilities"
    if "score" in ascent.base.engine.can:
        yield "checks of the data"
    if judged := ascent.base.judged():
        yield counted(judged, "judgement")


def _is_cross(base: Base) -> bool:
    return base.data.splits.regime in ("cross", "prompts")


def _climb_world(ascent: Ascent, world: World) -> Iterator[RungRun]:
    """Every rung in ladder order, untuned ones of compared models after this model's own untuned ones."""
    ascent = replace(ascent, base=_fitted(ascent, world))
    base = ascent.base
    recipes: dict[str, Recipe] = {}
    untuned = [rung for rung in LADDER if not rung.tuned]
    tuned = [rung for rung in LADDER if rung.tuned]
    for rung in untuned:
        finished = _climb_rung(ascent, rung, world, ascent.engine, recipes)
        if finished.predictor is not None:
            recipes[rung.name] = finished.recipe
        yield finished
    for name, engine in ascent.compared.items():
        theirs: dict[str, Recipe] = {}
        if name not in ascent.apart:
            ascent.apart[name] = why_not_comparable(base.task, base.engine, name, engine, world.train)
        for rung in map(technique, COMPARED):
            if ascent.apart[name]:
                yield RungRun(f"{rung.name} @ {name}", rung, world, RungStatus.NOT_COMPARABLE, ascent.apart[name])
                continue
            finished = _climb_rung(ascent, rung, world, engine, theirs, label=f"{rung.name} @ {name}")
            if finished.predictor is not None:
                theirs[rung.name] = finished.recipe
            yield finished
    here = [ran for ran in ascent.runs if ran.world.fold == world.fold]
    hosted = base.task.settings.rungs.hosted.model is not None
    refused = {} if base.tuner is None and not hosted else tuning_refusals(base, world, ascent.engine, ascent.plan, here)
    for rung in tuned:
        if rung.name in refused and not base.options.tune_anyway:
            yield RungRun(rung.name, rung, world, RungStatus.REFUSED, refused[rung.name])
            continue
        finished = _climb_rung(ascent, rung, world, ascent.engine, recipes)
        if finished.predictor is not None:
            recipes[rung.name] = finished.recipe
            _remember_speed(ascent, finished)
        yield finished


def _climb_rung(
    ascent: Ascent,
    rung: Technique,
    world: World,
    engine: Engine,
    recipes: dict[str, Recipe],
    *,
    label: str = "",
) -> RungRun:
    """One rung, unless the user skips it or the budget has no room for it."""
    base, name = ascent.base, label or rung.name
    if rung.name in base.task.settings.rungs.skip:
        return RungRun(name, rung, world, RungStatus.NOT_APPLICABLE, "`[rungs] skip` names it.")
    folder = ascent.run.rung_folder(name, world.fold)
    context = fit_context(base, world, engine, ascent.choices, folder, recipes)
    if rung.name in FOUR_BIT_RUNGS and rung.name not in ascent.plan.seconds:
        return RungRun(name, rung, world, RungStatus.NOT_APPLICABLE, reason_no_four_bits(base))
    try:
        context = context_of_rung(base, rung.name, context, ascent.run)
    except (MissingExtra, ModelError) as error:
        return RungRun(name, rung, world, RungStatus.NOT_APPLICABLE, str(error))
    reason = rung.reason_not_to(context)
    if reason is not None:
        return RungRun(name, rung, world, RungStatus.NOT_APPLICABLE, reason)
    if rung.name in ascent.plan.over_budget:
        return RungRun(name, rung, world, RungStatus.OVER_BUDGET, "The plan does not hold it; raise `[budget] minutes`.")
    if ascent.overrun_by(name) and ascent.run.read_result(name, world.fold) is None:
        reason = f"{ascent.seconds / 60:.0f} minutes are spent and it needs about {ascent.planned_seconds(name) / 60:.0f} more."
        return RungRun(name, rung, world, RungStatus.OVER_BUDGET, reason)
    base.watcher.progress.start(name)
    try:
        return run_rung(name, rung, world, context, base.marker, ascent.run)
    except BudgetError as error:
        return RungRun(name, rung, world, RungStatus.OVER_BUDGET, str(error))
    except (EngineError, ModelError, DataError) as error:
        if not (label or rung.tuned) or (folder / SUBMITTED).exists():
            raise  # the task's own model, or a job that goes on elsewhere; the climb can be continued when it answers again
        return RungRun(name, rung, world, RungStatus.FAILED, str(error))
    finally:
        base.watcher.progress.finish()


def _remember_speed(ascent: Ascent, finished: RungRun) -> None:
    """Learn from the plain fine-tune how fast this machine trains; the plan of the next climb will be the better for it."""
    if finished.name != "lora":
        return
    for adapter in finished.recipe.get("adapters", ()):
        tokens = adapter["steps"] * ascent.plan.tokens_per_step
        remember_training(
            ascent.base.engine,
            wiring.speeds_path(),
            task=ascent.base.task.settings.name,
            tokens=tokens,
            seconds=adapter["seconds"],
        )


def _rung_line(finished: RungRun, world: World, worlds: int) -> str:
    """One plain line about a rung as soon as it is finished."""
    where = f"{finished.name} (fold {world.fold + 1})" if world.fold is not None and worlds > 1 else finished.name
    if finished.status is not RungStatus.RAN:
        return f"{where}: {finished.status.value}. {finished.reason}".rstrip()
    interval = validation_interval(finished.rows)
    return f"{where}: {interval_text(interval)} on {len(finished.rows)} validation rows, {finished.seconds:.0f} s"
