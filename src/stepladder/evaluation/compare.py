"""The contenders: which rungs may answer the test split, and how they stand against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepladder.domain.errors import EvaluationError
from stepladder.domain.verdict import Cost, Gain, Interval
from stepladder.evaluation.cost import order_for_adoption, without_once
from stepladder.evaluation.gains import gain, gain_over_trainings
from stepladder.evaluation.statistics import graded, mean_interval, target_over_trainings


@dataclass(frozen=True, eq=False)
class Contender:
    """A rung with its scores on one split.

    Args:
        scores: Shape (seeds, items) or (items,), nan = ungraded; the items in the same order for every contender.
        cut_share: Share of its answers that were cut at the token limit.
        unanswered_share: Share of the rows that its server gave no answer to.
        blocked: Why it may not be recommended whatever it scores (retention), in a sentence; empty when it may.
        hosted: Its model is not on this machine, so the data leaves it.
    """

    rung: str
    tuned: bool
    scores: NDArray[np.float64]
    cost: Cost = field(default_factory=Cost)
    cut_share: float = 0.0
    unanswered_share: float = 0.0
    latency_p50_seconds: float = 0.0
    latency_p95_seconds: float = 0.0
    blocked: str = ""
    hosted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", np.atleast_2d(np.asarray(self.scores, dtype=np.float64)))
        if self.scores.ndim != 2 or self.scores.shape[1] == 0:
            raise EvaluationError(f"rung {self.rung!r} has no scores of shape (seeds, items).")

    @property
    def seeds(self) -> int:
        return int(self.scores.shape[0])

    @property
    def items(self) -> int:
        return int(self.scores.shape[1])

    @property
    def mean(self) -> float:
        """Mean score of the graded rows; 0 when there are none, which the verdict calls invalid before it looks."""
        return float(graded(self.scores).values.mean()) if not np.isnan(self.scores).all() else 0.0

    @property
    def ungraded_share(self) -> float:
        return float(np.isnan(self.scores).mean())

    def interval(self, clusters: ArrayLike | None = None, *, cross_fit: bool = False, seed: int = 0) -> Interval:
        return mean_interval(self.scores, clusters, cross_fit=cross_fit, seed=seed)


@dataclass(frozen=True, slots=True)
class Contenders:
    """Names of the rungs that may answer the test split. One rung may hold several parts."""

    zero_shot: str | None
    nominee: str | None  # the cheapest untuned rung that looks good enough
    best_untuned: str | None
    tuned: str | None  # the best tuned rung

    @property
    def names(self) -> tuple[str, ...]:
        """At most four, each once."""
        parts = (self.zero_shot, self.nominee, self.best_untuned, self.tuned)
        return tuple(dict.fromkeys(name for name in parts if name is not None))


def name_contenders(
    validation: Sequence[Contender],
    *,
    target: float | None,
    minimum_gain: float,
    zero_shot: str = "prompt",
    max_latency_seconds: float | None = None,
) -> Contenders:
    """Choose by validation scores who may answer the test split.

    The nominee is the cheapest untuned rung whose score reaches the target, or without a target lies within `minimum_gain` of
    the best untuned. Of equal scores the cheaper is best. Rungs that are blocked or too slow hold no part but zero-shot's.
    What it took to choose an untuned rung's settings is left out of "cheaper": a climb that reads its answers back spends next
    to nothing on it, and shall name the same rungs.

    Args:
        validation: All rungs in ladder order, with their scores on the validation split.
        zero_shot: Name of the rung that stands for the plain prompt; without part when it is not among them.
    """
    open_to = [rung for rung in validation if why_not_eligible(rung, max_latency_seconds) is None]
    eligible = order_for_adoption([rung if rung.tuned else replace(rung, cost=without_once(rung.cost)) for rung in open_to])
    untuned = [rung for rung in eligible if not rung.tuned]
    best = _best(untuned)
    enough = target if target is not None else (best.mean - minimum_gain if best else 0.0)
    nominee = next((rung.rung for rung in untuned if rung.mean >= enough - 1e-9), None)
    tuned = _best([rung for rung in eligible if rung.tuned])
    return Contenders(
        zero_shot=next((rung.rung for rung in validation if rung.rung == zero_shot), None),
        nominee=nominee,
        best_untuned=best.rung if best else None,
        tuned=tuned.rung if tuned else None,
    )


def strongest_untuned(rungs: Sequence[Contender]) -> Contender | None:
    """The untuned contender with the highest mean score; the first of equals."""
    return _best([rung for rung in rungs if not rung.tuned])


def _best(rungs: Sequence[Contender]) -> Contender | None:
    return max(rungs, key=lambda rung: rung.mean, default=None)  # of equals max keeps the first, the cheapest


def why_not_eligible(contender: Contender, max_latency_seconds: float | None, *, data_may_leave: bool = True) -> str | None:
    """Why this rung cannot be recommended, in a sentence; None when it can."""
    if contender.blocked:
        return f"{contender.rung} is ruled out: {contender.blocked}"
    if contender.hosted and not data_may_leave:
        return f"{contender.rung} is ruled out: its model is hosted, and `[use] data_may_leave` is false."
    if max_latency_seconds is not None and contender.latency_p95_seconds > max_latency_seconds:
        return (
            f"{contender.rung} is too slow: its 95th percentile is {contender.latency_p95_seconds:.2g} s, "
            f"over the limit of {max_latency_seconds:g} s."
        )
    return None


@dataclass(frozen=True, eq=False)
class Pairing:
    """Compares contenders under one set of rules; every pair is reckoned once."""

    minimum_gain: float
    clusters: NDArray[np.int64] | None
    cross_fit: bool
    seed: int
    _known: dict[tuple[str, str], Gain] = field(default_factory=dict)

    def gain(self, baseline: Contender, candidate: Contender) -> Gain:
        key = (baseline.rung, candidate.rung)
        if key not in self._known:
            self._known[key] = gain(
                baseline.scores,
                candidate.scores,
                minimum_gain=self.minimum_gain,
                clusters=self.clusters,
                cross_fit=self.cross_fit,
                seed=self.seed,
                names=key,
            )
        return self._known[key]

    def over_trainings(self, baseline: Contender, candidate: Contender, least: float) -> float:
        """P(gain ≥ least) without trust in the spread of few seeds."""
        return gain_over_trainings(
            baseline.scores,
            candidate.scores,
            least=least,
            clusters=self.clusters,
            cross_fit=self.cross_fit,
            seed=self.seed,
        )

    def target_over_trainings(self, rung: Contender, target: float) -> float:
        """P(score ≥ target) without trust in the spread of few seeds."""
        return target_over_trainings(rung.scores, target, self.clusters, cross_fit=self.cross_fit, seed=self.seed)
