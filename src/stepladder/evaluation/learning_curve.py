"""What would twice the training rows bring? Three shapes of learning curve, averaged by how well each explains the points.

With n training rows the score is taken to be one of

    flat         s = a
    log-linear   s = a + b · ln n
    power law    s = a − b · n^(−c),  c on a grid

plus noise of variance σ² · (m / n)^γ, m the largest size: the fewer rows are drawn, the more hangs on which. γ is 1, the variance
of a mean of n rows, or 0, noise of the validation rows alone. The noises of two points are not independent: both are scores on
the same validation rows, after training on rows drawn from the same heap. Their correlation is taken to be

    ρ · overlap + τ · min(n, m) / max(n, m),  and 1 for a point with itself

where the overlap is the share of rows that two training sets of n and m rows have in common, among all rows of both: min/max
for two parts of one draw, which are nested, and p / (n + m − p) with p = n·m / rows for parts of different draws. ρ says how
much of the noise hangs on *which* rows were learned: the nearest neighbour is the same one in two sets as often as they overlap.
τ says how much hangs on *how many* were: validation rows that are right from a certain size on, whatever the draw. The rest is
each point's own. Eighteen points so correlated are worth fewer, and the forecast says so.

Given c, γ, ρ and τ everything is linear in a and b with one unknown variance, so that each has an exact Student-t forecast
(generalised least squares, the noise of the new point forecast from those of the old). Forms are weighted by AICc over all (size,
draw) points at their best c, γ, ρ and τ; within a form these are weighted by their likelihood. The forecast is the mixture of all
these t distributions given that a score lies in [0, 1]: each is cut half a validation row outside, and a shape whose curve
leaves the range loses weight by what is cut away (Bayes' rule). Near the ceiling that decides between a curve that goes on rising
and one that levels off. The interval is read off the distribution function, without any drawing of lots, and ends at whole rows.

A curve that rises by g from the largest part to the new size makes g·v of v validation rows newly right: that is a count, which
falls out otherwise each time. Its variance g·(1 − g) / v comes on top.

Sources:
    Shapes: Viering, Loog (2023), The Shape of Learning Curves: a Review, IEEE TPAMI 45.
    Forecast under correlated noise: Goldberger (1962), Best linear unbiased prediction in the generalized linear regression
        model, JASA 57.
    Overlap: Jaccard (1901), Bulletin de la Société vaudoise des sciences naturelles 37.
    AICc: Hurvich, Tsai (1989), Regression and time series model selection in small samples, Biometrika 76.
    Weights exp(−Δ/2) and averaging: Burnham, Anderson (2002), Model Selection and Multimodel Inference, §2.9 and §4.
    Variance of rounding, width² / 12: Sheppard (1898), Proc. London Math. Society 29.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtr

from stepladder.domain.errors import EvaluationError
from stepladder.domain.learning_curve import Doubling, LearningCurve
from stepladder.domain.verdict import Interval

Floats = NDArray[np.float64]

LEVEL = 0.8
FEWEST_POINTS = 7  # AICc of the power law (a, b, c, the variance and the kind of noise) divides by points − 6
FEWEST_SIZES = 3
EXPONENTS = tuple(np.geomspace(0.1, 2.0, 16))
"""From almost logarithmic to faster than any curve of classifiers in Viering and Loog's review."""
CORRELATIONS = ((0.0, 0.0), (0.5, 0.0), (0.8, 0.0), (0.95, 0.0), (0.0, 0.5), (0.0, 0.8), (0.45, 0.45))
"""(ρ, τ), from each point for itself to almost all noise shared; never all of it, a fit has some luck of its own."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How the noises of points hang together and how they grow towards small sizes; see above for ρ, τ and γ."""

    overlap: float = 0.0  # ρ
    size: float = 0.0  # τ
    growth: float = 0.0  # γ

    @property
    def shared(self) -> float:
        """Correlation of two trainings on the same rows."""
        return self.overlap + self.size


NOISES = tuple(Noise(overlap, size, growth) for growth in (0.0, 1.0) for overlap, size in CORRELATIONS)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Where the scores were taken: `sizes` and `draws` of shape (points,), parts of `rows` training rows."""

    sizes: Floats
    draws: NDArray[np.int64]
    rows: float
    scored_rows: int

    def scales(self, noise: Noise, rows: ArrayLike) -> Floats:
        """Standard deviation of the noise at so many rows, in those of the largest size; the shape of `rows`."""
        scales: Floats = (self.sizes.max() / np.asarray(rows, dtype=np.float64)) ** (0.5 * noise.growth)
        return scales

    def covariances(self, noise: Noise) -> Floats:
        """Between the noises of all points, in variances at the largest size; shape (points, points)."""
        same = self.draws[:, None] == self.draws[None, :]
        shared = _shared(noise, self.sizes[:, None], self.sizes[None, :], same, self.rows)
        scales = self.scales(noise, self.sizes)
        return (shared + (1.0 - noise.shared) * np.eye(len(self.sizes))) * scales[:, None] * scales[None, :]

    def covariances_with(self, noise: Noise, rows: float) -> Floats:
        """With the noise of a set of `rows` training rows that holds all of these; shape (points,)."""
        shared = _shared(noise, self.sizes, np.array(rows), np.array(True), self.rows)
        return shared * self.scales(noise, self.sizes) * self.scales(noise, rows)

    def own_variance(self, noise: Noise, rows: float, against: float | None) -> float:
        """Of the noise at `rows`, or of its difference from that at `against`, a part of the same rows or holding them."""
        own = float(self.scales(noise, rows)) ** 2
        if against is None:
            return own
        other = float(self.scales(noise, against)) ** 2
        common = min(rows, against) / max(rows, against)
        return own + noise.shared * (other - 2.0 * common * float(np.sqrt(own * other)))


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One fitted shape: s = β · features(n) + noise, with its share in the forecast."""

    form: str
    exponent: float  # of the power law
    noise: Noise
    weight: float
    beta: Floats
    spread: Floats  # (XᵀR⁻¹X)⁻¹, R the covariances
    inverse: Floats  # R⁻¹
    basis: Floats  # R⁻¹X
    residual: Floats  # R⁻¹(y − Xβ)
    variance: float  # of a point of the largest size around the curve
    freedom: int

    def features(self, rows: float) -> Floats:
        features: Floats = _features(self.form, self.exponent, np.array([rows]))[0]
        return features

    def change(self, rows: float, more_rows: float) -> float:
        """How far the curve moves between two sizes; a score moves by 1 at most."""
        return abs(self.score_at(more_rows) - self.score_at(rows))

    def score_at(self, rows: float) -> float:
        """Of the curve itself, within [0, 1]."""
        return min(1.0, max(0.0, float(self.features(rows) @ self.beta)))


@dataclass(frozen=True, slots=True)
class CurveFit:
    """All shapes, weighted; scores are in [0, 1] and so are forecasts."""

    shapes: tuple[Shape, ...]
    points: Points

    @property
    def weights(self) -> dict[str, float]:
        """Share of each form in the forecast; they sum to 1."""
        forms = dict.fromkeys(shape.form for shape in self.shapes)
        return {form: float(sum(shape.weight for shape in self.shapes if shape.form == form)) for form in forms}

    def score_at(self, rows: float, *, level: float = LEVEL) -> Interval:
        """Forecast of the score that all rows there are and others, `rows` in all, would be given on the same validation rows."""
        value, low, high = self._read_off(self._forecast(rows, None), level, 0.0)
        return Interval(value, low, high, level, "aicc-average")

    def gain_between(self, rows: float, more_rows: float, *, level: float = LEVEL) -> Interval:
        """Forecast of what going from `rows` to `more_rows` changes the score by; the new score with its noise."""
        value, low, high = self._read_off(self._forecast(more_rows, rows), level, -1.0)
        return Interval(value, low, high, level, "aicc-average")

    def probability_of_gain(self, rows: float, more_rows: float, at_least: float) -> float:
        """P(score at `more_rows` − score expected at `rows` ≥ `at_least`)."""
        return 1.0 - self._forecast(more_rows, rows).below(at_least)

    def _read_off(self, forecast: Mixture, level: float, least: float) -> tuple[float, float, float]:
        """Median and ends, these at whole rows outwards: a score is a count, and all rows right is one that is often reached."""
        value, low, high = map(forecast.quantile, _tails(level))
        rows = float(max(1, self.points.scored_rows))
        ends = np.floor(low * rows + 1e-9) / rows, np.ceil(high * rows - 1e-9) / rows
        value, low, high = np.clip([value, *ends], least, 1.0).tolist()
        return value, low, high

    def _forecast(self, rows: float, against: float | None) -> Mixture:
        """Of a score at `rows`, or of what it differs from the one expected at `against`."""
        moments = [self._moments(shape, rows, against) for shape in self.shapes]
        before = np.array([0.0 if against is None else shape.score_at(against) for shape in self.shapes])
        half = 0.5 / max(1, self.points.scored_rows)  # a count stands for half a row to either side
        return Mixture(
            np.array([shape.weight for shape in self.shapes]),
            np.array([place for place, _ in moments]),
            np.sqrt([variance for _, variance in moments]),
            np.array([float(shape.freedom) for shape in self.shapes]),
            -before - half,
            1.0 - before + half,
        )

    def _moments(self, shape: Shape, rows: float, against: float | None) -> tuple[float, float]:
        """Place and squared scale of one shape's forecast (Goldberger 1962)."""
        features, known = shape.features(rows), self.points.covariances_with(shape.noise, rows)
        own = self.points.own_variance(shape.noise, rows, against)
        if against is not None:
            features = features - shape.features(against)
            known = known - self.points.covariances_with(shape.noise, against)
        left = features - shape.basis.T @ known
        place = float(features @ shape.beta + known @ shape.residual)
        variance = shape.variance * float(own - known @ shape.inverse @ known + left @ shape.spread @ left)
        newly_right = shape.change(float(self.points.sizes.max()) if against is None else against, rows)
        return place, variance + newly_right * (1.0 - newly_right) / max(1, self.points.scored_rows)


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Student-t distributions with their weights, given that each lies between its bounds; all of shape (shapes,)."""

    weights: Floats
    places: Floats
    scales: Floats
    freedoms: Floats
    lows: Floats
    highs: Floats

    def below(self, value: float) -> float:
        """The distribution function."""
        whole = float(self.weights @ self._between(self.highs))
        if whole > 0.0:
            return min(1.0, float(self.weights @ self._between(np.clip(value, self.lows, self.highs))) / whole)
        return float(self.weights @ (np.clip(self.places, self.lows, self.highs) <= value))  # every shape is far outside

    def quantile(self, tail: float) -> float:
        low, high = float(self.lows.min()), float(self.highs.max())
        if self.below(low) >= tail:
            return low
        return float(brentq(lambda value: self.below(value) - tail, low, high, xtol=1e-6))

    def _between(self, values: Floats) -> Floats:
        """Probability from the lower bound to each value, exact in both tails."""
        start, end = (self.lows - self.places) / self.scales, (values - self.places) / self.scales
        right = start > 0
        inside: Floats = np.where(
            right,
            stdtr(self.freedoms, -start) - stdtr(self.freedoms, -end),
            stdtr(self.freedoms, end) - stdtr(self.freedoms, start),
        )
        return inside


def fit_curve(rows: ArrayLike, scores: ArrayLike, draws: ArrayLike, *, all_rows: int, scored_rows: int) -> CurveFit:
    """Fit the three shapes to all points.

    Args:
        rows: Training rows behind each point, shape (points,).
        scores: Mean validation scores in [0, 1], same shape.
        draws: Which random order of the rows each point belongs to, same shape; within one, smaller sets lie in larger ones.
        all_rows: Training rows there are.
        scored_rows: Validation rows behind each score; a score cannot be known finer than one of them.
    Raises:
        EvaluationError: Fewer than `FEWEST_POINTS` points or `FEWEST_SIZES` sizes, the shapes of the lists differ, or a score is
            outside [0, 1].
    """
    sizes, values = np.asarray(rows, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    names = np.asarray(draws, dtype=np.int64)
    if sizes.ndim != 1 or not sizes.shape == values.shape == names.shape:
        raise EvaluationError("sizes, draws and scores of a learning curve do not belong together.")
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise EvaluationError("scores of a learning curve lie between 0 and 1.")
    if len(sizes) < FEWEST_POINTS or len(np.unique(sizes)) < FEWEST_SIZES:
        raise EvaluationError(
            f"a learning curve needs {FEWEST_POINTS} points at {FEWEST_SIZES} sizes; there are {len(sizes)} "
            f"at {len(np.unique(sizes))}."
        )
    points = Points(sizes, names, float(max(all_rows, sizes.max())), scored_rows)
    forms = [("flat", (0.0,), 3), ("log-linear", (0.0,), 4), ("power law", EXPONENTS, 5)]
    fits = [list(_fits(points, values, form, exponents)) for form, exponents, _ in forms]
    criteria = [
        _aicc(min(deviance for _, deviance in own), len(values), count) for own, (_, _, count) in zip(fits, forms, strict=True)
    ]
    shares = np.exp(-0.5 * (np.array(criteria) - min(criteria)))
    shapes: list[Shape] = []
    for own, share in zip(fits, shares / shares.sum(), strict=True):
        shapes += _weighted(own, float(share))
    return CurveFit(tuple(shapes), points)


def doubling(
    rows: ArrayLike, scores: ArrayLike, draws: ArrayLike, *, all_rows: int, scored_rows: int, minimum_gain: float
) -> Doubling:
    """The forecast for twice `all_rows`, and only that: further out the shapes part and nothing is known.

    Raises:
        EvaluationError: See `fit_curve`.
    """
    fit = fit_curve(rows, scores, draws, all_rows=all_rows, scored_rows=scored_rows)
    return Doubling(
        score=fit.score_at(2 * all_rows),
        gain=fit.gain_between(all_rows, 2 * all_rows),
        probability_minimum=fit.probability_of_gain(all_rows, 2 * all_rows, minimum_gain),
        weights=fit.weights,
    )


def forecast(curve: LearningCurve, minimum_gain: float) -> LearningCurve:
    """The curve with what its points say about twice the rows; without a forecast where they are too few."""
    sizes, scores, draws = ([getattr(point, name) for point in curve.points] for name in ("rows", "score", "draw"))
    try:
        twice = doubling(sizes, scores, draws, all_rows=curve.rows, scored_rows=curve.scored_rows, minimum_gain=minimum_gain)
    except EvaluationError:
        twice = None  # so few rows that the parts coincide
    return replace(curve, minimum_gain=minimum_gain, doubling=twice)


def _tails(level: float) -> tuple[float, float, float]:
    return 0.5, (1 - level) / 2, (1 + level) / 2


def _shared(noise: Noise, sizes: Floats, others: Floats, nested: NDArray[np.bool_], all_rows: float) -> Floats:
    """Correlation through what two training sets share; drawn apart, they have sizes · others / rows rows in common."""
    common = np.where(nested, np.minimum(sizes, others), sizes * others / all_rows)
    overlap = common / (sizes + others - common)
    shared: Floats = noise.overlap * overlap + noise.size * np.minimum(sizes, others) / np.maximum(sizes, others)
    return shared


def _features(form: str, exponent: float, sizes: Floats) -> Floats:
    """Shape (sizes, 1 or 2)."""
    columns = [np.ones_like(sizes)]
    if form != "flat":
        columns.append(np.log(sizes) if form == "log-linear" else -(sizes**-exponent))
    return np.stack(columns, axis=1)


def _fits(points: Points, values: Floats, form: str, exponents: Sequence[float]) -> Iterator[tuple[Shape, float]]:
    """Every exponent under every kind of noise: the shape before it has its weight, and −2 · log-likelihood."""
    for noise in NOISES:
        matrix = points.covariances(noise)
        inverse: Floats = np.linalg.inv(matrix).astype(np.float64)
        determinant = float(np.linalg.slogdet(matrix)[1])
        for exponent in exponents:
            shape, rss = _least_squares(points, values, form, exponent, noise, inverse)
            yield shape, len(values) * float(np.log(rss / len(values))) + determinant


def _least_squares(
    points: Points, values: Floats, form: str, exponent: float, noise: Noise, inverse: Floats
) -> tuple[Shape, float]:
    """Generalised least squares; the residual sum of squares is never below what rounding alone makes."""
    features = _features(form, exponent, points.sizes)
    basis = inverse @ features
    spread: Floats = np.linalg.inv(features.T @ basis).astype(np.float64)
    beta = spread @ basis.T @ values
    left = values - features @ beta
    rounding = (1.0 / max(1, points.scored_rows)) ** 2 / 12.0
    rss = max(float(left @ inverse @ left), rounding * len(values))
    freedom = len(values) - features.shape[1]
    shape = Shape(form, exponent, noise, 0.0, beta, spread, inverse, basis, inverse @ left, rss / freedom, freedom)
    return shape, rss


def _aicc(deviance: float, points: int, parameters: int) -> float:
    """Hurvich and Tsai's corrected criterion; `parameters` counts the variance and the kind of noise."""
    return deviance + 2 * parameters * points / (points - parameters - 1)


def _weighted(own: Sequence[tuple[Shape, float]], share: float) -> list[Shape]:
    """The fits of one form, sharing its weight by likelihood."""
    logs = np.array([-0.5 * deviance for _, deviance in own])
    shares = np.exp(logs - logs.max())
    weights = share * shares / shares.sum()
    return [replace(one, weight=float(weight)) for (one, _), weight in zip(own, weights, strict=True)]
