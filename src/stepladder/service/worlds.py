"""Who learns, who chooses, who confirms: the rows of each role, by the size of the data set (design §5).

A large set is one world. A middle-sized one too, but choices are scored on the training rows themselves, each answered as if
its cluster were absent. A small one is cross-fitted: every fold is a world whose choices see that fold's training rows only.
Rows that a teacher alone answered are training rows and nothing else: no choice, no stopping and no test rests on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepladder.data.split import Splits, hold_out
from stepladder.data.stratify import strata
from stepladder.domain.messages import Example
from stepladder.domain.sealed import SealedRows
from stepladder.domain.task import Task

SMALLEST_HELD_OUT = 8  # rows a fold's fine-tune stops by; fewer would only be noise


@dataclass(frozen=True, slots=True)
class World:
    """One complete, closed experiment; `fold` is None where there is only one."""

    fold: int | None
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    tune_rows: tuple[Example, ...]
    held_out: tuple[Example, ...]
    test: SealedRows

    @property
    def chooses_on_train(self) -> bool:
        return self.validation == _seen(self.train)


def build_worlds(task: Task, examples: Sequence[Example], splits: Splits, *, folds: int) -> list[World]:
    """The worlds of a data set; in the small regimes the first `folds` folds are tested on."""
    present = splits.counted(examples)
    if splits.regime in ("cross", "prompts"):
        numbers = sorted({splits.fold_of[example.id] for example in present if not example.by_teacher})
        return [_fold_world(task, present, splits, number) for number in numbers[:folds]]
    train = _of(present, splits.split_of, "train")
    validation = _of(present, splits.split_of, "validation")
    test = SealedRows(_of(present, splits.split_of, "test"))
    if validation:
        return [World(None, train, validation, train, validation, test)]
    held_out = tuple(example for example in train if example.id in splits.held_out)
    return [World(None, train, _seen(train), _apart(train, held_out, splits), held_out, test)]


def whole_world(task: Task, examples: Sequence[Example], splits: Splits) -> World:
    """Everything as training rows, for the refit that is shipped after cross-fitting. Nothing is left to measure it on."""
    rows = splits.counted(examples)
    held_out = _fifth(task, rows, splits)
    return World(None, rows, _seen(rows), _apart(rows, held_out, splits), held_out, SealedRows())


def _fold_world(task: Task, examples: Sequence[Example], splits: Splits, fold: int) -> World:
    test = tuple(example for example in examples if splits.fold_of.get(example.id) == fold)
    train = _apart(examples, test, splits)
    held_out = _fifth(task, train, splits)
    return World(fold, train, _seen(train), _apart(train, held_out, splits), held_out, SealedRows(test))


def _fifth(task: Task, rows: Sequence[Example], splits: Splits) -> tuple[Example, ...]:
    """Whole clusters of about a fifth of the rows."""
    seen = _seen(rows)
    wanted = max(SMALLEST_HELD_OUT, len(seen) // 5)
    chosen = hold_out([row.id for row in seen], splits.cluster_of, strata(task, seen), seed=splits.seed, wanted=wanted)
    return tuple(row for row in rows if row.id in chosen)


def _seen(rows: Sequence[Example]) -> tuple[Example, ...]:
    """Rows whose answer a person wrote or saw."""
    return tuple(row for row in rows if not row.by_teacher)


def _apart(rows: Sequence[Example], from_rows: Sequence[Example], splits: Splits) -> tuple[Example, ...]:
    """Rows of other clusters. Clusters are never torn, but a teacher's row may ask what a tested or held-out row asks."""
    clusters = {splits.cluster_of[row.id] for row in from_rows}
    return tuple(row for row in rows if splits.cluster_of[row.id] not in clusters)


def _of(examples: Sequence[Example], split_of: Mapping[str, str], name: str) -> tuple[Example, ...]:
    return tuple(example for example in examples if split_of.get(example.id) == name)
