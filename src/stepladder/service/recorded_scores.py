"""Test scores that a run recorded, as the measure of later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepladder import files
from stepladder.data.duplicates import cluster
from stepladder.data.readers import read_examples
from stepladder.domain.answer import expected_answer
from stepladder.domain.errors import RunError
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.evaluation.statistics import Floats
from stepladder.evaluation.worsening import Comparison, compare_paired, compare_unpaired
from stepladder.service.shipping import plain_name
from stepladder.storage.run_folder import RunFolder

PAIRED_SHARE = 0.5
"""Rows are compared pair by pair when at least this share of them was recorded; fewer would leave most of them unused."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A contender's test scores. `scores`: shape (seeds, items), nan = ungraded; `keys` say which rows they are."""

    run: str
    rung: str
    scores: Floats
    keys: tuple[str, ...]
    clusters: tuple[int, ...]
    cross_fit: bool


def recorded_scores(folder: RunFolder, rung: str | None, *, required: bool = False) -> Recorded | None:
    """The test scores of a rung, or of the one the verdict names; None when it never answered the test rows.

    Raises:
        RunError: There are none although they are `required`.
    """
    record = folder.read_verdict()
    rows = [row for row in folder.read_rows() if row.split == "test"]
    wanted = record.verdict.rung if rung is None else rung
    names = list(dict.fromkeys(row.rung for row in rows))
    name = wanted if wanted in names else next((name for name in names if plain_name(name) == wanted), None)
    if name is None:
        if required:
            known = ", ".join(names) or "none"
            raise RunError(f"{folder.path} has no test scores of '{wanted}'.", f"Choose with --rung among: {known}.")
        return None
    own = [row for row in rows if row.rung == name]
    ids = [row.id for row in own if row.seed == own[0].seed]
    score_of = {(row.seed, row.id): np.nan if row.score is None else row.score for row in own}
    seeds = sorted({row.seed for row in own})
    scores = np.asarray([[score_of.get((seed, id), np.nan) for id in ids] for seed in seeds], dtype=np.float64)
    examples = {example.id: example for example in read_examples(Task.load(folder.task_folder)).examples}
    tested = [examples[id] for id in ids]
    cluster_of = cluster(tested)
    keys, clusters = tuple(map(row_key, tested)), tuple(cluster_of[id] for id in ids)
    return Recorded(folder.name, name, scores, keys, clusters, record.regime in ("cross", "prompts"))


def compare(recorded: Recorded, examples: Sequence[Example], scores: Floats, clusters: Sequence[int]) -> Comparison:
    """New scores of `examples`, shape (items,), against the recorded ones: pair by pair where enough rows are the same."""
    place = {key: column for column, key in enumerate(recorded.keys)}
    shared = [(row, place[key]) for row, key in enumerate(map(row_key, examples)) if key in place]
    both = [
        (row, column) for row, column in shared if not np.isnan(scores[row]) and not np.isnan(recorded.scores[:, column]).all()
    ]
    if both and len(both) >= PAIRED_SHARE * len(examples):
        own, theirs = (list(side) for side in zip(*both, strict=True))
        return compare_paired(recorded.scores[:, theirs], scores[own], [clusters[row] for row in own])
    return compare_unpaired(recorded.scores, scores, recorded.clusters, clusters, cross_fit=recorded.cross_fit)


def seen_before(folder: RunFolder, examples: Sequence[Example]) -> int:
    """How many of `examples` are rows that the run's rungs learned from or were chosen by (after cross-fitting: all its rows)."""
    record = folder.read_verdict()
    known = {row_key(example): example.id for example in read_examples(Task.load(folder.task_folder)).examples}
    if record.regime not in ("cross", "prompts"):
        tested = {row.id for row in folder.read_rows() if row.split == "test"}
        known = {key: id for key, id in known.items() if id not in tested}
    return sum(row_key(example) in known for example in examples)


def row_key(example: Example) -> str:
    """The same for two rows with one input and one reference, whatever their ids."""
    turns = [message.as_chat() for message in example.input.messages]
    return files.hash_json([turns, list(example.input.tools), expected_answer(example)])
