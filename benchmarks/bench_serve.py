"""The server under load: reads, creation of jobs, long lists, event streams beside a training, chats over many adapters.

    .venv/bin/python benchmarks/bench_serve.py [--only reads,listing,creation,streams,chats] [--minutes 20]

Every server is `stepladder serve` as a user starts it, on this machine's own address, with its worker beside it. Figures go to
benchmarks/results/service.json, of which `benchmarks/tables.py` makes the README's table. Give it the machine alone. A second
call replaces what it measures and keeps the rest, unless that comes from another commit or machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real.climb_result import describe_machine
from serving.busy import with_a_model
from serving.promises import PROMISES, QUICK, Load
from serving.quiet import Figures, creating_jobs, over_many_jobs
from serving.table import serving_table
from stepladder.domain.errors import StepladderError
from stepladder.files import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = REPOSITORY / "benchmarks" / "results" / "service.json"
SCENES = {over_many_jobs: {"reads", "listing"}, creating_jobs: {"creation"}, with_a_model: {"streams", "chats"}}
"""What is measured on one server."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PROMISES), help="which measurements, by name; default: all")
    parser.add_argument("--minutes", type=float, default=20.0, help="give up after so long; default: 20")
    parser.add_argument("--quick", action="store_true", help="a trial run with little load: name another --results")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="name or folder; default: the starter model")
    parser.add_argument("--results", type=Path, default=RESULT, help="where the figures go")
    options = parser.parse_args(arguments)
    options.only = set(options.only.split(","))
    if strange := sorted(options.only - set(PROMISES)):
        parser.error(f"--only: '{strange[0]}' is none of {', '.join(PROMISES)}")
    if options.quick and options.results.resolve() == RESULT:
        parser.error("a trial run does not belong into the committed results: name another file with --results")
    return options


def keep(path: Path, machine: dict[str, Any], found: dict[str, Figures]) -> None:
    """Write the figures into the file, beside earlier ones of the same commit and machine."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"machine": None, "measurements": []}
    kept = earlier["measurements"] if earlier["machine"] == machine else []
    rows = {row["name"]: row for row in kept}
    for name, (value, details) in found.items():
        promise = PROMISES[name]
        rows[name] = {
            "name": name,
            "what": promise.what,
            "value": round(value, 5),
            "unit": promise.unit,
            "bound": promise.bound,
            "holds": promise.holds(value),
            **details,
        }
    content = {"machine": machine, "measurements": [rows[name] for name in PROMISES if name in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    load = QUICK if options.quick else Load()
    machine = {**describe_machine(REPOSITORY), "model": Path(options.model).name}
    until = time.monotonic() + 60 * options.minutes
    try:
        for scene, names in SCENES.items():
            if options.only & names:
                with tempfile.TemporaryDirectory(prefix="stepladder-serving-") as folder:
                    work = scene(Path(folder), options.model, load, options.only)
                    found = asyncio.run(asyncio.wait_for(work, until - time.monotonic()))
                keep(options.results, machine, found)
    except TimeoutError:
        print(f"Given up after {options.minutes:g} minutes; what was measured by then is kept.", file=sys.stderr)
        return 3
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    print(serving_table(json.loads(options.results.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
