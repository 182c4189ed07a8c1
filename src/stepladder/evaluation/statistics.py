"""How sure a mean score is: intervals, and the probability that the true mean reaches a target.

Scores are arrays of shape (items,) or (seeds, items); nan = ungraded. Ungraded rows are left out and counted, never zero.
Rows of one near-duplicate cluster are not independent: `clusters` (items,) names each row's cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, gammaincinv, ndtr, ndtri, stdtrit

from stepladder.domain.errors import EvaluationError
from stepladder.domain.verdict import Interval

Floats = NDArray[np.float64]

CROSS_FIT_INFLATION = 1.25
"""Variance factor for scores of cross-fitted rungs: five models, trained on overlapping rows, answered the rows.

A convention. The formula of Nadeau & Bengio (2003), Inference for the generalization error, Machine Learning 52, would be 2.25
for five folds, and learners that hang on single rows need about 1.7.
"""

AT_AN_END = 0.1
FEW_DIFFERENT_ROWS = 15
"""Below so many rows that differ from the commonest score, a bootstrap sees too few of them to be trusted."""

FAILURE = 0.0
"""Score of an answer that is wrong in every way; the worst there is."""

DRAWS = 10_000
MOST_SEEDS_COUNTED = 5
"""Up to so many seeds every way in which their mean could have come out is counted, beyond it some are drawn."""
_CHUNK_CELLS = 2_000_000  # resampled cells held at once: 16 MB
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class Graded:
    """The rows that have a score: mean over seeds, cluster, and the mean of each seed over these rows."""

    values: Floats  # (items,)
    clusters: NDArray[np.int64]  # (items,), from 0
    seed_means: Floats  # (seeds,)
    ungraded: int
    pass_fail: bool  # one seed, every score 0 or 1

    @property
    def clustered(self) -> bool:
        return len(self.values) > 0 and int(self.clusters.max()) + 1 < len(self.values)


def graded(scores: ArrayLike, clusters: ArrayLike | None = None) -> Graded:
    """Leave out the rows without a score (in every seed) and number the clusters.

    Raises:
        EvaluationError: No row is left, or the shapes do not fit.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    names = np.arange(table.shape[1]) if clusters is None else np.asarray(clusters)
    if table.ndim != 2 or names.shape != (table.shape[1],):
        raise EvaluationError("scores and clusters do not belong to the same rows.")
    known = ~np.isnan(table)
    keep = known.any(axis=0)
    if not keep.any():
        raise EvaluationError("no row has a score.", "Look at the reasons of the ungraded rows.")
    values = mean_of_known(table[:, keep], axis=0)
    return Graded(
        values=values,
        clusters=np.unique(names[keep], return_inverse=True)[1].astype(np.int64).reshape(-1),
        seed_means=mean_of_known(table[known.any(axis=1)], axis=1),
        ungraded=int((~keep).sum()),
        pass_fail=len(table) == 1 and bool(np.isin(values, (0.0, 1.0)).all()),
    )


def mean_of_known(table: Floats, axis: int) -> Floats:
    """Mean along `axis` over the entries that are not nan; every line needs at least one."""
    known = ~np.isnan(table)
    means: Floats = np.where(known, table, 0.0).sum(axis=axis) / known.sum(axis=axis)
    return means


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a rate. Takes fractions: summed scores, or effective counts of clustered rows.

    Source:
        Wilson (1927), Probable inference, JASA 22.
    """
    if n <= 0:
        raise EvaluationError("an interval needs at least one row.")
    z = float(ndtri(0.5 + level / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(max(rate * (1 - rate), 0.0) / n + z * z / (4 * n * n)))
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


RARE = 3
"""Up to so many right (or wrong) rows Wilson's end on their side is taken from Poisson's distribution instead."""


def rate_interval(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval with two small corrections, so that no true rate is covered too seldom.

    Where only up to three rows are right or wrong, the end beside 0 or 1 comes from Poisson's distribution: Wilson's own lies
    so close to the rate that a true rate just beyond it is covered in 84 % of samples, not 95 %. And the interval is wider
    by the share 1/(2n), 1.7 % at n = 30, which closes the gaps that few rows leave between the intervals of neighbouring counts.

    Source:
        Brown, Cai & DasGupta (2001), Interval estimation for a binomial proportion, Statistical Science 16 (modified Wilson).
    """
    wider = 2 * float(ndtr(ndtri(0.5 + level / 2) * (1 + 1 / (2 * max(n, 1.0))))) - 1
    low, high = wilson(successes, n, wider)
    if 0 < successes <= RARE:
        low = min(low, _rare_end(successes, n, level))
    if 0 < n - successes <= RARE:
        high = max(high, 1 - _rare_end(n - successes, n, level))
    return low, high


def _rare_end(count: float, n: float, level: float) -> float:
    """The rate at which so many or more of `n` rows are seen with probability 1 - level."""
    return float(gammaincinv(count, 1 - level)) / n


def design_effect(values: Floats, clusters: NDArray[np.int64]) -> float:
    """How many times larger clusters make the variance of the mean, ≥ 1; rows divided by it are the effective rows.

    The ratio of the cluster-robust variance to that of independent rows. When all scores are equal nothing can be estimated,
    and a cluster counts as one row.
    """
    count = int(clusters.max()) + 1
    n = len(values)
    if count == n:
        return 1.0
    residuals = values - values.mean()
    independent = float((residuals**2).sum())
    if independent < _SAME or count == 1:
        return n / count
    sums = np.bincount(clusters, weights=residuals)
    robust = float((sums**2).sum()) * count / (count - 1)
    return float(np.clip(robust / (independent * n / (n - 1)), 1.0, n))


def few_differ(values: Floats) -> bool:
    """Whether too few rows differ from the commonest score, or from the end of the scale that most are at, for a bootstrap.

    Of scores like 0.97, 0.93, 1.0 with a 0 in fifty, a sample often holds no 0 at all, and resampling it cannot know of any.
    """
    commonest = int(np.unique(np.round(values, 9), return_counts=True)[1].max())
    at_an_end = max(int((values <= AT_AN_END).sum()), int((values >= 1 - AT_AN_END).sum()))
    return len(values) - max(commonest, at_an_end) < FEW_DIFFERENT_ROWS


def mean_interval(
    scores: ArrayLike, clusters: ArrayLike | None = None, *, cross_fit: bool = False, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean score with its interval.

    Pass/fail of one seed: Wilson (`rate_interval`). Other scores: BCa over clusters, its lower end with one failure added, or
    Wilson on the summed scores where few rows differ.
    Clusters enter Wilson through the design effect; `cross_fit` widens by √1.25. With several seeds each half also holds how
    far their mean may lie from that of all seeds (`_half_with_seeds`).
    """
    rows = graded(scores, clusters)
    interval = _interval_over_rows(rows, cross_fit=cross_fit, seed=seed, level=level)
    if len(rows.seed_means) == 1:
        return interval
    below = _half_with_seeds(interval.value - interval.low, rows.seed_means, level)
    above = _half_with_seeds(interval.high - interval.value, rows.seed_means, level)
    return replace(interval, low=max(0.0, interval.value - below), high=min(1.0, interval.value + above))


def _half_with_seeds(half: float, seed_means: Floats, level: float) -> float:
    """Half-width over rows and seeds, from the half-width over the rows of these very seeds.

    The variances add up. Their root is multiplied by the mean of z, for the rows, and of Student's t with S - 1 degrees of
    freedom, for the seeds, each weighted by its variance: seeds that agree leave the interval of the rows as it is, and two
    that lie far apart get the 12.7 that two values ask for. Satterthwaite's degrees of freedom fall short here: two seeds that
    agree by chance look as if nothing were to be feared of seeds.

    Source:
        Student (1908), The probable error of a mean, Biometrika 6; the weighted mean: Cochran & Cox (1950), Experimental designs.
    """
    z, t = float(ndtri(0.5 + level / 2)), float(stdtrit(len(seed_means) - 1, 0.5 + level / 2))
    of_rows, of_seeds = (half / z) ** 2, float(seed_means.var(ddof=1)) / len(seed_means)
    if of_rows + of_seeds < _SAME**2:
        return half
    return (z * of_rows + t * of_seeds) / float(np.sqrt(of_rows + of_seeds))


def _interval_over_rows(rows: Graded, *, cross_fit: bool, seed: int, level: float = 0.95) -> Interval:
    """The interval for these very seeds."""
    value = float(rows.values.mean())
    if rows.pass_fail or few_differ(rows.values):
        effective = effective_rows(rows, cross_fit=cross_fit)
        low, high = rate_interval(value * effective, effective, level)
        method = "wilson" if rows.pass_fail else "wilson-summed"
    else:
        low, high = bca(rows.values, rows.clusters, level=level, seed=seed)
        low = min(low, bca(*_with_a_failure(rows), level=level, seed=seed)[0])
        stretch = CROSS_FIT_INFLATION**0.5 if cross_fit else 1.0
        low, high = max(0.0, value - (value - low) * stretch), min(1.0, value + (high - value) * stretch)
        method = "bca"
    return Interval(value, low, high, level, method, len(rows.values), rows.ungraded)


def _with_a_failure(rows: Graded) -> tuple[Floats, NDArray[np.int64]]:
    """Values and clusters of these rows and one that failed wholly.

    Of a rung that fails one row in fifty, every third sample of sixty rows holds no failure, and resampling cannot know of any.
    """
    return np.append(rows.values, FAILURE), np.append(rows.clusters, rows.clusters.max() + 1)


def effective_rows(rows: Graded, *, cross_fit: bool = False) -> float:
    """Rows that carry as much as these would if they were independent and not cross-fitted."""
    inflation = CROSS_FIT_INFLATION if cross_fit else 1.0
    return len(rows.values) / (design_effect(rows.values, rows.clusters) * inflation)


def rows_per_effective_row(
    scores: ArrayLike, clusters: ArrayLike | None = None, *, cross_fit: bool = False, seed: int = 0
) -> float:
    """Rows that carry as much as one independent pass/fail row: above 1 with clusters, below 1 where scores are graded.

    For graded scores, the rows a pass/fail rung of the same mean would need for an interval of this width.
    """
    rows = graded(scores, clusters)
    if rows.pass_fail or few_differ(rows.values):
        return len(rows.values) / effective_rows(rows, cross_fit=cross_fit)
    interval = _interval_over_rows(rows, cross_fit=cross_fit, seed=seed)
    standard_error = (interval.high - interval.low) / (2 * float(ndtri(0.5 + interval.level / 2)))
    return len(rows.values) * standard_error**2 / (interval.value * (1 - interval.value))


def bca(
    values: Floats, clusters: NDArray[np.int64] | None = None, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean, resampling rows or whole clusters.

    When all rows (or clusters) are alike a bootstrap cannot see any uncertainty; then Wilson on the summed scores answers.

    Source:
        Efron (1987), Better bootstrap confidence intervals, JASA 82.
    """
    groups = np.arange(len(values)) if clusters is None else clusters
    sums = np.bincount(groups, weights=values).astype(np.float64)
    sizes = np.bincount(groups).astype(np.float64)
    mean = float(sums.sum() / sizes.sum())
    jackknife = (sums.sum() - sums) / np.maximum(sizes.sum() - sizes, 1.0)
    influence = jackknife.mean() - jackknife
    if len(sums) < 2 or float((influence**2).sum()) < _SAME**2:
        return wilson(mean * len(sums), len(sums), level)
    means = _resampled_means(sums, sizes, draws, seed)
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    below = ((means < mean - _SAME).sum() + (means <= mean + _SAME).sum()) / (2 * draws)
    bias = float(ndtri(np.clip(below, 0.5 / draws, 1 - 0.5 / draws)))
    ends = bias + np.array([ndtri(0.5 - level / 2), ndtri(0.5 + level / 2)])
    low, high = np.quantile(means, ndtr(bias + ends / (1 - acceleration * ends)))
    return float(low), float(high)


def _resampled_means(sums: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    count = len(sums)
    means = np.empty(draws)
    step = max(1, _CHUNK_CELLS // count)
    for start in range(0, draws, step):
        chosen = rng.integers(0, count, size=(min(step, draws - start), count))
        means[start : start + step] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means


def probability_at_least(
    scores: ArrayLike, target: float, clusters: ArrayLike | None = None, *, cross_fit: bool = False, seed: int = 0
) -> float:
    """P(true mean score ≥ target).

    Pass/fail, or few rows that differ: Beta(s + 1, n - s + 1) with s the summed scores and n the effective rows (a uniform
    prior: one right and one wrong row added). Else a Bayesian bootstrap over clusters, with one as good as the best row and
    a failure added; for independent pass/fail rows it is that same Beta. Either is moved by how far the mean of these seeds
    may lie from that of all seeds.
    """
    rows = graded(scores, clusters)
    if rows.pass_fail or few_differ(rows.values):
        effective = effective_rows(rows, cross_fit=cross_fit)
        return beta_at_least(float(rows.values.mean()), effective, target, seed_offsets(rows.seed_means))
    rng = np.random.default_rng(seed)
    draws = graded_mean(rows, cross_fit=cross_fit, rng=rng) + seed_deviations(rows.seed_means, rng)
    return share(draws >= target)


def target_over_trainings(
    scores: ArrayLike, target: float, clusters: ArrayLike | None = None, *, cross_fit: bool = False, seed: int = 0
) -> float:
    """As `probability_at_least`, where the spread of two or three seeds is not believed to be that of all: Student's t."""
    rows, rng = graded(scores, clusters), np.random.default_rng(seed)
    if rows.pass_fail or few_differ(rows.values):
        effective = effective_rows(rows, cross_fit=cross_fit)
        return beta_at_least(float(rows.values.mean()), effective, target, student_deviations(rows.seed_means, rng))
    draws = graded_mean(rows, cross_fit=cross_fit, rng=rng) + student_deviations(rows.seed_means, rng)
    return share(draws >= target)


def graded_mean(rows: Graded, *, cross_fit: bool, rng: np.random.Generator) -> Floats:
    """Draws from the posterior of the mean of graded scores for these seeds, one row as good as the best and a failure added."""
    added = (float(rows.values.max()), FAILURE)
    return bayesian_bootstrap(rows.values, rows.clusters, added, cross_fit=cross_fit, rng=rng)


def beta_at_least(rate: float, n: float, target: float, offsets: ArrayLike = 0.0) -> float:
    """P(p ≥ target) when `rate` · n of n rows were right and nothing was known before (uniform prior).

    With `offsets`, each as likely as the next: P(p + offset ≥ target).
    """
    needed = np.clip(target - np.asarray(offsets), 0.0, 1.0)
    return 1.0 - float(np.mean(betainc(rate * n + 1, (1 - rate) * n + 1, needed)))


def bayesian_bootstrap(
    values: Floats,
    clusters: NDArray[np.int64],
    added: ArrayLike,
    *,
    cross_fit: bool,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Floats:
    """Draws from the posterior of the mean, shape (draws,): exponential weights for clusters and for the `added` ones.

    Each added value stands for one more cluster of the usual size. Several versions of them, shape (versions, added), get the
    same weights and give draws of shape (versions, draws). `cross_fit` lets the observed clusters (not the added
    ones) weigh 1/1.25, which multiplies the variance by 1.25.

    Source:
        Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9.
    """
    sums, sizes = np.bincount(clusters, weights=values), np.bincount(clusters).astype(np.float64)
    shape = np.full(len(sums), 1 / CROSS_FIT_INFLATION if cross_fit else 1.0)
    usual = float(sizes.mean())
    extra = np.asarray(added, dtype=np.float64)
    versions, count = extra.shape[:-1], extra.shape[-1]
    sums = np.concatenate([np.broadcast_to(sums, (*versions, len(sums))), extra * usual], axis=-1)
    sizes, shape = np.append(sizes, np.full(count, usual)), np.append(shape, np.ones(count))
    means = np.empty((*versions, draws))
    step = max(1, _CHUNK_CELLS // len(sizes))
    for start in range(0, draws, step):
        weights = rng.standard_gamma(shape, size=(min(step, draws - start), len(sizes)))
        means[..., start : start + step] = sums @ weights.T / (sizes @ weights.T)
    return means


def seed_deviations(seed_means: Floats, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """How far the mean of these training seeds may lie from that of all seeds, shape (draws,); zeros for one seed.

    Draws S - 1 of S seeds with replacement, which keeps the variance unbiased for as few as two.

    Source:
        Rao & Wu (1988), Resampling inference with complex survey data, JASA 83.
    """
    count = len(seed_means)
    if count == 1:
        return np.zeros(draws)
    chosen = rng.integers(0, count, size=(draws, count - 1))
    deviations: Floats = seed_means[chosen].mean(axis=1) - seed_means.mean()
    return deviations


def student_deviations(seed_means: Floats, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """As `seed_deviations`, without trust in the spread of so few: Student's t with S - 1 degrees of freedom.

    Source:
        Student (1908), The probable error of a mean, Biometrika 6.
    """
    count = len(seed_means)
    if count == 1:
        return np.zeros(draws)
    deviations: Floats = rng.standard_t(count - 1, size=draws) * seed_means.std(ddof=1) / np.sqrt(count)
    return deviations


def seed_offsets(seed_means: Floats) -> Floats:
    """All that `seed_deviations` could draw, each as likely as the next; beyond `MOST_SEEDS_COUNTED` seeds some of it."""
    count = len(seed_means)
    if count == 1:
        return np.zeros(1)
    if count > MOST_SEEDS_COUNTED:
        return seed_deviations(seed_means, np.random.default_rng(0))
    chosen = np.asarray(list(product(seed_means, repeat=count - 1)))
    offsets: Floats = chosen.mean(axis=1) - seed_means.mean()
    return offsets


@dataclass(frozen=True, eq=False)
class SeedSpread:
    """How far the mean of a rung's training seeds may lie from that of all seeds.

    Args:
        offsets: Each as likely as the next.
        rows: Rows on which the seeds were compared.
        by_chance: Share of the offsets' variance that comes from single rows the seeds disagree on; it falls with more rows.
    """

    offsets: Floats
    rows: int
    by_chance: float

    def over(self, rows: int) -> Floats:
        """The offsets as they would be over so many rows."""
        offsets: Floats = self.offsets * np.sqrt(1 - self.by_chance + self.by_chance * self.rows / rows)
        return offsets


def seed_spread(scores: ArrayLike) -> SeedSpread:
    """The spread between the seeds of `scores`, shape (seeds, items) or (items,)."""
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    offsets, known = seed_offsets(graded(table).seed_means), table[:, ~np.isnan(table).any(axis=0)]
    if len(table) == 1 or known.shape[1] == 0:
        return SeedSpread(offsets, table.shape[1], 0.0)
    by_rows = float(known.var(axis=0, ddof=1).mean()) / known.shape[1]
    between = float(known.mean(axis=1).var(ddof=1))
    return SeedSpread(offsets, known.shape[1], 1.0 if between <= by_rows else by_rows / between)


def share(hits: NDArray[np.bool_]) -> float:
    """Share of draws that hold, kept half a draw away from 0 and 1: draws cannot prove a certainty."""
    return float(np.clip(hits.mean(), 0.5 / len(hits), 1 - 0.5 / len(hits)))


def seed_disagreement(scores: ArrayLike) -> float:
    """Share of rows on which the seeds' scores differ; 0 for one seed. Rows without a score in some seed do not count."""
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    table = table[:, ~np.isnan(table).any(axis=0)]
    return 0.0 if table.size == 0 else float((np.ptp(table, axis=0) > _SAME).mean())


def noise_floor(disagreement_rate: float, n: int) -> float:
    """Smallest difference of two means that is more than seed noise: 1.96 · √(d / n), d = share of rows that disagree."""
    if n <= 0:
        raise EvaluationError("a noise floor needs at least one row.")
    return 1.96 * float(np.sqrt(disagreement_rate / n))
