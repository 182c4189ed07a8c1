"""From what every rung did to the one record that the table, the report and `verdict.json` show."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from stepladder.domain.answer import expected_answer
from stepladder.domain.climb import ChangedRow, ClimbRecord, GradedRow, RungResult, RungStatus
from stepladder.domain.learning_curve import LearningCurve
from stepladder.domain.messages import Example
from stepladder.domain.protocols import ModelIdentity, TrainPoint
from stepladder.evaluation.compare import Contender
from stepladder.evaluation.gains import SAME
from stepladder.evaluation.graders import metrics
from stepladder.evaluation.seeds import averaged
from stepladder.service.check import brief_lines
from stepladder.service.contest import Contest, answered, measured_cost
from stepladder.service.diagnosis import mistakes_of, slices_of
from stepladder.service.figures import rate_text
from stepladder.service.judging import judge_remarks
from stepladder.service.plan import Plan
from stepladder.service.rung_run import RungRun, validation_interval
from stepladder.service.setup import Base, versions
from stepladder.service.style import style_figures, style_remark
from stepladder.storage.run_folder import RunFolder

WORST_REGRESSIONS = 10
OWN_PROMPT = "own:"  # how the rung `prompt` names the user's own


def make_record(
    base: Base,
    run: RunFolder,
    plan: Plan,
    runs: Sequence[RungRun],
    contest: Contest,
    *,
    seconds: float,
    curves: Sequence[LearningCurve] = (),
    compared: Sequence[ModelIdentity] = (),
) -> ClimbRecord:
    """Everything a reader of the verdict may ask for."""
    settings = base.task.settings
    zero_shot = next((name for name, roles in contest.roles.items() if "zero-shot" in roles), None)
    fixed, broken = changed_rows(base.data.examples, contest.rows, contest.contenders, zero_shot)
    return ClimbRecord(
        run=run.name,
        task=settings.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=base.engine.identity,
        grader=base.marker.graders[0].name,
        rungs=tuple(_results(base, runs, contest)),
        verdict=contest.verdict,
        regime=base.data.splits.regime,
        split_sizes=_split_sizes(runs),
        target=settings.target,
        minimum_gain=settings.minimum_gain,
        plan=plan.lines,
        notes=(*base.data.notes, *brief_lines(base.checked.report)),
        judges=judge_remarks(base.task, base.marker.graders, base.data.examples),
        noise=contest.noise,
        regressions=tuple(broken[:WORST_REGRESSIONS]),
        improvements=tuple(fixed[:WORST_REGRESSIONS]),
        fixed=len(fixed),
        broken=len(broken),
        fixed_rows=tuple(row.id for row in fixed),
        broken_rows=tuple(row.id for row in broken),
        mistakes=mistakes_of(base, contest),
        slices=slices_of(base, contest),
        versions=versions(),
        machine=f"{platform.machine()} {platform.system()}, {_processor()}",
        seconds=seconds,
        curves=tuple(curves),
        compared=tuple(compared),
    )


def _results(base: Base, runs: Sequence[RungRun], contest: Contest) -> list[RungResult]:
    """One row a rung in ladder order; contenders whose rung changed from fold to fold follow as rows of their own."""
    names = list(dict.fromkeys(ran.name for ran in runs))
    results = [_result(base, [ran for ran in runs if ran.name == name], contest) for name in names]
    for contender in contest.contenders:
        if contender.rung not in names:
            first = contest.runs[contender.rung][0]
            bare = RungResult(contender.rung, contender.tuned, RungStatus.RAN, model=_model(base, first))
            results.append(_with_test(base, bare, contest))
    return results


def _result(base: Base, runs: Sequence[RungRun], contest: Contest) -> RungResult:
    first = runs[0]
    finished = [ran for ran in runs if ran.status is RungStatus.RAN]
    if not finished:
        return RungResult(first.name, first.technique.tuned, first.status, first.reason, _model(base, first))
    rows = [row for ran in finished for row in ran.rows]
    result = RungResult(
        name=first.name,
        tuned=first.technique.tuned,
        status=RungStatus.RAN,
        reason=" ".join(_remarks(runs, finished)),
        model=_model(base, first),
        validation=validation_interval(rows),
        metrics=_metrics(base, finished, rows, "validation"),
        cost=measured_cost(base, finished[0], rows, float(np.mean([ran.seconds for ran in finished]))),
        cut_share=float(np.mean([row.cut for row in rows])) if rows else 0.0,
        seconds=sum(ran.seconds for ran in finished),
        recipe=finished[0].recipe,
        history=_history(finished[0]),
    )
    return _with_test(base, result, contest)


def _remarks(runs: Sequence[RungRun], finished: Sequence[RungRun]) -> Iterator[str]:
    """What a reader should know beside the scores: folds left out, and how the user's own prompts did."""
    if len(finished) < len(runs):
        yield f"Ran in {len(finished)} of {len(runs)} folds."
    if remark := finished[0].recipe.get("remark"):
        yield str(remark)
    for tried in finished[0].recipe.get("tried", ()):
        if str(tried.get("name", "")).startswith(OWN_PROMPT) and tried.get("score") is not None:
            yield f"Your prompt {tried['name'].removeprefix(OWN_PROMPT)}: {rate_text(tried['score'])} on {tried['rows']} rows."


def _with_test(base: Base, result: RungResult, contest: Contest) -> RungResult:
    """The result with its test score, cost and latency, when the rung was a contender; only then was it asked one by one."""
    contender = contest.named(result.name)
    if contender is None:
        return result
    found = {**result.metrics, **_test_metrics(base, contest, result.name)}
    return replace(
        result,
        reason=f"{result.reason} {style_remark(found)}".strip(),
        role=", ".join(contest.roles[result.name]),
        test=contender.interval(contest.clusters, cross_fit=contest.cross_fit, seed=base.options.seed),
        metrics=found,
        cost=contender.cost,
        latency_p50_seconds=contender.latency_p50_seconds,
        latency_p95_seconds=contender.latency_p95_seconds,
        cut_share=contender.cut_share,
    )


def _test_metrics(base: Base, contest: Contest, rung: str) -> dict[str, float]:
    """Those of each training seed, averaged."""
    rows = [row for row in contest.rows if row.rung == rung]
    of_seeds = [
        _metrics(base, contest.runs[rung], [row for row in rows if row.seed == seed], "test")
        for seed in sorted({row.seed for row in rows})
    ]
    names = dict.fromkeys(name for found in of_seeds for name in found)
    return {name: float(np.mean([found[name] for found in of_seeds if name in found])) for name in names}


def _metrics(base: Base, runs: Sequence[RungRun], rows: Sequence[GradedRow], split: str) -> dict[str, float]:
    """Further aggregates: what the deciding grader and fitted ones add, and the means of the other graders."""
    examples = {example.id: example for example in base.data.examples}
    rows = answered(rows)
    shown = [examples[row.id] for row in rows]
    found = metrics(base.marker.graders[0], shown, [row.answer for row in rows])
    for name in rows[0].others if rows else ():
        values = [row.others[name] for row in rows if row.others[name] is not None]
        if values:
            found[name] = float(np.mean(np.asarray(values, dtype=np.float64)))
    found |= style_figures({ran.world.fold: ran.marker for ran in runs if ran.marker is not None}, rows, examples)
    return {f"{split}/{name}": value for name, value in found.items()}


def changed_rows(
    examples: Sequence[Example], rows: Sequence[GradedRow], contenders: Sequence[Contender], zero_shot: str | None
) -> tuple[list[ChangedRow], list[ChangedRow]]:
    """Test rows that one contender fixed and broke against another, the most changed first."""
    pair = _pair_to_show(contenders, zero_shot)
    changed = _changed_rows(examples, rows, *pair) if pair is not None else []
    broken = [row for row in changed if row.candidate_score < row.baseline_score]
    fixed = [row for row in reversed(changed) if row.candidate_score > row.baseline_score]
    return fixed, broken


def _pair_to_show(contenders: Sequence[Contender], zero_shot: str | None) -> tuple[str, str] | None:
    """Which two contenders' differences are shown row by row: the tuned one against the untuned one that rivals it."""
    tuned = [contender.rung for contender in contenders if contender.tuned]
    untuned = [contender for contender in contenders if not contender.tuned]
    if not untuned:
        return None
    best = max(untuned, key=lambda contender: contender.mean).rung
    if tuned:
        return best, tuned[0]
    return (zero_shot, best) if zero_shot is not None and zero_shot != best else None


def _changed_rows(examples: Sequence[Example], rows: Sequence[GradedRow], baseline: str, candidate: str) -> list[ChangedRow]:
    """Test rows that the candidate fixed or broke, counted as in the verdict; worst first."""
    by_id = {example.id: example for example in examples}
    old, new = ([row for row in rows if row.rung == rung] for rung in (baseline, candidate))
    changed = []
    for direction in (-1, 1):
        before, after = averaged(old, best=direction < 0), averaged(new, best=direction > 0)
        for was, now in ((before[name], row) for name, row in after.items() if name in before):
            if was.score is None or now.score is None or direction * (now.score - was.score) <= SAME:
                continue
            example = by_id[now.id]
            changed.append(
                ChangedRow(
                    now.id,
                    example.input.text,
                    expected_answer(example),
                    baseline,
                    was.answer,
                    was.score,
                    candidate,
                    now.answer,
                    now.score,
                )
            )
    return sorted(changed, key=lambda row: row.candidate_score - row.baseline_score)


def _history(ran: RungRun) -> tuple[TrainPoint, ...]:
    adapters = ran.recipe.get("adapters", ())
    points = adapters[0].get("history", ()) if adapters else ()
    return tuple(point if isinstance(point, TrainPoint) else TrainPoint(**point) for point in points)


def _model(base: Base, ran: RungRun) -> str:
    return ran.context.engine.identity.name if ran.context is not None else base.engine.identity.name


def _split_sizes(runs: Sequence[RungRun]) -> dict[str, int]:
    worlds = list({ran.world.fold: ran.world for ran in runs}.values())
    sizes = {"train": len(worlds[0].train), "test": sum(len(world.test) for world in worlds)}
    if not worlds[0].chooses_on_train:
        sizes["validation"] = len(worlds[0].validation)
    if len(worlds) > 1:
        sizes["folds"] = len(worlds)
    return sizes


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a pseudo file
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        return platform.processor() or "unknown processor"
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
