"""LoRA training side by side on the CPU: stepladder, TRL and Unsloth on the same rows. `make bench-train` runs it whole.

    .venv/bin/python benchmarks/bench_train.py [--workloads A,B] [--systems …] [--rounds N] [--minutes 150]

Every measurement is a process of its own in the system's own environment; every row is on disk before the next begins, and a
second call does only what is missing. Rows go to benchmarks/results/training.json, of which `benchmarks/tables.py` makes the
README's table. Give it the machine alone. Without parity (fp32 loss and gradient against ours) a rival gets no speed row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stepladder.domain.errors import StepladderError
from training.compare import Comparison, Limits
from training.systems import OURS, SYSTEMS
from training.workloads import WORKLOADS

RESULT = Path(__file__).resolve().parent / "results" / "training.json"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which, by name; default: all")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="which, by name; default: all")
    parser.add_argument("--rounds", type=int, help="rounds of every workload; default: 3 of A and B, 1 of C and D")
    parser.add_argument("--minutes", type=float, default=150.0, help="begin no measurement after so long; default: 150")
    parser.add_argument(
        "--row-seconds", type=float, nargs=2, default=(60.0, 240.0), metavar=("LEAST", "MOST"), help="time of a row"
    )
    parser.add_argument("--search-seconds", type=float, default=40.0, help="time of a trial in the search for settings")
    parser.add_argument("--rows-per-step", type=int, default=32, help="fewer than 32 is a trial run: name another --results")
    parser.add_argument("--no-search", action="store_true", help="a trial run without searched settings: name another --results")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="name or folder; default: the starter model")
    parser.add_argument("--results", type=Path, default=RESULT, help="where the rows go")
    parser.add_argument("--anew", action="store_true", help="forget the rows that stand there, such as another machine's")
    options = parser.parse_args(arguments)
    options.workloads, options.systems = options.workloads.split(","), options.systems.split(",")
    for name, known in (("workloads", WORKLOADS), ("systems", SYSTEMS)):
        strange = [one for one in getattr(options, name) if one not in known]
        if strange:
            parser.error(f"--{name}: '{strange[0]}' is none of {', '.join(known)}")
    if (options.no_search or options.rows_per_step != 32) and options.results.resolve() == RESULT:
        parser.error("a trial run does not belong into the committed results: name another file with --results")
    return options


def plan(workloads: Sequence[str], systems: Sequence[str], rounds: int | None) -> list[tuple[int, str, str]]:
    """(round, workload, system) of every row in the order of measuring: rounds outermost, ours first in each."""
    ordered = sorted(systems, key=lambda system: (system != OURS, list(SYSTEMS).index(system)))
    most = {name: rounds or WORKLOADS[name].rounds for name in workloads}
    return [
        (number, workload, system)
        for number in range(1, max(most.values()) + 1)
        for workload in workloads
        if number <= most[workload]
        for system in ordered
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    began = time.monotonic()
    try:
        limits = Limits(tuple(options.row_seconds), options.search_seconds, options.rows_per_step, not options.no_search)
        if options.anew:
            options.results.unlink(missing_ok=True)
        comparison = Comparison(options.results, options.model, limits)
        comparison.prepare(options.systems)
        for number, workload, system in plan(options.workloads, options.systems, options.rounds):
            if time.monotonic() - began > options.minutes * 60:
                print(f"Stopped after {options.minutes:g} minutes; run it again for the rows that are missing.")
                break
            comparison.row(number, workload, system)
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    print(comparison.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
