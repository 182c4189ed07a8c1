"""A whole climb beside the script that a good engineer would write. `make bench-climb` runs it whole.

    .venv/bin/python benchmarks/bench_climb.py [--rounds N] [--minutes 150] [--trial ROWS]

SNIPS with 100 training and 150 test rows: prompt, constrained, few-shot, nearest and LoRA. First `stepladder climb` does it
with a budget of ten minutes and without its cache. Then the script (`climb/script.py`, in an environment of its own) does the
same: every candidate that the climb considered, each training with as many steps. What the script has done is on disk after
every step, and a second call does what is missing. Figures go to benchmarks/results/climb.json. Give it the machine alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "real"))  # its files import each other by their bare names

import snips
from climb_result import describe_machine
from run import find_stepladder
from task_folder import DATASETS, WORK

from climb.table import climb_table, ratios
from stepladder.domain.errors import DataError, EngineError, StepladderError
from stepladder.domain.task import Task
from stepladder.files import write_text
from stepladder.models.pull import pull_manifest
from stepladder.service.setup import ClimbOptions, Watcher, make_base
from training.compare import run_child
from training.environments import interpreter, prepare

RESULT = Path(__file__).resolve().parent / "results" / "climb.json"
TRAIN_ROWS, TEST_ROWS = 100, 150
CLIMB_MINUTES = 10.0
"""With hours it would consider more of every rung, which both sides then do; the script would take a night."""
START_SECONDS_KEY = "start_seconds"
SETTINGS = """
[rungs]
skip = ["lora+constrained", "lora+nearest"]

[rungs.lora]
rank = 16
alpha = 32
learning_rate = 5e-4
epochs = 6
batch_size = 8

[budget]
minutes = {minutes:g}
"""

Content = dict[str, Any]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="climbs; the script runs once; default: 1")
    parser.add_argument("--minutes", type=float, default=150.0, help="begin no step of the script after so long; default: 150")
    parser.add_argument("--climb-minutes", type=float, default=CLIMB_MINUTES, help="the climb's budget; default: %(default)g")
    parser.add_argument(
        "--trial", type=int, metavar="ROWS", help="a trial run: so many rows and steps of each of the script's steps"
    )
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULT, help="where the figures go")
    options = parser.parse_args(arguments)
    if (options.trial is not None or options.climb_minutes != CLIMB_MINUTES) and options.results.resolve() == RESULT:
        parser.error("a trial run does not belong into the committed results: name another file with --results")
    return options


def read_results(path: Path) -> Content:
    """
    Raises:
        DataError: The file is there and is something else.
    """
    content: Content = {"climbs": [], "script": [], "missing": True, START_SECONDS_KEY: 0.0, "versions": {}}
    if path.is_file():
        try:
            content |= json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise DataError(path, None, f"no results of this benchmark: {error}.", "Move the file away to start anew.") from error
    return content


def build_task(datasets: Path, folder: Path, minutes: float) -> Task:
    """The task folder, built once."""
    if not (folder / "task.toml").is_file():
        snips.build(datasets, folder, train_rows=TRAIN_ROWS, test_rows=TEST_ROWS)
        settings = (folder / "task.toml").read_text(encoding="utf-8")
        write_text(folder / "task.toml", settings + SETTINGS.format(minutes=minutes))
    return Task.load(folder)


def climb(folder: Path) -> tuple[dict[str, Any], float]:
    """The record of a fresh climb in a process of its own, and the seconds from its start to its end."""
    command = [*find_stepladder(), "climb", str(folder), "--json", "--no-cache", "--fresh"]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1):
        raise EngineError(f"The climb ended with exit code {done.returncode}.", "Its own message is above.")
    record = json.loads(done.stdout)
    assert isinstance(record, dict)
    return record, seconds


def as_climb(record: Mapping[str, Any], seconds: float, machine: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    """What is kept of a climb."""
    return {
        "seconds": seconds,
        "rungs": {rung["name"]: rung["seconds"] for rung in record["rungs"] if rung["status"] == "ran"},
        "budget_minutes": minutes,
        "outcome": record["verdict"]["outcome"],
        "commit": machine["commit"] + (" with local changes" if machine["dirty"] else ""),
        "machine": {key: machine[key] for key in ("cpu", "cores", "system", "date")},
    }


def shortened(steps: Sequence[Mapping[str, Any]], rows: int) -> list[dict[str, Any]]:
    """The work list of a trial run."""
    short = []
    for step in steps:
        if step["kind"] == "train":
            cut = {"rows": step["rows"][:rows], "held_out": step["held_out"][:rows], "steps": min(step["steps"], rows)}
        else:
            cut = {"prompts": step["prompts"][:rows], "race_rows": min(step["race_rows"], rows)}
        short.append({**step, **cut})
    return short


def run_script(steps: Sequence[Mapping[str, Any]], stop_ids: Sequence[int], scratch: Path, minutes: float) -> dict[str, Any]:
    """What the script has done, and the seconds it takes to start and load."""
    write_text(scratch / "work-list.json", json.dumps(list(steps)))
    with tempfile.TemporaryDirectory() as folder:
        order_file, answer_file = Path(folder) / "order.json", Path(folder) / "answer.json"
        order = {
            "model": str(pull_manifest("smollm2-135m-instruct").folder),
            "stop_ids": list(stop_ids),
            "work_list": str(scratch / "work-list.json"),
            "progress": str(scratch / "progress.json"),
            "adapters": str(scratch / "adapters"),
            "seconds": minutes * 60,
            "answer": str(answer_file),
        }
        order_file.write_text(json.dumps(order), encoding="utf-8")
        began, before = time.perf_counter(), _seconds_done(scratch / "progress.json")
        command = [str(interpreter("script")), "-m", "climb.script", str(order_file)]
        found = run_child(command, answer_file, minutes * 60 + 7_200, what="the script")
        took = _seconds_done(scratch / "progress.json") - before
        return {**found, START_SECONDS_KEY: time.perf_counter() - began - took}


def _seconds_done(progress: Path) -> float:
    if not progress.is_file():
        return 0.0
    return float(sum(one["seconds"] for one in json.loads(progress.read_text(encoding="utf-8")).values()))


def as_steps(
    steps: Sequence[Mapping[str, Any]], done: Mapping[str, Mapping[str, Any]], tested: Sequence[str]
) -> list[dict[str, Any]]:
    """Figures of every step that is done.

    Args:
        tested: Rungs whose test rows the climb opened; the others' count nothing among the same rows.
    """
    found = []
    for step in steps:
        if step["name"] not in done:
            continue
        own, (rung, _, what) = done[step["name"]], step["name"].partition(", ")
        raced = step.get("race_rows", own["rows"]) if what != "test" or rung in tested else 0
        found.append({"name": step["name"], "rung": rung, "rows": own["rows"], "race_rows": raced, "seconds": own["seconds"]})
    return found


def compare(options: argparse.Namespace) -> Content:
    """Both sides, as far as they are missing.

    Raises:
        StepladderError: One of them failed.
    """
    from climb.work_list import build_work_list, stop_ids

    content = read_results(options.results)
    machine = describe_machine(Path(__file__).resolve().parents[1])
    scratch = WORK / ("climb" if options.trial is None else f"climb-{options.trial}")
    task = build_task(options.datasets, WORK / f"snips-150-{options.climb_minutes:g}", options.climb_minutes)
    prepare("script")
    scratch.mkdir(parents=True, exist_ok=True)
    for _ in range(options.rounds - len(content["climbs"])):
        record, seconds = climb(task.folder)
        write_text(scratch / "record.json", json.dumps(record))
        content["climbs"].append(as_climb(record, seconds, machine, options.climb_minutes))
        write_text(options.results, json.dumps(content, indent=1) + "\n")
    record = json.loads((scratch / "record.json").read_text(encoding="utf-8"))
    base = make_base(task, ClimbOptions(cache=False), Watcher())
    steps = build_work_list(base, record)
    if options.trial is not None:
        steps = shortened(steps, options.trial)
    found = run_script(steps, stop_ids(base), scratch, options.minutes)
    tested = [rung["name"] for rung in record["rungs"] if rung["test"] is not None]
    content["script"] = as_steps(steps, found["done"], tested)
    content["missing"] = len(content["script"]) < len(steps)
    if not content[START_SECONDS_KEY]:
        content[START_SECONDS_KEY] = found[START_SECONDS_KEY]
    content["versions"] = found["versions"]
    write_text(options.results, json.dumps(content, indent=1) + "\n")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        content = compare(options)
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    if ratios(content) is None:
        print("The script has not done all of its work; run it again for what is missing.")
    print(climb_table(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
