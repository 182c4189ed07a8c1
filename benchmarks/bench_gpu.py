"""Training and climbing on a GPU: a 7B-shaped model of scaled random weights beside TRL + PEFT and Unsloth, and one whole climb.

    .venv/bin/python benchmarks/bench_gpu.py [--dry-run] [--systems stepladder,trl,unsloth] [--minutes 60]

Without a GPU it is a dry run with a tiny model: everything is gone through, no figure of it means anything, and what was
not run is said. Rows go to benchmarks/results/gpu.json (of a dry run: nowhere), each at once; a second call adds
what is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from stepladder.domain.errors import StepladderError
from stepladder.models.hardware import choose_device
from training.gpu import DRY, REAL, GpuBench, measurements

RESULT = Path(__file__).resolve().parent / "results" / "gpu.json"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="a tiny model, whatever the machine has")
    parser.add_argument("--systems", default="stepladder,trl,unsloth", help="which, by name; default: all three")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no measurement after so long; default: 60")
    parser.add_argument("--results", type=Path, default=RESULT, help="where the rows go")
    options = parser.parse_args(arguments)
    options.systems = options.systems.split(",")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = "cpu" if options.dry_run else choose_device()
    plan = REAL if device == "cuda" else DRY
    print(f"Real run on {device}." if plan is REAL else "Dry run on the CPU: a tiny model, and no figure means anything.")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        results = options.results if plan is REAL else Path(scratch) / "gpu.json"
        bench = GpuBench(plan, device, results, Path(scratch))
        try:
            bench.prepare(options.systems)
            for one in measurements(plan, options.systems):
                if time.monotonic() - began > options.minutes * 60:
                    bench.not_run.append(f"{one.words()}: the {options.minutes:g} minutes were over")
                    continue
                bench.measure(one)
            bench.climb()
        except StepladderError as error:
            print(error, file=sys.stderr)
            return 3
        print(bench.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
