"""Paired gains: how much better one rung is than another on the same rows, and how sure that is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, ndtri

from stepladder.domain.errors import EvaluationError
from stepladder.domain.verdict import Gain, Interval
from stepladder.evaluation.statistics import (
    CROSS_FIT_INFLATION,
    Floats,
    Graded,
    bayesian_bootstrap,
    graded,
    seed_deviations,
    share,
    student_deviations,
)

PROVED = 0.95
BY_COUNTS = "dirichlet"
"""Method of the interval of a gain that won, lost and tied rows tell all of."""

SAME = 1e-9  # a row whose score changes by no more is a tie
_NODES = (np.arange(500) + 0.5) / 500  # midpoints of equal slices of probability


def probability_better(wins: float, losses: float) -> float:
    """P(the candidate wins more than half of the rows on which the two differ) = P(Beta(wins + 1, losses + 1) > ½).

    Equals 1 - the one-sided mid-p of McNemar's test, so one number serves both schools.
    """
    return float(betainc(losses + 1, wins + 1, 0.5))


@lru_cache(maxsize=64)
def _quantiles(a: float, b: float) -> Floats:
    return np.asarray(betaincinv(a, b, _NODES), dtype=np.float64)


class Posterior(Protocol):
    """What is known about a gain after seeing the rows."""

    def better(self) -> float: ...

    def at_least(self, gain: float) -> float: ...

    def bounds(self, level: float) -> tuple[float, float]: ...


@dataclass(frozen=True)
class WinLoss:
    """Dirichlet(wins + 1, losses + 1, ties + 1) over the shares of won, lost and tied rows; counts may be fractions.

    The share D of rows that differ and the winning share R among them are independent Betas and gain = D · (2R - 1), so
    P(gain ≥ x) is the mean over D of P(R ≥ (1 + x/D)/2): a sum over fixed quantiles of D, no random draws.
    """

    wins: float
    losses: float
    ties: float

    def better(self) -> float:
        return probability_better(self.wins, self.losses)

    def at_least(self, gain: float) -> float:
        differing = _quantiles(self.wins + self.losses + 2, self.ties + 1)
        needed = np.clip((1 + gain / differing) / 2, 0.0, 1.0)
        return float(np.mean(betainc(self.losses + 1, self.wins + 1, 1 - needed)))

    def bounds(self, level: float) -> tuple[float, float]:
        return self._quantile(0.5 - level / 2), self._quantile(0.5 + level / 2)

    def _quantile(self, probability: float) -> float:
        return float(brentq(lambda gain: 1 - self.at_least(gain) - probability, -1.0, 1.0, xtol=1e-5))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws of the gain by a hierarchical bootstrap, for three versions of the win and the loss that are added.

    Args:
        draws: Both as large as a differing row's typical difference.
        if_it_fails: The loss as large as if the candidate failed wholly on one more row.
        least: As `if_it_fails`, with Student's t for the seeds: the lower end of the interval.
        most: The win as large as if the baseline failed wholly on one more row, with Student's t: the upper end.
    """

    draws: Floats
    if_it_fails: Floats
    least: Floats
    most: Floats

    def better(self) -> float:
        return share(self.draws > 0)

    def at_least(self, gain: float) -> float:
        """P(gain ≥ `gain`). That it is hardly worse (`gain` < 0) has to hold also if the next row is a failure."""
        return share((self.if_it_fails if gain < 0 else self.draws) >= gain)

    def bounds(self, level: float) -> tuple[float, float]:
        low, high = np.quantile(self.least, 0.5 - level / 2), np.quantile(self.most, 0.5 + level / 2)
        return max(-1.0, float(low)), min(1.0, float(high))


def gain(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    minimum_gain: float,
    clusters: ArrayLike | None = None,
    cross_fit: bool = False,
    seed: int = 0,
    names: tuple[str, str] = ("baseline", "candidate"),
    level: float = 0.95,
) -> Gain:
    """Mean gain of `candidate` over `baseline` on the rows both have scores for.

    One seed each, pass/fail, no clusters: the exact `WinLoss`. Else draws: a Bayesian bootstrap over clusters of the row
    differences, plus the seeds' deviations, with one win and one loss added, as large as a differing row's typical difference
    (root mean square). For P(gain ≥ -minimum_gain) and the lower end of the interval the loss is at least the baseline's mean
    score, since a candidate that fails one row in fifty often fails none of sixty; so is the win for the upper end. On pass/fail
    rows all that is the same rule. The interval takes Student's t for the seeds. `cross_fit` divides wins and losses by 1.25,
    or multiplies the standard error by √1.25.

    Args:
        baseline, candidate: Scores in [0, 1], shape (items,) or (seeds, items), nan = ungraded; the seeds may differ in number.
    Raises:
        EvaluationError: The rows differ in number, or none has both scores.
    """
    pair = _paired(baseline, candidate, clusters)
    old, new, differences = pair.old, pair.new, pair.differences
    wins, losses = int((differences > SAME).sum()), int((differences < -SAME).sum())
    ties = len(differences) - wins - losses
    posterior: Posterior
    if old.pass_fail and new.pass_fail and not old.clustered:
        factor = CROSS_FIT_INFLATION if cross_fit else 1.0
        posterior = WinLoss(wins / factor, losses / factor, ties / factor)
    else:
        posterior = _drawn(pair, cross_fit=cross_fit, seed=seed)
    value = float(differences.mean())
    low, high = posterior.bounds(level)
    method = BY_COUNTS if isinstance(posterior, WinLoss) else "bootstrap"
    return Gain(
        baseline=names[0],
        candidate=names[1],
        interval=Interval(value, min(low, value), max(high, value), level, method, len(differences), pair.left_out),
        wins=wins,
        losses=losses,
        ties=ties,
        probability_better=posterior.better(),
        probability_minimum=posterior.at_least(minimum_gain),
        probability_not_worse=posterior.at_least(-minimum_gain),
    )


def gain_over_trainings(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    least: float,
    clusters: ArrayLike | None = None,
    cross_fit: bool = False,
    seed: int = 0,
) -> float:
    """P(gain ≥ least) where the spread of two or three seeds is not believed to be that of all: Student's t in its place.

    Raises:
        EvaluationError: As `gain`.
    """
    pair = _paired(baseline, candidate, clusters)
    return _drawn(pair, cross_fit=cross_fit, seed=seed, of_seeds=student_deviations).at_least(least)


@dataclass(frozen=True, eq=False)
class _Pair:
    """The rows that both rungs have scores for."""

    old: Graded
    new: Graded
    left_out: int

    @property
    def differences(self) -> Floats:
        return self.new.values - self.old.values


def _paired(baseline: ArrayLike, candidate: ArrayLike, clusters: ArrayLike | None) -> _Pair:
    before, after = (np.atleast_2d(np.asarray(scores, dtype=np.float64)) for scores in (baseline, candidate))
    if before.shape[1] != after.shape[1]:
        raise EvaluationError("the two rungs answered different numbers of rows.")
    both = ~(np.isnan(before).all(axis=0) | np.isnan(after).all(axis=0))
    if not both.any():
        raise EvaluationError("no row has a score from both rungs.")
    names = None if clusters is None else np.asarray(clusters)[both]
    return _Pair(graded(before[:, both], names), graded(after[:, both], names), int((~both).sum()))


OfSeeds = Callable[[Floats, np.random.Generator], Floats]


def _drawn(pair: _Pair, *, cross_fit: bool, seed: int, of_seeds: OfSeeds = seed_deviations) -> Drawn:
    rng, differences = np.random.default_rng(seed), pair.differences
    differing = differences[np.abs(differences) > SAME]
    typical = float(np.sqrt((differing**2).mean())) if len(differing) else 1.0
    win, loss = (max(typical, float(rows.values.mean())) for rows in (pair.new, pair.old))
    added = [(typical, -typical), (typical, -loss), (win, -typical)]
    over_rows = bayesian_bootstrap(differences, pair.old.clusters, added, cross_fit=cross_fit, rng=rng)
    draws, if_it_fails, if_baseline_fails = over_rows
    deviations = _between(pair, of_seeds, rng)
    students = _between(pair, student_deviations, rng)
    return Drawn(draws + deviations, if_it_fails + deviations, if_it_fails + students, if_baseline_fails + students)


def _between(pair: _Pair, of_seeds: OfSeeds, rng: np.random.Generator) -> Floats:
    """How far the seeds of the two rungs may put their gain from that of all seeds."""
    return of_seeds(pair.new.seed_means, rng) - of_seeds(pair.old.seed_means, rng)


def rows_to_prove(observed: Gain) -> int | None:
    """Rows in all at which the observed gain, at the same rates, would be proved better than 0; None when it never is.

    Exact where rows are won or lost. Else a normal approximation: P(better) = Φ(gain/SE), and the standard error shrinks with
    the root of the rows, that between the seeds too.
    """
    interval = observed.interval
    if interval.value <= 0 or interval.items == 0:
        return None
    least = interval.items + 1
    if interval.method == BY_COUNTS:
        return _rows_to_prove_counts(observed, least)
    score = float(ndtri(observed.probability_better))
    return max(least, int(np.ceil(interval.items * (float(ndtri(PROVED)) / score) ** 2))) if score > 0 else None


def _rows_to_prove_counts(observed: Gain, least: int) -> int:
    counts = np.array([observed.wins, observed.losses])
    if not np.isclose(probability_better(*counts), observed.probability_better):
        counts = counts / CROSS_FIT_INFLATION  # the odds came from cross-fitted counts

    def proved(rows: int) -> bool:
        return probability_better(*(counts * rows / observed.interval.items)) >= PROVED

    high = least
    while not proved(high):
        high *= 2
    return bisect_left(range(high + 1), True, lo=least, key=proved)
