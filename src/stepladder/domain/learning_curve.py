"""How a rung's score grew with its training rows, and what twice as many would bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepladder.domain.verdict import Interval


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The mean validation score of a rung that saw `rows` training rows, in one random order of them."""

    rows: int
    draw: int
    score: float


@dataclass(frozen=True, slots=True)
class Doubling:
    """What twice the training rows would bring, on the same validation rows; intervals have level 0.8.

    `weights` says how much each shape of the curve counted: "flat", "log-linear", "power law".
    """

    score: Interval
    gain: Interval
    probability_minimum: float  # P(gain >= minimum_gain)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The points of one rung. `doubling` None: too few points or too few different sizes to say anything."""

    rung: str
    rows: int  # training rows there are; the points use at most seven eighths of them
    scored_rows: int  # validation rows behind every point
    points: tuple[CurvePoint, ...]
    minimum_gain: float
    doubling: Doubling | None = None
    seconds: float = 0.0

    @property
    def unlikely_to_help(self) -> bool:
        """Whether more rows of the same kind are unlikely to bring a gain worth paying for."""
        return self.doubling is not None and self.doubling.probability_minimum <= 0.1
