"""Climb real and bundled tasks: build the folders that are missing, climb them one after the other, keep the figures.

Results lie in `benchmarks/results/real/NAME.json`; `benchmarks/tables.py` turns them into the tables of README and log.
A task folder that exists is used as it is (delete it to build it anew); a climb that was broken off continues.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import disfluent_qa
import snips
import tickets60
from climb_result import add_field_metric, describe_machine, reduce_record, row_texts
from task_folder import DATASETS, REPOSITORY, WORK

from stepladder.data.bundled import NAMES, copy_bundled
from stepladder.domain.errors import EngineError, MissingExtra, StepladderError
from stepladder.files import write_text

RESULTS = REPOSITORY / "benchmarks" / "results" / "real"
DEMO_MINUTES = 8.0  # of a bundled task, as `stepladder demo NAME` climbs it
DECISIVE_FIELDS = {snips.NAME: "intent", tickets60.NAME: "category", "tickets": "category"}  # reported beside field F1
TASKS = (*NAMES, snips.NAME, disfluent_qa.NAME, tickets60.NAME)
VERDICT_EXITS = (0, 1)  # reached or undecided; target not reached


def build_if_missing(name: str, datasets: Path, work: Path) -> Path:
    """The task's folder, built when there is no `task.toml` in it."""
    folder = work / name
    if (folder / "task.toml").is_file():
        print(f"{name}: using {_shown(folder)}", file=sys.stderr)
        return folder
    print(f"{name}: building {_shown(folder)}", file=sys.stderr)
    if name == snips.NAME:
        return snips.build(datasets, folder)
    if name == disfluent_qa.NAME:
        return disfluent_qa.build(datasets, folder)
    if name in NAMES:
        return copy_bundled(name, folder)
    return tickets60.build(folder)


def find_stepladder() -> list[str]:
    """The `stepladder` command of this interpreter's environment, else of the search path."""
    found = shutil.which("stepladder", path=str(Path(sys.executable).parent)) or shutil.which("stepladder")
    if found is None:
        raise MissingExtra("all", "The command `stepladder`")
    return [found]


def climb(folder: Path, *, minutes: float | None, command: Sequence[str]) -> dict[str, Any]:
    """Climb a task folder in a process of its own; its progress goes to our stderr. Returns the climb's JSON.

    Raises:
        EngineError: The climb ended without a verdict, or printed something else than JSON.
    """
    budget = [] if minutes is None else ["--budget-minutes", f"{minutes:g}"]
    done = subprocess.run([*command, "climb", str(folder), "--json", *budget, "--no-cache"], stdout=subprocess.PIPE, check=False)
    if done.returncode not in VERDICT_EXITS:
        raise EngineError(f"{folder.name}: the climb ended with exit code {done.returncode}.", "Its own message is above.")
    try:
        record = json.loads(done.stdout)
    except ValueError as error:
        raise EngineError(f"{folder.name}: `climb --json` printed something else than JSON: {error}.") from error
    if not isinstance(record, dict):
        raise EngineError(f"{folder.name}: `climb --json` printed no JSON object.")
    return record


def measure(
    name: str,
    machine: dict[str, Any],
    *,
    datasets: Path,
    work: Path,
    results: Path,
    minutes: float | None,
    command: Sequence[str],
) -> Path:
    """Build, climb and store one task; returns the file of its result."""
    folder = build_if_missing(name, datasets, work)
    record = climb(folder, minutes=minutes, command=command)
    try:
        reduced = reduce_record(record, row_texts(folder))
        if name in DECISIVE_FIELDS:
            add_field_metric(reduced, folder, DECISIVE_FIELDS[name])
    except KeyError as error:
        raise EngineError(f"{name}: the climb's JSON lacks {error}.", "Was it written by another version?") from error
    path = results / f"{name}.json"
    result = {"name": name, "budget_minutes": minutes, **reduced, "machine": machine}
    write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every task got a verdict, else 4; 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(TASKS)} (default: all)")
    parser.add_argument("--minutes", type=float, help="budget of each climb, instead of the one in its task.toml")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.tasks if name not in TASKS]
    if unknown:
        parser.error(f"there is no task '{unknown[0]}'; choose from {', '.join(TASKS)}")
    machine = describe_machine(REPOSITORY)  # once, so that our own results do not make the tree look changed
    failed = 0
    for name in options.tasks or TASKS:
        try:
            path = measure(
                name,
                machine,
                datasets=options.datasets,
                work=WORK,
                results=RESULTS,
                minutes=options.minutes or (DEMO_MINUTES if name in NAMES else None),
                command=find_stepladder(),
            )
            print(_shown(path))
        except StepladderError as error:
            print(error, file=sys.stderr)
            failed += 1
        except KeyboardInterrupt:
            print(f"{name}: interrupted; the same command continues the climb.", file=sys.stderr)
            return 130
    return 4 if failed else 0


def _shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


if __name__ == "__main__":
    sys.exit(main())
