"""What the test rows say beyond the scores: which mistakes were made, and on which kinds of rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepladder.data.stratify import strata
from stepladder.domain.climb import GradedRow, Mistakes, Slice
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.evaluation.compare import Contender
from stepladder.evaluation.mistakes import MistakeFinder
from stepladder.evaluation.slices import find_slices, kinds_of
from stepladder.service.contest import Contest
from stepladder.service.setup import Base


def mistakes_of(base: Base, contest: Contest) -> tuple[Mistakes, ...]:
    """The wrong test answers of every contender by kind, in the contenders' order."""
    answers = {contender.rung: [row for row in contest.rows if row.rung == contender.rung] for contender in contest.contenders}
    asked = _asked(base, next((_first_seed(contest, rung) for rung in answers), ()))
    tested = {example.id for example in asked} if not contest.cross_fit else set()
    # Cross-fitted, every row also teaches in other folds; its own cluster never counts as seen.
    train = [row for row in base.data.splits.counted(base.data.examples, "train") if row.id not in tested]
    finder = MistakeFinder.of(base.task, asked, train, base.data.clusters, base.data.chunks)
    found: list[Mistakes] = []
    for rung, rows in answers.items():
        found += finder.find(rows, {other: theirs for other, theirs in answers.items() if other != rung})
    return tuple(found)


def slices_of(base: Base, contest: Contest) -> tuple[Slice, ...]:
    """How the verdict's rung does on each kind of test rows; of an invalid verdict nothing is said."""
    contender = contest.named(contest.verdict.rung or "")
    if contender is None:
        return ()
    asked = _asked(base, _first_seed(contest, contender.rung))
    return slices_between(base.task, asked, contender, contest.clusters, seed=base.options.seed)


def slices_between(
    task: Task, asked: Sequence[Example], contender: Contender, clusters: NDArray[np.int64], *, seed: int
) -> tuple[Slice, ...]:
    """The slices of a contender's test rows; `asked` and `clusters` in the order of its scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row without any score has no mean
        scores = np.nanmean(contender.scores, axis=0)
    kinds = kinds_of(asked, strata(task, asked))
    return find_slices(contender.rung, [row.id for row in asked], scores, clusters, kinds, seed=seed)


def _first_seed(contest: Contest, rung: str) -> list[GradedRow]:
    return [row for row in contest.rows if row.rung == rung and row.seed == 0]


def _asked(base: Base, rows: Sequence[GradedRow]) -> list[Example]:
    examples = {example.id: example for example in base.data.examples}
    return [examples[row.id] for row in rows]
