"""What a record says beside its verdict, against the rows: rows fixed and broken, mistakes, slices, seeds, and what use costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from stepladder.domain.climb import ClimbRecord, GradedRow
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.domain.verdict import Cost
from stepladder.evaluation.compare import Contender
from stepladder.evaluation.cost import repriced
from stepladder.evaluation.mistakes import right_elsewhere, tell_apart
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.service.contest import seed_noise
from stepladder.service.diagnosis import slices_between
from stepladder.service.record import WORST_REGRESSIONS, changed_rows

SAME = 1e-9
SEEDS = "seed_"  # how figures of the noise between training seeds begin


def record_faults(
    record: ClimbRecord, inputs: VerdictInputs, task: Task, examples: Sequence[Example], rows: Sequence[GradedRow]
) -> Iterator[str]:
    """What does not follow from the test rows; the rows' own faults are named elsewhere."""
    tested = [row for row in rows if row.split == "test"]
    by_id = {example.id: example for example in examples}
    if all(row.id in by_id for row in tested):
        yield from _changed(record, inputs, examples, tested)
        yield from _sliced(record, inputs, task, by_id, tested)
    yield from _mistaken(record, inputs, task, tested)
    for contender in inputs.contenders:
        yield from _costs(record, contender, task)
    noise = {name: value for name, value in record.noise.items() if name.startswith(SEEDS)}
    if not equal(seed_noise(inputs.contenders), noise):
        yield "the noise between training seeds is not that of the scores."


def _changed(record: ClimbRecord, inputs: VerdictInputs, examples: Sequence[Example], rows: Sequence[GradedRow]) -> Iterator[str]:
    zero_shot = next((rung.name for rung in record.rungs if "zero-shot" in rung.role.split(", ")), None)
    fixed, broken = changed_rows(examples, rows, inputs.contenders, zero_shot)
    listed = (
        ("fixed", fixed, record.fixed, record.fixed_rows, record.improvements),
        ("broken", broken, record.broken, record.broken_rows, record.regressions),
    )
    for name, found, count, ids, shown in listed:
        if (count, sorted(ids)) != (len(found), sorted(row.id for row in found)):
            yield f"{len(found)} rows are {name} by rows.jsonl, and {count} are recorded, or others."
        elif len(shown) != min(len(found), WORST_REGRESSIONS) or any(row not in found for row in shown):
            yield f"the {name} rows that are shown are not those of rows.jsonl."


def _sliced(
    record: ClimbRecord, inputs: VerdictInputs, task: Task, examples: Mapping[str, Example], rows: Sequence[GradedRow]
) -> Iterator[str]:
    named = next((one for one in inputs.contenders if one.rung == record.verdict.rung), None)
    asked = [examples[row.id] for row in rows if named is not None and row.rung == named.rung and row.seed == 0]
    if named is None or inputs.clusters is None or not len(asked) == named.items == len(inputs.clusters):
        return
    again = slices_between(task, asked, named, np.asarray(inputs.clusters, dtype=np.int64), seed=inputs.seed)
    if not equal([asdict(one) for one in again], [asdict(one) for one in record.slices]):
        yield f"the slices of {named.rung} do not follow from its rows."


def _mistaken(record: ClimbRecord, inputs: VerdictInputs, task: Task, rows: Sequence[GradedRow]) -> Iterator[str]:
    """Which rows are wrong, and who has them right; of which kind a mistake is, is not asked again."""
    told = tell_apart(task, {one.rung: [row for row in rows if row.rung == one.rung] for one in inputs.contenders})
    for rung, own in told.items():
        listed = [one for one in record.mistakes if one.rung == rung]
        others = {name: theirs for name, theirs in told.items() if name != rung}
        follows = all(
            (one.wrong, one.asked, dict(one.right_elsewhere)) == (len(own.wrong), own.graded, right_elsewhere(one.rows, others))
            for one in listed
        )
        if not follows or sorted(id for one in listed for id in one.rows) != sorted(row.id for row in own.wrong):
            yield f"the mistakes of {rung} are not those of rows.jsonl."


def _costs(record: ClimbRecord, contender: Contender, task: Task) -> Iterator[str]:
    """What follows from `[use]`: calls, retrainings, labels, and dollars where a machine's hour makes them."""
    anew = repriced(contender.cost, task.settings.use, tuned=contender.tuned)
    for part in fields(Cost):
        now, before = getattr(anew, part.name), getattr(contender.cost, part.name)
        if not equal(now, before):
            yield f"`{part.name}` of {contender.rung} is {now} by the task, and {before} is recorded."
    shown = next((rung for rung in record.rungs if rung.name == contender.rung), None)
    if shown is not None and not equal(asdict(shown.cost), asdict(contender.cost)):
        yield f"the cost shown for {contender.rung} is not that of the inputs."


def equal(one: Any, other: Any) -> bool:
    """Whether two values as JSON holds them agree, but for what reckoning in another order changes."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
