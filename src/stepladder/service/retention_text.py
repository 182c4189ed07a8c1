"""Retention in words: one line for a terminal, a table row a measure for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.domain.retention import Retention, RetentionMeasure, TriedRemedy
from stepladder.evaluation.retention import CHOICES, GENERAL_TEXT
from stepladder.service.figures import NOTHING, one_line, rate_text, setting_text


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """One measure as it is shown. `held`: "yes", "no", or why it does not count."""

    name: str
    base: str
    tuned: str
    loss: str
    limit: str
    held: str


def retention_lines(found: Sequence[Retention]) -> list[str]:
    """One line a rung; of several folds the worst, since each of them has to hold."""
    folds = [one for one in found if one.fold is not None and not one.refit]
    lines = [retention_line(one) for one in found if one not in folds]
    if not folds:
        return lines
    worst = max(folds, key=lambda one: (bool(one.blocked), bool(one.unmeasured), _rise(one)))
    return [f"{retention_line(worst)} The worst of {len(folds)} folds." if len(folds) > 1 else retention_line(worst), *lines]


def _rise(retention: Retention) -> float:
    return max((one.figure for one in retention.measures if one.name == GENERAL_TEXT), default=0.0)


def retention_line(retention: Retention) -> str:
    """What a tuned rung kept, on one line."""
    name = one_line(retention.rung)
    where = (
        " (fitted again on all rows)" if retention.refit else "" if retention.fold is None else f" (fold {retention.fold + 1})"
    )
    if retention.unmeasured:
        return f"General abilities of {name}{where}: not measured. {one_line(retention.unmeasured)}"
    said = "; ".join(f"{one_line(one.name)} {_loss(one)}" for one in retention.measures if one.limit is not None)
    if retention.failed:
        lost = ", ".join(one_line(one.name) for one in retention.failed)
        tried = f" Tried in vain: {one_line(', '.join(one.name for one in retention.tried))}." if retention.tried else ""
        return f"General abilities of {name}{where}: LOST ({lost}). {said}.{tried}"
    return f"General abilities of {name}{where}: {_kept(retention)}. Loss: {said}."


def _kept(retention: Retention) -> str:
    """What became of the abilities of a rung that nothing blocks; what fell past its limit without counting is named."""
    restored = f"restored by {one_line(retention.remedy)}" if retention.remedy else ""
    past = ", ".join(one_line(one.name) for one in retention.measures if not one.within)
    beyond = f"past their limit ({past}), which does not count without other tasks" if past else ""
    return "; ".join(filter(None, (restored, beyond))) or "kept"


def tried_line(retention: Retention) -> str:
    """Which remedies were tried and what came of each; empty without any."""
    said = [f"{one_line(one.name)} ({_came_of(one)})" for one in retention.tried]
    return f"Tried in order: {', '.join(said)}." if said else ""


def _came_of(remedy: TriedRemedy) -> str:
    if remedy.failed:
        return f"still lost: {one_line(', '.join(remedy.failed))}"
    return f"held, validation {rate_text(remedy.score)}"


def measure_rows(retention: Retention) -> list[MeasureRow]:
    """Every measure for the report's table."""
    return [
        MeasureRow(one.name, _level(one, one.base), _level(one, one.tuned), _loss(one), _limit(one), _held(one, retention.gate))
        for one in retention.measures
    ]


def _level(measure: RetentionMeasure, value: float | None) -> str:
    if value is None:
        return NOTHING
    if measure.name == GENERAL_TEXT or measure.base is None:
        return f"{value:.3f} nats per token"
    return f"{100 * value:.1f} points" if measure.name == CHOICES else rate_text(value)


def _loss(measure: RetentionMeasure) -> str:
    loss = measure.loss
    if measure.base is None:
        return f"{loss.value:.3f} nats per token"
    unit = " %" if measure.name == GENERAL_TEXT else " points"
    bound = f" (at most {100 * loss.high:+.1f})" if measure.bound == "upper" else ""
    return f"{100 * loss.value:+.1f}{bound}{unit}"


def _limit(measure: RetentionMeasure) -> str:
    if measure.limit is None:
        return NOTHING
    return setting_text(measure.limit) if measure.name == GENERAL_TEXT else f"{100 * measure.limit:.6g} points"


def _held(measure: RetentionMeasure, gate: bool) -> str:
    if measure.limit is None:
        left = measure.loss.ungraded
        return "reported only" + (f"; {left:,} not judged, as their pattern ran over its time" if left else "")
    if measure.within:
        return "yes"
    return "no" if gate or measure.always else "no; does not count without other tasks"
