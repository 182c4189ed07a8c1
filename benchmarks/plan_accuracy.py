"""How well does a plan foretell a climb's time? Predicted and real seconds of every rung, from the folders of finished climbs.

    .venv/bin/python benchmarks/plan_accuracy.py TASK_OR_RUN …

A task folder stands for all its finished runs. Give climbs that ran in one go with the machine to themselves: a continued climb
repeats no answers, so its seconds say too little. Prints a table and the factor `SLOWER_THAN_THE_PROBE` that would have
fitted the rungs which only answer, and writes both to benchmarks/results/plan_accuracy.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from stepladder.domain.climb import RungStatus
from stepladder.service.plan import Plan
from stepladder.service.workload import SLOWER_THAN_THE_PROBE
from stepladder.storage.records import from_json
from stepladder.storage.run_folder import RunFolder

RESULT = Path(__file__).resolve().parent / "results" / "plan_accuracy.json"
ANSWERING = ("constrained", "few-shot", "nearest", "rag")
"""Rungs whose whole estimate is a multiple of the factor: they neither train nor score labels."""
WHOLE = "whole climb"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One rung of one climb, or the whole of it."""

    run: str
    task: str
    rung: str
    predicted_seconds: float
    seconds: float

    @property
    def ratio(self) -> float:
        """Real over predicted: above 1 the plan was too hopeful."""
        return self.seconds / self.predicted_seconds


def runs_at(path: Path) -> list[RunFolder]:
    """The run at `path`, or all finished runs of the task at `path`."""
    if (path / "climb.json").is_file():
        return [RunFolder.open(path)]
    return [RunFolder(verdict.parent) for verdict in sorted((path / "runs").glob("*/verdict.json"))]


def compare(run: RunFolder) -> list[Comparison]:
    """Every rung that was planned and ran, and the whole climb. Rungs left out of the budget are left out here too."""
    plan, record = from_json(Plan, run.read_state()["plan"]), run.read_verdict()
    found = [
        Comparison(run.name, record.task, rung.name, plan.seconds[rung.name], rung.seconds)
        for rung in record.rungs
        if rung.status is RungStatus.RAN and plan.seconds.get(rung.name, 0.0) > 0 and rung.name not in plan.over_budget
    ]
    if found:
        found.append(Comparison(run.name, record.task, WHOLE, plan.total_seconds, record.seconds))
    return found


def fitting_factor(comparisons: Sequence[Comparison], used: float = SLOWER_THAN_THE_PROBE) -> float | None:
    """The factor that would have foretold the median of the answering rungs; None without any.

    Args:
        used: The factor the plans were made with.
    """
    ratios = [one.ratio for one in comparisons if one.rung in ANSWERING]
    return used * median(ratios) if ratios else None


def main(paths: Sequence[str], written: Path = RESULT) -> int:
    """Print the comparison and write it to `written`; the exit code."""
    runs = [run for path in paths for run in runs_at(Path(path))]
    comparisons = [one for run in runs for one in compare(run)]
    if not comparisons:
        print("No finished climb with a plan. Give task or run folders.", file=sys.stderr)
        return 2
    print(f"{'task':<20} {'rung':<18} {'predicted s':>12} {'real s':>10} {'real/predicted':>15}")
    for one in comparisons:
        print(f"{one.task:<20} {one.rung:<18} {one.predicted_seconds:>12.1f} {one.seconds:>10.1f} {one.ratio:>15.2f}")
    factor = fitting_factor(comparisons)
    if factor is not None:
        print(f"SLOWER_THAN_THE_PROBE is {SLOWER_THAN_THE_PROBE}; {factor:.2f} would have fitted the answering rungs (median).")
    result = {
        "factor_used": SLOWER_THAN_THE_PROBE,
        "factor_that_fits": factor,
        "machines": sorted({run.read_verdict().machine for run in runs}),
        "rungs": [{**asdict(one), "ratio": round(one.ratio, 3)} for one in comparisons],
    }
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
