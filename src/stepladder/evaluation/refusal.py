"""When tuning is refused: the task is about facts, about facts that change, or over before tuning pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stepladder.domain.task import Task
from stepladder.domain.verdict import Cost
from stepladder.evaluation.cost import costs_less, when_it_pays
from stepladder.evaluation.facts import FactReport

FACT_BOUND_SHARE = 0.30


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why tuning is refused, and the rows that show it: facts by row id (none for a one-off job)."""

    kind: Literal["fact-bound", "changing", "one-off"]
    sentence: str
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def tuning_refusal(
    task: Task, report: FactReport | None, tuned: Cost | None = None, untuned: Cost | None = None
) -> Refusal | None:
    """Why this task should not be tuned; None when nothing speaks against it.

    Args:
        report: Facts of the validation rows; None when they were not looked for.
        tuned, untuned: What the whole job would cost with a tuned rung and without; None while unknown.
    """
    fact_bound = report is not None and report.rows > 0 and report.share >= FACT_BOUND_SHARE
    if report is not None and fact_bound and not task.settings.output.style:
        return _about_facts(task, report)
    calls = task.settings.use.calls_total
    if calls is not None and tuned is not None and untuned is not None and costs_less(untuned, tuned):
        when = when_it_pays(tuned, untuned)
        return Refusal("one-off", f"This is a one-off job of {calls:,.0f} calls; tuning pays for itself {when}.")
    return None


def _about_facts(task: Task, report: FactReport) -> Refusal:
    row, spans = next(iter(report.facts.items()))
    found = (
        f"{len(report.facts)} of {report.rows} validation rows ask for facts that stand neither in the input nor twice in the "
        f"training rows, and that the model does not know (row {row}: {spans[0]!r})"
    )
    change = task.settings.use.facts_change
    if change in ("weekly", "daily"):
        return Refusal(
            "changing", f"{found}, and the facts change {change}: a tuned model would be out of date. Use RAG.", report.facts
        )
    return Refusal(
        "fact-bound", f"This is a RAG task: {found}. Tuning does not teach facts; put the documents in reach.", report.facts
    )
