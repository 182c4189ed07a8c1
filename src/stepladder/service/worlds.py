"""Who learns, who chooses, who confirms: the rows of each role, by the size of the data set (design §5).

A large set is one world. A middle-sized one too, but choices are scored on the training rows themselves, each answered as if
its cluster were absent. A small one is cross-fitted: every fold is a world whose choices see that fold's training rows only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepladder.data.split import Splits, hold_out
from stepladder.data.stratify import strata
from stepladder.domain.messages import Example
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
    test: tuple[Example, ...]

    @property
    def chooses_on_train(self) -> bool:
        return self.validation == self.train


def build_worlds(task: Task, examples: Sequence[Example], splits: Splits, *, folds: int) -> list[World]:
    """The worlds of a data set; in the small regimes the first `folds` folds are tested on."""
    present = splits.counted(examples)
    if splits.regime in ("cross", "prompts"):
        numbers = sorted({splits.fold_of[example.id] for example in present})
        return [_fold_world(task, present, splits, number) for number in numbers[:folds]]
    train = _of(present, splits.split_of, "train")
    validation = _of(present, splits.split_of, "validation")
    test = _of(present, splits.split_of, "test")
    if validation:
        return [World(None, train, validation, train, validation, test)]
    held_out = tuple(example for example in train if example.id in splits.held_out)
    tune_rows = tuple(example for example in train if example.id not in splits.held_out)
    return [World(None, train, train, tune_rows, held_out, test)]


def whole_world(task: Task, examples: Sequence[Example], splits: Splits) -> World:
    """Everything as training rows, for the refit that is shipped after cross-fitting. Nothing is left to measure it on."""
    rows = splits.counted(examples)
    held_out = _fifth(task, rows, splits)
    chosen = {example.id for example in held_out}
    return World(None, rows, rows, tuple(row for row in rows if row.id not in chosen), held_out, ())


def _fold_world(task: Task, examples: Sequence[Example], splits: Splits, fold: int) -> World:
    train = tuple(example for example in examples if splits.fold_of[example.id] != fold)
    test = tuple(example for example in examples if splits.fold_of[example.id] == fold)
    held_out = _fifth(task, train, splits)
    chosen = {example.id for example in held_out}
    return World(fold, train, train, tuple(row for row in train if row.id not in chosen), held_out, test)


def _fifth(task: Task, rows: Sequence[Example], splits: Splits) -> tuple[Example, ...]:
    """Whole clusters of about a fifth of the rows."""
    wanted = max(SMALLEST_HELD_OUT, len(rows) // 5)
    chosen = hold_out([row.id for row in rows], splits.cluster_of, strata(task, rows), seed=splits.seed, wanted=wanted)
    return tuple(row for row in rows if row.id in chosen)


def _of(examples: Sequence[Example], split_of: Mapping[str, str], name: str) -> tuple[Example, ...]:
    return tuple(example for example in examples if split_of.get(example.id) == name)
