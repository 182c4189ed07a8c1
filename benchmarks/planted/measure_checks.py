"""How many planted faults do the data checks find, and what do they say about clean data?

    .venv/bin/python benchmarks/planted/measure_checks.py [--rounds 3] [--bundled] [--datasets FOLDER] [--kinds KIND ...]

Faults of every kind are planted into copies of the bundled tasks and of public data sets (those lie in `--datasets`, and are
built by `benchmarks/real`). A fault counts as found when a finding with one of the codes that mean it names one of its rows,
and had not named it before the fault was there. Prints recall per kind and the findings on the clean sets, and writes both to
benchmarks/results/checks.json.
With `--kinds` only these and the clean sets are measured, and take their places among the recorded figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "benchmarks" / "real")]

import clinc150  # noqa: E402
import disfluent_qa  # noqa: E402
import planted_answers  # noqa: E402
import planted_models  # noqa: E402
import planted_private  # noqa: E402
import planted_sets  # noqa: E402
import planted_texts  # noqa: E402
import snips  # noqa: E402
from climb_result import describe_machine  # noqa: E402
from planted_copy import Copy, Kind, Spot, load_copy, plain, shaped  # noqa: E402
from planted_variants import add_variants  # noqa: E402
from task_folder import DATASETS, WORK  # noqa: E402

import stepladder  # noqa: E402
from stepladder.data import bundled  # noqa: E402
from stepladder.data.checks import CheckReport, Severity  # noqa: E402
from stepladder.domain.protocols import Embedder, Engine  # noqa: E402
from stepladder.domain.task import Task  # noqa: E402
from stepladder.files import write_text  # noqa: E402
from stepladder.service import wiring  # noqa: E402
from stepladder.service.check import run_on  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "checks.json"
KINDS = (
    *planted_texts.KINDS,
    *planted_private.KINDS,
    *planted_answers.KINDS,
    *planted_sets.KINDS,
    *planted_models.KINDS,
)
BUNDLED = {"tickets": "json", "handbook": "short", "clinic": "prose", "voice": "prose", "repairs": "labels"}
PUBLIC = {
    snips.NAME: ("json", snips.build),
    disfluent_qa.NAME: ("short", disfluent_qa.build),
    clinc150.NAME: ("labels", clinc150.build),
}
PLANTINGS = 12  # of a kind in one round, over all sets it fits; at least ten are asked for
ROWS_A_COPY = 16  # faulty rows in one copy: about one in ten
BOUND, EXACT_BOUND = 0.95, 1.0
MOST_WARNINGS = 2


@dataclass(frozen=True)
class Outcome:
    """One planted fault and whether it was found."""

    kind: str
    set: str
    found: bool
    spot: Spot
    row: str = ""  # the faulty row, for the eye; never stored


Marks = set[tuple[str, str, int]]


def marks(report: CheckReport) -> Marks:
    """(code, file, line) of every row named; line 0 and no file stand for the code alone."""
    named = {(one.code, mark.file, mark.line) for one in report.findings for mark in one.rows}
    return named | {(one.code, "", 0) for one in report.findings}


def is_found(kind: Kind, spot: Spot, report: Marks, clean: Marks) -> bool:
    """Whether one of the kind's codes names the spot, and did not without the fault."""
    places = spot or {("", 0)}
    return any((code, *place) in report - clean for code in kind.codes for place in places)


class Bench:
    """Checks copies of task folders in a folder of its own."""

    def __init__(self, copies: Mapping[str, Copy], folder: Path, embedder: Embedder, engine: Engine) -> None:
        self.copies, self.folder, self.embedder, self.engine = copies, folder, embedder, engine
        self._clean: dict[tuple[str, str, bool], Marks] = {}
        self._count = 0

    def check(self, copy: Copy, *, ask: Collection[str] = ()) -> CheckReport:
        """As `stepladder check` does; the model is asked for what `ask` names."""
        self._count += 1
        folder = copy.write(self.folder / f"{self._count:04}")
        return run_on(Task.load(folder), self.embedder, engine=self.engine if ask else None, ask=ask)

    def clean(self, name: str, shape: str, ask: Collection[str]) -> Marks:
        key = name, "split" if "split" in shape else "chat" if shape == "chat" else "plain", bool(ask)
        if key not in self._clean:
            self._clean[key] = marks(self.check(shaped(plain(self.copies, name), key[1]), ask=ask))
        return self._clean[key]

    def outcomes(self, kinds: Sequence[Kind], *, seed: int) -> Iterator[Outcome]:
        """Plant every kind `PLANTINGS` times or a little more, several kinds in one copy, and look."""
        for (name, shape), waiting in _queues(kinds, self.copies).items():
            chance = Random(f"{seed} {name} {shape}")
            for batch in _batches(waiting, 1 if shape.startswith("whole") else ROWS_A_COPY, chance):
                yield from self._one_copy(name, shape, batch, chance)

    def _one_copy(self, name: str, shape: str, batch: Sequence[Kind], chance: Random) -> Iterator[Outcome]:
        copy = shaped(plain(self.copies, name), "split" if "split" in shape else shape)
        planted = []
        for kind in batch:
            try:
                planted.append((kind, kind.plant(copy, chance)))
            except LookupError:
                continue  # no row of this copy fits any more; the others of the round make up for it
        ask = {thing for kind in batch for thing in kind.ask}
        clean, found = self.clean(name, shape, ask), marks(self.check(copy, ask=ask))
        for kind, spot in planted:
            rows = [copy.files[file][line - 1] for file, line in sorted(spot)]
            yield Outcome(kind.name, name, is_found(kind, spot, found, clean), spot, str(rows)[:600])


def _queues(kinds: Sequence[Kind], copies: Mapping[str, Copy]) -> dict[tuple[str, str], list[Kind]]:
    """Which kinds are to be planted in which set and shape, as often as they stand there."""
    queues: dict[tuple[str, str], list[Kind]] = defaultdict(list)
    for kind in kinds:
        sets = [name for name in kind.sets if name in copies]
        for name in sets:
            queues[name, kind.shape] += [kind] * -(-PLANTINGS // len(sets))
    return queues


def _batches(waiting: Sequence[Kind], size: int, chance: Random) -> Iterator[list[Kind]]:
    mixed = chance.sample(waiting, len(waiting))
    for start in range(0, len(mixed), size):
        yield mixed[start : start + size]


def load_sets(datasets: Path | None, work: Path) -> dict[str, Copy]:
    """The clean sets by name; the public ones only with `datasets`."""
    root = Path(stepladder.__file__).parent / "data" / "bundled"
    copies = {name: load_copy(root / name, name, answers) for name, answers in BUNDLED.items()}
    for name, (answers, build) in PUBLIC.items() if datasets is not None else ():
        folder = work / name
        if not (folder / "task.toml").is_file():
            build(datasets, folder)
        copies[name] = load_copy(folder, name, answers)
    return copies


def recall_rows(outcomes: Sequence[Outcome], kinds: Sequence[Kind] = KINDS) -> list[dict[str, Any]]:
    """One row a kind: planted, found, and the bound it is held to."""
    rows = []
    for kind in kinds:
        mine = [one for one in outcomes if one.kind == kind.name]
        found = sum(one.found for one in mine)
        bound = None if kind.hard else EXACT_BOUND if kind.exact else BOUND
        sets = sorted({one.set for one in mine})
        rows.append(
            {"kind": kind.name, "codes": sorted(kind.codes), "planted": len(mine), "found": found, "bound": bound}
            | {"sets": sets, "why_no_bound": kind.hard}
        )
    return rows


def build_base() -> Engine:
    """The starter model, for the kinds that only a model can tell."""
    task = Task.load(Path(bundled.__file__).parent / "tickets")
    return wiring.build_engine(task.settings.model.base, task, device="cpu")


def precision_row(name: str, report: CheckReport) -> dict[str, Any]:
    """What was said about a clean set: findings by severity, each with its number of rows."""
    by_severity = {
        severity.value: {one.code: len(one.rows) for one in report.findings if one.severity is severity} for severity in Severity
    }
    return {"set": name, "rows": report.rows, **by_severity}


def merged(known: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded figures with those measured again in their places, and where that was."""
    fresh = {row["kind"]: row for row in again["recall"]}
    rows = {row["kind"]: row for row in known["recall"]} | fresh
    order = [kind.name for kind in KINDS if kind.name in rows]
    since = {"kinds": [*fresh], "machine": again["machine"]}
    return {**known, "recall": [rows[name] for name in order], "precision": again["precision"], "again": since}


def is_short(row: Mapping[str, Any]) -> bool:
    """Whether a kind was found less often than it must be, or planted too seldom."""
    return row["planted"] < 10 or (row["bound"] is not None and row["found"] < row["bound"] * row["planted"])


def is_noisy(row: Mapping[str, Any]) -> bool:
    return bool(row["block"]) or len(row["warn"]) > MOST_WARNINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a kind is found too seldom, or a clean set gets a block or too many warnings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help=f"rounds of {PLANTINGS} plantings a kind (%(default)s)")
    parser.add_argument("--bundled", action="store_true", help="the bundled tasks alone; nothing is written")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    parser.add_argument("--missed", action="store_true", help="also print the faulty rows that were not found")
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS], help="measure these kinds again, not all")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if kind.name in (options.kinds or [kind.name])]
    machine = describe_machine(REPOSITORY)
    sets = load_sets(None if options.bundled else options.datasets, WORK)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(add_variants(sets), Path(folder), wiring.build_embedder(), build_base())
        precision = [precision_row(name, bench.check(plain(sets, name), ask=("likeness",))) for name in sets]
        outcomes = [one for seed in range(options.rounds) for one in bench.outcomes(kinds, seed=seed)]
    recall = recall_rows(outcomes, kinds)
    for row in recall:
        print(f"{row['kind']:<44} {row['found']:>4} of {row['planted']:<4} {'  <-- short' if is_short(row) else ''}")
    for row in precision:
        noisy = "  <-- noisy" if is_noisy(row) else ""
        print(f"{row['set']:<16} {row['rows']:>4} rows  block {row['block']}  warn {row['warn']}{noisy}")
    for one in outcomes if options.missed else ():
        if not one.found:
            print(f"missed: {one.kind} in {one.set}: {one.row}")
    if not options.bundled:
        result = {"rounds": options.rounds, "recall": recall, "precision": precision, "machine": machine}
        if options.kinds:
            result = merged(json.loads(RESULT.read_text(encoding="utf-8")), result)
        write_text(RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return int(any(map(is_short, recall)) or any(map(is_noisy, precision)))


if __name__ == "__main__":
    sys.exit(main())
