"""The learning curve of the fine-tune itself, on two tasks: nine trainings each, and what twice the rows would bring.

    .venv/bin/python benchmarks/curve/lora_curves.py [repairs tickets] [--minutes 20]
    .venv/bin/python benchmarks/curve/lora_curves.py --forecast-again    # from the points on file, without any training

Each task is climbed with the rungs `prompt` and `lora` alone and `[rungs] learning_curve = ["lora"]`: on a quarter, a half and
seven eighths of the rows, three draws each. `--minutes` bounds each climb; where they do not hold nine trainings the climb says
so and there is no curve. A climb that was broken off continues. Writes benchmarks/results/curve-lora.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "benchmarks" / "real")]

from climb_result import describe_machine  # noqa: E402
from run import TASKS, build_if_missing, climb, find_stepladder  # noqa: E402
from task_folder import DATASETS, WORK  # noqa: E402

from stepladder.domain.errors import EngineError, StepladderError  # noqa: E402
from stepladder.evaluation.learning_curve import doubling  # noqa: E402
from stepladder.files import write_text  # noqa: E402
from stepladder.techniques.ladder import LADDER  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "curve-lora.json"
CLIMBED = ("baseline", "prompt", "lora")
DEFAULT = ("repairs", "tickets")
MINUTES = 20.0


def build(name: str, datasets: Path, work: Path) -> Path:
    """The task's folder under a name of its own, with only the fine-tune to climb and to draw."""
    folder = build_if_missing(name, datasets, work / "curves")
    toml = (folder / "task.toml").read_text(encoding="utf-8")
    if "learning_curve" not in toml:
        skipped = [rung.name for rung in LADDER if rung.name not in CLIMBED]
        write_text(folder / "task.toml", f'{toml.rstrip()}\n\n[rungs]\nskip = {json.dumps(skipped)}\nlearning_curve = ["lora"]\n')
    return folder


def curve_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The curve of `lora` in a climb's JSON, figures only.

    Raises:
        EngineError: There is none; the climb's own lines say why.
    """
    found = [curve for curve in record["curves"] if curve["rung"] == "lora"]
    if not found:
        raise EngineError(f"{name}: the climb drew no learning curve of `lora`.", "Its lines above say why; raise --minutes.")
    return {"set": name, **found[0]}


def forecast_again(content: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """The same points, and what today's code makes of them; `forecast_commit` says which code that was."""
    return {**content, "curves": [_forecast(curve) for curve in content["curves"]], "forecast_commit": commit}


def _forecast(curve: Mapping[str, Any]) -> dict[str, Any]:
    if curve["doubling"] is None:
        return dict(curve)
    rows, scores, draws = ([point[key] for point in curve["points"]] for key in ("rows", "score", "draw"))
    counts = {"all_rows": curve["rows"], "scored_rows": curve["scored_rows"]}
    return {**curve, "doubling": asdict(doubling(rows, scores, draws, **counts, minimum_gain=curve["minimum_gain"]))}


def main(
    arguments: Sequence[str] | None = None,
    *,
    work: Path = WORK,
    result: Path = RESULT,
    command: Sequence[str] | None = None,
) -> int:
    """Exit code 4 when a curve could not be had; those that could are written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(TASKS)} (default: {' '.join(DEFAULT)})")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="budget of each climb (%(default)s)")
    parser.add_argument("--forecast-again", action="store_true", help="train nothing; forecast from the points on file")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.tasks if name not in TASKS]
    if unknown:
        parser.error(f"there is no task '{unknown[0]}'; choose from {', '.join(TASKS)}")
    machine, curves = describe_machine(REPOSITORY), []
    if options.forecast_again:
        again = forecast_again(json.loads(result.read_text(encoding="utf-8")), machine["commit"])
        write_text(result, json.dumps(again, indent=1) + "\n")
        print(f"{len(again['curves'])} curves forecast again from the points in {result.name}")
        return 0
    for name in options.tasks or DEFAULT:
        try:
            folder = build(name, options.datasets, work)
            curves.append(curve_of(climb(folder, minutes=options.minutes, command=command or find_stepladder()), name))
        except StepladderError as error:
            print(error, file=sys.stderr)
    if curves:
        write_text(result, json.dumps({"curves": curves, "machine": machine}, indent=1) + "\n")
        print(f"{len(curves)} curves written to {result.name}")
    return 0 if len(curves) == len(options.tasks or DEFAULT) else 4


if __name__ == "__main__":
    sys.exit(main())
