"""Has a rung become worse than it was recorded to be? For gates: new scores against those of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from stepladder.domain.verdict import Interval
from stepladder.evaluation.gains import gain
from stepladder.evaluation.statistics import (
    DRAWS,
    Floats,
    effective_rows,
    few_differ,
    graded,
    graded_mean,
    mean_interval,
    seed_deviations,
    share,
)

WORSE = 0.95
"""P(worse) from which a gate closes; an unchanged rung reaches it at most about once in twenty."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """New scores against recorded ones. `difference` is new − recorded, in score units; `rows` = those compared pair by pair."""

    recorded: Interval
    difference: Interval
    probability_worse: float
    paired: bool
    rows: int

    @property
    def worse(self) -> bool:
        return self.probability_worse >= WORSE


def compare_paired(recorded: ArrayLike, now: ArrayLike, clusters: ArrayLike | None = None, *, seed: int = 0) -> Comparison:
    """Scores of the same rows, then and now.

    P(worse) = 1 − P(gain > 0) of `gains.gain`: with pass/fail scores P(Beta(losses + 1, wins + 1) > ½), which is 1 − McNemar's
    one-sided mid-p; else a Bayesian bootstrap over clusters of the row differences, one win and one loss added.

    Args:
        recorded: Shape (items,) or (seeds, items), nan = ungraded.
        now: Shape (items,), the same rows in the same order.
    Raises:
        EvaluationError: No row has both scores.
    Source:
        McNemar (1947), Psychometrika 12; Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9.
    """
    found = gain(recorded, now, minimum_gain=0.0, clusters=clusters, seed=seed)
    before = mean_interval(recorded, clusters, seed=seed)
    return Comparison(before, found.interval, 1 - found.probability_better, True, found.interval.items)


def compare_unpaired(
    recorded: ArrayLike,
    now: ArrayLike,
    recorded_clusters: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    *,
    cross_fit: bool = False,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Scores of different rows: were those recorded drawn from a better mean than these?

    P(worse) = P(mean now < mean recorded) over independent draws from the posterior of either mean: a Beta with one right and
    one wrong row added where scores are pass/fail or few differ, else a Bayesian bootstrap over clusters; either moved by the
    spread between seeds. The rows themselves may be harder or easier than the recorded ones; no statistic can tell that apart
    from a worse rung.

    Args:
        recorded, now: Shape (items,) or (seeds, items), nan = ungraded.
        cross_fit: The recorded scores are cross-fitted; their variance counts 1.25-fold.
    Raises:
        EvaluationError: One of them has no graded row.
    Source:
        Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9.
    """
    rng = np.random.default_rng(seed)
    before = _posterior(recorded, recorded_clusters, cross_fit, rng)
    after = _posterior(now, clusters, False, rng)
    old = mean_interval(recorded, recorded_clusters, cross_fit=cross_fit, seed=seed)
    value = mean_interval(now, clusters, seed=seed).value - old.value
    low, high = np.quantile(after - before, (0.5 - level / 2, 0.5 + level / 2))
    difference = Interval(value, min(float(low), value), max(float(high), value), level, "two posteriors")
    return Comparison(old, difference, share(after < before), False, 0)


def _posterior(scores: ArrayLike, clusters: ArrayLike | None, cross_fit: bool, rng: np.random.Generator) -> Floats:
    """Draws of the true mean, shape (draws,), by the rules of `statistics.probability_at_least`."""
    rows = graded(scores, clusters)
    if rows.pass_fail or few_differ(rows.values):
        effective, rate = effective_rows(rows, cross_fit=cross_fit), float(rows.values.mean())
        draws = rng.beta(rate * effective + 1, (1 - rate) * effective + 1, DRAWS)
    else:
        draws = graded_mean(rows, cross_fit=cross_fit, rng=rng)
    return draws + seed_deviations(rows.seed_means, rng)
