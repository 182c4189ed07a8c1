"""Who answered what, against the split that the run keeps: no row missing, foreign or twice, and all rungs on the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stepladder.data.placing import some_of
from stepladder.data.split_file import FILE, SplitFile, load_split_file
from stepladder.domain.climb import ClimbRecord, GradedRow, RungResult
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.service.figures import counted

CROSS_FITTED = ("cross", "prompts")
Fold = int | None


@dataclass(frozen=True)
class Due:
    """Ids of the rows that each world asks, in the order of the data; `held_out` is None where only clusters could tell.

    `exact` is False for runs of versions that did not note which rows were set aside: some of these rows may be.
    """

    test: Mapping[Fold, Sequence[str]]
    validation: Mapping[Fold, Sequence[str]]
    held_out: Mapping[Fold, Sequence[str]] | None
    sizes: Mapping[str, int]
    exact: bool


def row_faults(
    record: ClimbRecord, task: Task, examples: Sequence[Example], rows: Sequence[GradedRow], *, folds: int | None
) -> Iterator[str]:
    """What the rows of a run are not, by its `splits.json`. `folds` = how many its plan held; None where that is unknown."""
    try:
        file = load_split_file(task)
    except DataError as error:
        yield str(error)
        return
    if file is None:
        yield f"the run has no {FILE}, so nobody can say which rows should have answered."
        return
    due = _due(record, file, examples, folds)
    tested = [row for row in rows if row.split == "test"]
    validated = [row for row in rows if row.split == "validation"]
    if not due.exact:
        due = _answered_by_any(due, tested, validated)
    yield from _sizes(record, due)
    contenders = [rung for rung in record.rungs if rung.test is not None]
    yield from _strangers(tested, "test", contenders)
    yield from _strangers(validated, "validation", [rung for rung in record.rungs if rung.validation is not None])
    for rung in contenders:
        own = [row for row in tested if row.rung == rung.name]
        for seed in sorted({row.seed for row in own}) or [0]:
            who = rung.name if seed == 0 else f"{rung.name} (seed {seed})"
            yield from _apart(who, "test", [row for row in own if row.seed == seed], due.test)
    yield from _validation_faults(record, due, validated)


def _due(record: ClimbRecord, file: SplitFile, examples: Sequence[Example], folds: int | None) -> Due:
    aside = set(file.aside or ())
    rows = [(row, file.rows[row.id]) for row in examples if row.id in file.rows and row.id not in aside]
    seen = [(row.id, place) for row, place in rows if not row.by_teacher]
    exact = file.aside is not None
    if record.regime in CROSS_FITTED:
        numbers = sorted({place.fold for _, place in seen if place.fold is not None})
        numbers = numbers[: record.split_sizes.get("folds", 1) if folds is None else folds]
        test: dict[Fold, list[str]] = {fold: [name for name, place in seen if place.fold == fold] for fold in numbers}
        rest: dict[Fold, list[str]] = {fold: [name for name, place in seen if place.fold != fold] for fold in numbers}
        sizes = {"test": sum(map(len, test.values()))}
        if len(seen) == len(rows) and numbers:
            sizes["train"] = len(rest[numbers[0]])
        return Due(test, rest, None, sizes | ({"folds": len(numbers)} if len(numbers) > 1 else {}), exact)
    of = {split: [name for name, place in seen if place.split == split] for split in ("train", "validation", "test")}
    sizes = {"test": len(of["test"]), "train": sum(place.split == "train" for _, place in rows)}
    if record.regime == "large":
        sizes["validation"] = len(of["validation"])
        return Due({None: of["test"]}, {None: of["validation"]}, {None: of["validation"]}, sizes, exact)
    stops = [name for name, place in seen if place.split == "train" and place.held_out]
    return Due({None: of["test"]}, {None: of["train"]}, {None: stops}, sizes, exact)


def _answered_by_any(due: Due, tested: Sequence[GradedRow], validated: Sequence[GradedRow]) -> Due:
    """Of rows that may have been set aside, those that some rung answered; the recorded sizes say whether these are all."""

    def kept(ids: Mapping[Fold, Sequence[str]], rows: Sequence[GradedRow]) -> dict[Fold, list[str]]:
        answered = {row.id for row in rows}
        return {fold: [name for name in names if name in answered] for fold, names in ids.items()}

    test, validation = kept(due.test, tested), kept(due.validation, validated)
    held_out = None if due.held_out is None else kept(due.held_out, validated)
    sizes = {"test": sum(map(len, test.values()))}
    if "validation" in due.sizes:
        sizes["validation"] = sum(map(len, validation.values()))
    return Due(test, validation, held_out, sizes | {key: due.sizes[key] for key in ("folds",) if key in due.sizes}, due.exact)


def _sizes(record: ClimbRecord, due: Due) -> Iterator[str]:
    for name, size in due.sizes.items():
        if record.split_sizes.get(name) != size:
            where = f"by {FILE}" if due.exact else "answered"
            found = counted(size, "fold" if name == "folds" else f"{name} row")
            yield f"{found} {where}, and the record says {record.split_sizes.get(name)}."


def _strangers(rows: Sequence[GradedRow], split: str, known: Sequence[RungResult]) -> Iterator[str]:
    names = {rung.name for rung in known}
    for name, count in Counter(row.rung for row in rows if row.rung not in names).items():
        yield f"{name} has {counted(count, f'{split} answer')}, and no {split} score is recorded."


def _validation_faults(record: ClimbRecord, due: Due, rows: Sequence[GradedRow]) -> Iterator[str]:
    """In a fold the rows a fine-tune stops by are whole clusters: the first tuned rung is the measure of the others."""
    stops: dict[Fold, Sequence[str]] = dict(due.held_out or {})
    for rung in record.rungs:
        if rung.validation is None:
            continue
        own = [row for row in rows if row.rung == rung.name]
        folds = list(dict.fromkeys(row.fold for row in own))
        if len(folds) < len(due.validation) and f"Ran in {len(folds)} of {len(due.validation)} folds." not in rung.reason:
            yield f"{rung.name} has validation answers in {len(folds)} of {counted(len(due.validation), 'fold')}."
        if rung.tuned:
            for fold in folds:
                inside = set(due.validation.get(fold, ()))
                stops.setdefault(fold, [row.id for row in own if row.fold == fold and row.id in inside])
        wanted = stops if rung.tuned else due.validation
        yield from _apart(rung.name, "validation", own, {fold: wanted.get(fold, ()) for fold in folds})


def _apart(who: str, split: str, own: Sequence[GradedRow], due: Mapping[Fold, Sequence[str]]) -> Iterator[str]:
    """What is missing, surplus, twice or in another order among one rung's rows of one seed."""
    asked = [(fold, name) for fold, names in due.items() for name in names]
    came = [(row.fold, row.id) for row in own]
    if came == asked:
        return
    wanted, times = set(asked), Counter(came)
    missing = [name for fold, name in asked if (fold, name) not in times]
    surplus = [name for fold, name in times if (fold, name) not in wanted]
    twice = [name for (_, name), count in times.items() if count > 1]
    if missing:
        yield f"{who} did not answer {len(missing)} of {counted(len(asked), f'{split} row')}: {some_of(missing)}."
    if surplus:
        yield f"{len(surplus)} of the {split} rows of {who} are none by {FILE}: {some_of(surplus)}."
    if twice:
        yield f"{who} answered {counted(len(twice), f'{split} row')} more than once: {some_of(twice)}."
    if not (missing or surplus or twice):
        yield f"{who} answered the {split} rows in another order than they stand in the data."
