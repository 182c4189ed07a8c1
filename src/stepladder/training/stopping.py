"""When a training has seen enough, and which of its evaluations is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from stepladder.domain.protocols import TrainPoint

LEARNED_BY_HEART_NLL = 0.05
DIVERGED_FACTOR, DIVERGED_NATS = 1.5, 0.5
ROWS_TO_JUDGE_BY = 24
PATIENCE = 2
"""Evaluations without a real improvement after which a training ends."""

Evaluations = Mapping[int, tuple[float, ...]]
"""Held-out nats per learned token, one a row in a fixed order, by optimizer step."""


def within_noise(candidate: Sequence[float], best: Sequence[float]) -> bool:
    """Whether `candidate` is at most one standard error worse than `best`, by the paired difference row by row."""
    differences = [own - other for own, other in zip(candidate, best, strict=True)]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return fmean(differences) <= error


def best_step(evaluations: Evaluations) -> int:
    """The step of the lowest mean held-out loss; the earliest of equals."""
    return min(sorted(evaluations), key=lambda step: fmean(evaluations[step]))


def candidates(evaluations: Evaluations) -> tuple[int, ...]:
    """Steps that cannot be told from the best so far, in order: the first of them is the one to keep.

    A step that has once fallen out is gone (its weights are not stored for ever), so this is asked with the earlier
    candidates and the newest evaluation only.
    """
    best = evaluations[best_step(evaluations)]
    return tuple(step for step in sorted(evaluations) if within_noise(evaluations[step], best))


def learned_by_heart(history: Sequence[TrainPoint]) -> bool:
    """Whether the training loss is near zero while the held-out loss rose at the last two evaluations.

    The training loss is the mean over the steps since the evaluation before the last.
    """
    evaluated = [number for number, point in enumerate(history) if point.held_out_nll is not None]
    if len(evaluated) < 3:
        return False
    first, second, third = (history[number].held_out_nll or 0.0 for number in evaluated[-3:])
    recent = history[evaluated[-2] + 1 : evaluated[-1] + 1]
    return third > second > first and fmean(point.loss for point in recent) < LEARNED_BY_HEART_NLL


def settled(history: Sequence[TrainPoint], kept: int) -> bool:
    """Whether two evaluations since step `kept`, the one to keep, could not be told from it or were worse.

    More steps would have to gain over a standard error on the held-out rows to be kept, and the last ones did not.
    """
    later = [point for point in history if point.held_out_nll is not None and point.step > kept]
    return len(later) >= PATIENCE


def steps_to_judge_by(batch_size: int) -> int:
    """Steps that hold two dozen rows."""
    return max(3, math.ceil(ROWS_TO_JUDGE_BY / batch_size))


def may_diverge(history: Sequence[TrainPoint], batch_size: int) -> bool:
    """Whether the training loss looks far above where it began, asked once every few steps.

    The first step saw other rows, so this is a suspicion only: `far_above` settles it on the same rows.
    """
    window = steps_to_judge_by(batch_size)
    if not history or len(history) % window:
        return False
    return far_above(fmean(point.loss for point in history[-window:]), history[0].loss)


def far_above(loss: float, untuned: float) -> bool:
    """Over 1.5 times the loss without any training, and half a nat above it. A training that works does not come near."""
    return loss > DIVERGED_FACTOR * untuned + DIVERGED_NATS
