"""What would twice the training rows bring? Three shapes of learning curve, averaged by how well each explains the points.

With n training rows the score is taken to be one of

    flat         s = a
    log-linear   s = a + b · ln n
    power law    s = a − b · n^(−c),  c on a grid

plus noise of equal variance. Given c, all three are linear in a and b, so that each has an exact Student-t forecast; the power
law is the mixture of its exponents, weighted by their likelihood. The shapes are weighted by AICc over all (size, draw) points.
The forecast is the mixture of all these t distributions, and its interval is read off its distribution function, without any
drawing of lots.

Sources:
    Shapes: Viering, Loog (2023), The Shape of Learning Curves: a Review, IEEE TPAMI 45.
    AICc: Hurvich, Tsai (1989), Regression and time series model selection in small samples, Biometrika 76.
    Weights exp(−Δ/2) and averaging: Burnham, Anderson (2002), Model Selection and Multimodel Inference, §2.9 and §4.
    Forecast of a linear regression: Draper, Smith (1998), Applied Regression Analysis, §3.1.
    Variance of rounding, width² / 12: Sheppard (1898), Proc. London Math. Society 29.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtr

from stepladder.domain.errors import EvaluationError
from stepladder.domain.learning_curve import Doubling
from stepladder.domain.verdict import Interval

Floats = NDArray[np.float64]

LEVEL = 0.8
FEWEST_POINTS = 7  # AICc of the power law (a, b, c and the variance) divides by points − 5
FEWEST_SIZES = 3
EXPONENTS = tuple(np.geomspace(0.1, 2.0, 16))
"""From almost logarithmic to faster than any curve of classifiers in Viering and Loog's review."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One fitted shape: s = β · features(n), with its share in the forecast."""

    form: str
    exponent: float  # of the power law
    weight: float
    beta: Floats
    spread: Floats  # (XᵀX)⁻¹
    variance: float  # of a point around the curve
    freedom: int

    def features(self, rows: float) -> Floats:
        features: Floats = _features(self.form, self.exponent, np.array([rows]))[0]
        return features


@dataclass(frozen=True, slots=True)
class CurveFit:
    """All shapes, weighted; scores are in [0, 1] and so are forecasts."""

    shapes: tuple[Shape, ...]

    @property
    def weights(self) -> dict[str, float]:
        """Share of each form in the forecast; they sum to 1."""
        forms = dict.fromkeys(shape.form for shape in self.shapes)
        return {form: float(sum(shape.weight for shape in self.shapes if shape.form == form)) for form in forms}

    def score_at(self, rows: float, *, level: float = LEVEL) -> Interval:
        """Forecast of the score that another draw of so many training rows would be given on the same validation rows."""
        forecast = self._forecast(rows, None)
        value, low, high = (min(1.0, max(0.0, forecast.quantile(tail))) for tail in _tails(level))
        return Interval(value, low, high, level, "aicc-average")

    def gain_between(self, rows: float, more_rows: float, *, level: float = LEVEL) -> Interval:
        """Forecast of what going from `rows` to `more_rows` changes the score by; the new score with its noise."""
        value, low, high = map(self._forecast(more_rows, rows).quantile, _tails(level))
        return Interval(value, low, high, level, "aicc-average")

    def probability_of_gain(self, rows: float, more_rows: float, at_least: float) -> float:
        """P(score at `more_rows` − curve at `rows` ≥ `at_least`)."""
        return 1.0 - self._forecast(more_rows, rows).below(at_least)

    def _forecast(self, rows: float, against: float | None) -> Mixture:
        """Of a score at `rows`, or of what it differs from the curve at `against`."""
        contrasts = [shape.features(rows) - (0.0 if against is None else shape.features(against)) for shape in self.shapes]
        pairs = list(zip(self.shapes, contrasts, strict=True))
        return Mixture(
            np.array([shape.weight for shape in self.shapes]),
            np.array([contrast @ shape.beta for shape, contrast in pairs]),
            np.sqrt([shape.variance * (1.0 + contrast @ shape.spread @ contrast) for shape, contrast in pairs]),
            np.array([float(shape.freedom) for shape in self.shapes]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Student-t distributions with their weights; all of shape (shapes,)."""

    weights: Floats
    places: Floats
    scales: Floats
    freedoms: Floats

    def below(self, value: float) -> float:
        """The distribution function."""
        return float(self.weights @ stdtr(self.freedoms, (value - self.places) / self.scales))

    def quantile(self, tail: float) -> float:
        edge = 1.0
        while self.below(-edge) > tail or self.below(edge) < tail:
            edge *= 4.0  # a steep and badly known curve may forecast more than a score can hold
        return float(brentq(lambda value: self.below(value) - tail, -edge, edge, xtol=1e-6))


def fit_curve(rows: ArrayLike, scores: ArrayLike, *, scored_rows: int) -> CurveFit:
    """Fit the three shapes to all points.

    Args:
        rows: Training rows behind each point, shape (points,).
        scores: Mean validation scores in [0, 1], same shape.
        scored_rows: Validation rows behind each score; a score cannot be known finer than one of them.
    Raises:
        EvaluationError: Fewer than `FEWEST_POINTS` points or `FEWEST_SIZES` sizes, or the shapes of the lists differ.
    """
    sizes, values = np.asarray(rows, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if sizes.shape != values.shape or sizes.ndim != 1:
        raise EvaluationError("sizes and scores of a learning curve do not belong together.")
    if len(sizes) < FEWEST_POINTS or len(np.unique(sizes)) < FEWEST_SIZES:
        raise EvaluationError(
            f"a learning curve needs {FEWEST_POINTS} points at {FEWEST_SIZES} sizes; there are {len(sizes)} "
            f"at {len(np.unique(sizes))}."
        )
    rounding = (1.0 / max(1, scored_rows)) ** 2 / 12.0
    forms = [("flat", (0.0,), 2), ("log-linear", (0.0,), 3), ("power law", EXPONENTS, 4)]
    fits = [[_least_squares(form, exponent, sizes, values, rounding) for exponent in exponents] for form, exponents, _ in forms]
    criteria = [_aicc(min(rss for _, rss in own), len(values), count) for own, (_, _, count) in zip(fits, forms, strict=True)]
    shares = np.exp(-0.5 * (np.array(criteria) - min(criteria)))
    shapes: list[Shape] = []
    for own, share in zip(fits, shares / shares.sum(), strict=True):
        shapes += _weighted(own, float(share), len(values))
    return CurveFit(tuple(shapes))


def doubling(rows: ArrayLike, scores: ArrayLike, *, all_rows: int, scored_rows: int, minimum_gain: float) -> Doubling:
    """The forecast for twice `all_rows`, and only that: further out the shapes part and nothing is known.

    Raises:
        EvaluationError: See `fit_curve`.
    """
    fit = fit_curve(rows, scores, scored_rows=scored_rows)
    return Doubling(
        score=fit.score_at(2 * all_rows),
        gain=fit.gain_between(all_rows, 2 * all_rows),
        probability_minimum=fit.probability_of_gain(all_rows, 2 * all_rows, minimum_gain),
        weights=fit.weights,
    )


def _tails(level: float) -> tuple[float, float, float]:
    return 0.5, (1 - level) / 2, (1 + level) / 2


def _features(form: str, exponent: float, sizes: Floats) -> Floats:
    """Shape (sizes, 1 or 2)."""
    columns = [np.ones_like(sizes)]
    if form != "flat":
        columns.append(np.log(sizes) if form == "log-linear" else -(sizes**-exponent))
    return np.stack(columns, axis=1)


def _least_squares(form: str, exponent: float, sizes: Floats, values: Floats, rounding: float) -> tuple[Shape, float]:
    """The shape before it has its weight, and its residual sum of squares, never below what rounding alone makes."""
    features = _features(form, exponent, sizes)
    spread: Floats = np.linalg.inv(features.T @ features).astype(np.float64)
    beta = spread @ features.T @ values
    rss = max(float(((values - features @ beta) ** 2).sum()), rounding * len(values))
    freedom = len(values) - features.shape[1]
    return Shape(form, exponent, 0.0, beta, spread, rss / freedom, freedom), rss


def _aicc(rss: float, points: int, parameters: int) -> float:
    """Hurvich and Tsai's corrected criterion; `parameters` counts the variance."""
    return float(points * np.log(rss / points)) + 2 * parameters * points / (points - parameters - 1)


def _weighted(own: Sequence[tuple[Shape, float]], share: float, points: int) -> list[Shape]:
    """The exponents of one form, sharing its weight by likelihood: RSS^(−points/2)."""
    logs = np.array([-0.5 * points * np.log(rss) for _, rss in own])
    shares = np.exp(logs - logs.max())
    weights = share * shares / shares.sum()
    return [
        Shape(one.form, one.exponent, float(weight), one.beta, one.spread, one.variance, one.freedom)
        for (one, _), weight in zip(own, weights, strict=True)
    ]
