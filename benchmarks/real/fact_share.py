"""Which share of the training rows wants a fact, before the model is asked whether it knows it? (30 % and more is fact-bound)

    .venv/bin/python benchmarks/real/fact_share.py [disfluent-qa handbook voice clinic]

Rows count whose reference holds a name, number, date or code, or is as a whole a short answer, that neither the input, the
instruction nor two other training clusters hold. The two kinds are counted apart: the first was all there was at first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from run import TASKS, build_if_missing
from task_folder import DATASETS, WORK

from stepladder.domain.errors import StepladderError
from stepladder.domain.protocols import Embedder
from stepladder.domain.task import Task
from stepladder.evaluation.facts import find_facts, short_answer
from stepladder.service import wiring
from stepladder.service.task_data import load_task_data

DEFAULT = ("disfluent-qa", "handbook", "voice", "clinic", "repairs", "tickets")


def fact_shares(folder: Path, embedder: Embedder) -> tuple[int, int, int]:
    """Training rows; how many lack a name, number, date or code; how many lack anything."""
    task = Task.load(folder)
    data = load_task_data(task, embedder, write=False)
    rows = list(data.splits.counted(data.examples, "train"))
    found = find_facts(rows, rows, data.clusters, task)
    named = sum(found[row.id] != (short_answer(row, task),) for row in rows if row.id in found)
    return len(rows), named, len(found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(TASKS)} (default: {' '.join(DEFAULT)})")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    options = parser.parse_args(arguments)
    embedder = wiring.build_embedder()
    try:
        for name in options.tasks or DEFAULT:
            rows, named, found = fact_shares(build_if_missing(name, options.datasets, WORK), embedder)
            print(f"{name:<14} {rows:>4} rows: {named / rows:.0%} by names, numbers, dates and codes; {found / rows:.0%} in all")
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
