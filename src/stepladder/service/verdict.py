"""`verdict`: what would follow from the same rows under other assumptions. Nothing is run, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from stepladder.domain.climb import ClimbRecord, GradedRow, RungResult, RungStatus
from stepladder.domain.errors import UsageError
from stepladder.domain.learning_curve import LearningCurve
from stepladder.domain.task import Task, UseSettings
from stepladder.domain.verdict import Verdict
from stepladder.evaluation.compare import Contender, name_contenders
from stepladder.evaluation.cost import order_for_adoption, repriced
from stepladder.evaluation.learning_curve import forecast
from stepladder.evaluation.records import inputs_from_json
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.evaluation.verdict import decide
from stepladder.evaluation.wording import growth
from stepladder.service.climb import Climb
from stepladder.service.open_run import find_run


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What may be taken otherwise than in the run's task.toml; None keeps what stands there.

    `no_target` asks for the best value instead of a target.
    """

    target: float | None = None
    no_target: bool = False
    minimum_gain: float | None = None
    calls_per_month: float | None = None
    calls_total: float | None = None
    horizon_months: float | None = None
    facts_change: str | None = None
    machine_usd_per_hour: float | None = None
    label_usd_each: float | None = None
    max_latency_seconds: float | None = None
    data_may_leave: bool | None = None


USE = (
    "calls_per_month",
    "calls_total",
    "horizon_months",
    "facts_change",
    "machine_usd_per_hour",
    "label_usd_each",
    "max_latency_seconds",
    "data_may_leave",
)
"""Assumptions that are keys of `[use]`."""


@dataclass(frozen=True)
class Derived:
    """The climb as it reads under the assumptions, and the verdict that was recorded. `changed` names what was assumed."""

    climb: Climb
    before: Verdict
    changed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return self.climb.verdict


def derive_verdict(run: Path | str, assumptions: Assumptions | None = None) -> Derived:
    """The verdict of a finished run under other assumptions.

    Raises:
        RunError: There is no finished run at `run`, or it is broken. UsageError: The assumptions make no sense.
    """
    assumptions = assumptions or Assumptions()
    folder = find_run(run)
    record, inputs = folder.read_verdict(), inputs_from_json(folder.read_inputs())
    use = Task.load(folder.task_folder).settings.use
    other_use = _other_use(use, assumptions)
    target, minimum_gain = _aims(inputs, assumptions)
    curves, lost = _curves(record, inputs, minimum_gain)
    contenders = [replace(one, cost=repriced(one.cost, other_use, tuned=one.tuned)) for one in inputs.contenders]
    other = replace(
        inputs,
        contenders=tuple(order_for_adoption(contenders)),
        target=target,
        minimum_gain=minimum_gain,
        growth=inputs.growth if minimum_gain == inputs.minimum_gain else tuple(filter(None, map(growth, curves))),
        max_latency_seconds=other_use.max_latency_seconds,
        data_may_leave=other_use.data_may_leave,
        calls_total=inputs.calls_total if other_use.calls_total == use.calls_total else other_use.calls_total,
    )
    verdict = decide(other)
    rungs = tuple(
        replace(rung, cost=repriced(rung.cost, other_use, tuned=rung.tuned)) if rung.status is RungStatus.RAN else rung
        for rung in record.rungs
    )
    derived = replace(record, verdict=verdict, rungs=rungs, target=target, minimum_gain=minimum_gain, curves=curves)
    return Derived(
        Climb(derived, folder.path),
        record.verdict,
        _changed(inputs, other, use, other_use),
        (*_never_asked(derived, other, folder.read_rows()), *lost),
    )


def _curves(record: ClimbRecord, inputs: VerdictInputs, minimum_gain: float) -> tuple[tuple[LearningCurve, ...], tuple[str, ...]]:
    """The learning curves as they read under another smallest gain, and a word where their points were not recorded."""
    if minimum_gain == inputs.minimum_gain:
        return record.curves, ()
    if inputs.growth and not record.curves:
        return (), ("What more training rows would bring is left out: this run has no points to reckon it anew from.",)
    return tuple(forecast(curve, minimum_gain) for curve in record.curves), ()


def _other_use(use: UseSettings, assumptions: Assumptions) -> UseSettings:
    given = {name: value for name in USE if (value := getattr(assumptions, name)) is not None}
    if "calls_per_month" in given:
        given.setdefault("calls_total", None)
    elif "calls_total" in given:
        given["calls_per_month"] = None
    try:
        return UseSettings.model_validate({**use.model_dump(), **given})
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UsageError(f"{key}: {fault['msg']}." if key else f"{fault['msg']}.", "Correct the option.") from error


def _aims(inputs: VerdictInputs, assumptions: Assumptions) -> tuple[float | None, float]:
    """Target and smallest gain."""
    target = inputs.target if assumptions.target is None else assumptions.target
    minimum_gain = inputs.minimum_gain if assumptions.minimum_gain is None else assumptions.minimum_gain
    if assumptions.no_target and assumptions.target is not None:
        raise UsageError("a target and none at once.", "Give `--target` or `--no-target`.")
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"a target lies above 0 and is at most 1, not {target:g}.", "0.85 means 85 %.")
    if not 0 < minimum_gain < 1:
        raise UsageError(f"the smallest gain lies between 0 and 1, not {minimum_gain:g}.", "0.03 means three points.")
    return (None if assumptions.no_target else target), minimum_gain


def _changed(inputs: VerdictInputs, other: VerdictInputs, use: UseSettings, other_use: UseSettings) -> tuple[str, ...]:
    aims = {"target": inputs.target, "minimum_gain": inputs.minimum_gain}
    before = {**aims, **use.model_dump(), "data_may_leave": inputs.data_may_leave}
    after = {"target": other.target, "minimum_gain": other.minimum_gain, **other_use.model_dump()}
    return tuple(
        f"{name} = {_said(after[name])} instead of {_said(before[name])}" for name in before if before[name] != after[name]
    )


def _said(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,.6g}" if isinstance(value, (int, float)) else str(value)


def _never_asked(record: ClimbRecord, inputs: VerdictInputs, rows: Sequence[GradedRow]) -> tuple[str, ...]:
    """Rungs that validation would name under these assumptions and that never answered the test rows.

    In cross-fitting each fold names its own, which only a climb can do.
    """
    if inputs.cross_fit:
        return ()
    by_rung: dict[str, list[GradedRow]] = {}
    for row in rows:
        if row.split == "validation":
            by_rung.setdefault(row.rung, []).append(row)
    validated = [_validated(rung, by_rung[rung.name]) for rung in record.rungs if _was_asked(rung, by_rung)]
    if not validated:
        return ()
    named = name_contenders(
        validated, target=inputs.target, minimum_gain=inputs.minimum_gain, max_latency_seconds=inputs.max_latency_seconds
    ).names
    absent = [name for name in named if name not in {one.rung for one in inputs.contenders}]
    notes = [
        f"Under these assumptions validation would name {name} as well, which never answered the test rows. Climb again to know."
        for name in absent
    ]
    if not inputs.data_may_leave and any(one.hosted for one in inputs.contenders):
        notes.append("Hosted rungs held a part; which local one validation would name instead, only a climb without them says.")
    return tuple(notes)


def _was_asked(rung: RungResult, by_rung: Mapping[str, Sequence[GradedRow]]) -> bool:
    return rung.status is RungStatus.RAN and rung.name in by_rung


def _validated(rung: RungResult, rows: Sequence[GradedRow]) -> Contender:
    latencies = [row.latency_seconds for row in rows]
    return Contender(
        rung.name,
        rung.tuned,
        np.asarray([np.nan if row.score is None else row.score for row in rows]),
        rung.cost,
        latency_p95_seconds=float(np.quantile(latencies, 0.95)),
    )


def derived_to_json(derived: Derived) -> dict[str, object]:
    """For `--json`: the derived verdict, the recorded one, what was assumed otherwise."""
    return {
        "verdict": asdict(derived.verdict),
        "recorded": asdict(derived.before),
        "assumed": list(derived.changed),
        "notes": list(derived.notes),
    }
