"""Answering a real task's test rows: stepladder beside `generate()`. `make bench-generate` runs it whole.

    .venv/bin/python benchmarks/bench_generate.py [--rungs zero-shot,tuned] [--rows N] [--rounds N] [--minutes 60]

Every measurement is a process of its own; every row is on disk before the next begins, and a second call does only what is
missing. Rows go to benchmarks/results/generation.json, of which `benchmarks/tables.py` makes the README's table. Give it the
machine alone. The first run builds the task and trains its adapter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from generation.compare import Comparison
from generation.systems import RUNGS, SYSTEMS
from real.task_folder import DATASETS, WORK
from stepladder.domain.errors import StepladderError

RESULT = Path(__file__).resolve().parent / "results" / "generation.json"
ROWS = 105


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", default=",".join(RUNGS), help="which, by name; default: all")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"fewer than {ROWS} is a trial run: name another --results")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of every rung; default: 1")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no measurement after so long; default: 60")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="name or folder; default: the starter model")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULT, help="where the rows go")
    options = parser.parse_args(arguments)
    options.rungs = options.rungs.split(",")
    strange = [name for name in options.rungs if name not in RUNGS]
    if strange:
        parser.error(f"--rungs: '{strange[0]}' is none of {', '.join(RUNGS)}")
    if options.rows != ROWS and options.results.resolve() == RESULT:
        parser.error("a trial run does not belong into the committed results: name another file with --results")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    began = time.monotonic()
    try:
        comparison = Comparison(options.results, options.model, WORK / f"generation-{options.rows}")
        comparison.prepare(options.rungs, options.rows, options.datasets)
        for number in range(1, options.rounds + 1):
            for rung in options.rungs:
                for system in SYSTEMS:
                    if time.monotonic() - began > options.minutes * 60:
                        print(f"Stopped after {options.minutes:g} minutes; run it again for the rows that are missing.")
                        print(comparison.summary())
                        return 0
                    comparison.measure(rung, system, number)
                comparison.extras(rung)
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    print(comparison.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
