"""How well does a plan foretell a climb's time and memory? Predicted and real, from the folders of finished climbs.

    .venv/bin/python benchmarks/plan_accuracy.py TASK_OR_RUN …
    .venv/bin/python benchmarks/plan_accuracy.py --climb TASK …

A task folder stands for all its finished runs. Give climbs that ran in one go with the machine to themselves: a continued climb
repeats no answers, so its seconds say too little. A folder does not know how much memory its climb took: with `--climb` each
task is climbed anew, in a process of its own whose peak is compared with the plan's.

Prints a table, whether the whole lies within the promised share (time 30 %, memory 15 %), and the factor `SLOWER_THAN_THE_PROBE`
that would have fitted the rungs which only answer; writes all of it to benchmarks/results/plan_accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import EngineError, StepladderError
from stepladder.service.plan import Plan
from stepladder.service.workload import SLOWER_THAN_THE_PROBE
from stepladder.storage.records import from_json
from stepladder.storage.run_folder import RunFolder

RESULT = Path(__file__).resolve().parent / "results" / "plan_accuracy.json"
ANSWERING = ("constrained", "few-shot", "nearest", "rag")
"""Rungs whose whole estimate is a multiple of the factor: they neither train nor score labels."""
WHOLE = "whole climb"
PROMISED_TIME, PROMISED_MEMORY = 0.30, 0.15
"""How far from the plan the whole climb's seconds and the peak may lie, as a share of the plan."""


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


@dataclass(frozen=True, slots=True)
class Peak:
    """The memory of one climb that was run here."""

    run: str
    task: str
    predicted_bytes: int
    peak_bytes: int

    @property
    def ratio(self) -> float:
        """Real over predicted."""
        return self.peak_bytes / self.predicted_bytes


def runs_at(path: Path) -> list[RunFolder]:
    """The run at `path`, or all finished runs of the task at `path`."""
    if (path / "climb.json").is_file():
        return [RunFolder.open(path)]
    return [RunFolder(verdict.parent) for verdict in sorted((path / "runs").glob("*/verdict.json"))]


def plan_of(run: RunFolder) -> Plan:
    return from_json(Plan, run.read_state()["plan"])


def compare(run: RunFolder) -> list[Comparison]:
    """Every rung that was planned and ran, and the whole climb. Rungs left out of the budget are left out here too."""
    plan, record = plan_of(run), run.read_verdict()
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


def climb(task: Path, *options: str) -> Peak | None:
    """Climb a task anew in a process of its own; None where the plan knows of no memory (a served model).

    Raises:
        EngineError: The climb ended without a verdict.
    """
    before = {run.path for run in runs_at(task)}
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "climb", str(task), "--fresh", *options]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    finished = [run for run in runs_at(task) if run.path not in before]
    if len(finished) != 1:
        raise EngineError(f"the climb of {task} ended with exit code {process.returncode} and no verdict.", "See what it said.")
    (run,) = finished
    memory = plan_of(run).memory
    return None if memory is None else Peak(run.name, run.read_verdict().task, memory.peak, used.ru_maxrss * 1024)


def within(ratio: float, promised: float) -> str:
    """Whether a ratio lies as near to 1 as was promised, in words."""
    return f"{'within' if abs(ratio - 1) <= promised else 'beyond'} {promised:.0%} of the plan"


def report(comparisons: Sequence[Comparison], peaks: Sequence[Peak]) -> str:
    """Everything compared, line by line."""
    lines = [f"{'task':<20} {'rung':<18} {'predicted s':>12} {'real s':>10} {'real/predicted':>15}"]
    for one in comparisons:
        said = f"  {within(one.ratio, PROMISED_TIME)}" if one.rung == WHOLE else ""
        lines.append(
            f"{one.task:<20} {one.rung:<18} {one.predicted_seconds:>12.1f} {one.seconds:>10.1f} {one.ratio:>15.2f}{said}"
        )
    for peak in peaks:
        lines.append(
            f"{peak.task:<20} peak memory: {peak.predicted_bytes / 2**30:.2f} GiB predicted, "
            f"{peak.peak_bytes / 2**30:.2f} GiB real, {peak.ratio:.2f}, {within(peak.ratio, PROMISED_MEMORY)}"
        )
    factor = fitting_factor(comparisons)
    if factor is not None:
        lines.append(
            f"SLOWER_THAN_THE_PROBE is {SLOWER_THAN_THE_PROBE}; {factor:.2f} would have fitted the answering rungs (median)."
        )
    return "\n".join(lines)


def main(arguments: Sequence[str], written: Path = RESULT) -> int:
    """Print the comparison and write it to `written`; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="task or run folders")
    parser.add_argument("--climb", action="store_true", help="climb the tasks anew, for their memory")
    parser.add_argument("--budget-minutes", help="of those climbs; default: the task's own")
    options = parser.parse_args(arguments)
    budget = ("--budget-minutes", options.budget_minutes) if options.budget_minutes else ()
    try:
        peaks = [peak for path in options.paths if options.climb and (peak := climb(path, *budget)) is not None]
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    climbed = {peak.run for peak in peaks}
    runs = [run for path in options.paths for run in runs_at(path) if run.name in climbed or not options.climb]
    comparisons = [one for run in runs for one in compare(run)]
    if not comparisons:
        print("No finished climb with a plan. Give task or run folders.", file=sys.stderr)
        return 2
    print(report(comparisons, peaks))
    result = {
        "factor_used": SLOWER_THAN_THE_PROBE,
        "factor_that_fits": fitting_factor(comparisons),
        "machines": sorted({run.read_verdict().machine for run in runs}),
        "rungs": [{**asdict(one), "ratio": round(one.ratio, 3)} for one in comparisons],
        "memory": [{**asdict(one), "ratio": round(one.ratio, 3)} for one in peaks],
    }
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
