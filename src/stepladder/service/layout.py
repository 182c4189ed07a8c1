"""Where things go in a chart: scales, ticks, and labels that do not lie on one another. Lengths are SVG user units (pixels)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOG_RATIO = 20  # a wider spread of values than this is drawn on a log axis
SMALLEST = 1e-9  # amounts and differences below this are drawn as none
ZERO_SLOT = 22  # room beside a log axis for values of 0, which have no logarithm


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; `x`, `y` is its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Shared area."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, across) * max(0.0, down)

    def inside(self, other: Box) -> bool:
        return (
            self.x >= other.x
            and self.y >= other.y
            and self.x + self.width <= other.x + other.width
            and self.y + self.height <= other.y + other.height
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Values `low` to `high` onto positions `start` to `end`; values outside lie on the edge.

    On a log axis with `zero_slot`, values of 0 lie at `start` and the axis begins behind the slot.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    zero_slot: bool = False

    def __call__(self, value: float) -> float:
        if self.log and value <= SMALLEST:
            return self.start
        share = (self._place(value) - self._place(self.low)) / (self._place(self.high) - self._place(self.low))
        first = self.start + math.copysign(ZERO_SLOT, self.end - self.start) if self.zero_slot else self.start
        return first + min(1.0, max(0.0, share)) * (self.end - first)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.log else value


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values from at or below `low` to at or above `high`, steps of 1, 2 or 5 times a power of ten."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), SMALLEST):
        half = abs(low) / 2 if abs(low) > SMALLEST else 0.5
        low, high = low - half, low + half
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from at or below `low` to at or above `high` (both > 0), thinned to at most six."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = math.ceil((last - first) / 5)
    return [10.0**power for power in range(first, last + step, step)]


def value_axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """Scale and ticks for amounts >= 0: from 0 up, or log once the spread is more than `LOG_RATIO`."""
    positive = [value for value in values if value > SMALLEST]
    if positive and max(positive) > LOG_RATIO * min(positive):
        ticks = log_ticks(min(positive), max(positive))
        zero = len(positive) < len(values)
        return Scale(ticks[0], ticks[-1], start, end, log=True, zero_slot=zero), [0.0, *ticks] if zero else ticks
    ticks = nice_ticks(0.0, max(positive, default=1.0), 4)
    return Scale(ticks[0], ticks[-1], start, end), ticks


def score_axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """Scale and ticks for scores in [0, 1]: only as much of the range as is used, but at least 20 points."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = max(0.0, min(low, 0.8)), min(1.0, max(high, low + 0.2))
    ticks = [tick for tick in nice_ticks(low, high) if -1e-9 <= tick <= 1 + 1e-9]
    return Scale(ticks[0], ticks[-1], start, end), ticks


def text_width(text: str, size: float) -> float:
    """Estimated width of a text in a sans-serif font, on the wide side."""
    return sum(1.05 if unicodedata.east_asian_width(sign) in "WF" else 0.6 for sign in text) * size


def shorten(text: str, room: float, size: float) -> str:
    """`text`, or as much of its beginning as fits into `room`, with an ellipsis."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved as little as need be to lie `gap` apart within `low` to `high`, in their order of size."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = list(positions)
    edge = low
    for index in order:
        moved[index] = max(moved[index], edge)
        edge = moved[index] + gap
    edge = high
    for index in reversed(order):
        moved[index] = min(moved[index], edge)
        edge = moved[index] - gap
    return moved


def place_labels(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    height: float,
    bounds: Box,
    *,
    radius: float = 6,
    occupied: Sequence[Box] = (),
) -> list[Box]:
    """A box for the label of each point: near it, within `bounds`, on no point, no other label and nothing `occupied`.

    Tries right, left, above, below and the corners, then the same further out; where a chart is so full that nothing is
    free, the place that hides least.
    """
    marks = [Box(x - radius, y - radius, 2 * radius, 2 * radius) for x, y in points]
    placed: list[Box] = []
    for point, width in zip(points, widths, strict=True):
        taken = [*marks, *occupied, *placed]
        best, least = None, math.inf
        for candidate in _places(point, width, height, bounds, radius):
            hidden = sum(candidate.overlap(other) for other in taken)
            if hidden < least:
                best, least = candidate, hidden
            if least == 0:
                break
        placed.append(best or Box(bounds.x, bounds.y, width, height))
    return placed


def _places(point: tuple[float, float], width: float, height: float, bounds: Box, radius: float) -> Iterable[Box]:
    x, y = point
    for ring in range(12):
        reach = radius + 3 + ring * (height * 0.6)
        right, left, middle = x + reach, x - reach - width, x - width / 2
        above, below, level = y - reach - height, y + reach, y - height / 2
        for place in (
            (right, level), (left, level), (middle, above), (middle, below),
            (right, above), (right, below), (left, above), (left, below),
        ):  # fmt: skip
            box = Box(*place, width, height)
            if box.inside(bounds):
                yield box
    # a crowd: any free line of the chart, nearest first
    lines = [bounds.y + number * height for number in range(max(1, int(bounds.height // height)))]
    for line in sorted(lines, key=lambda top: abs(top + height / 2 - y)):
        spare = max(0.0, bounds.width - width)
        for share in (1.0, 0.5, 0.0):
            yield Box(bounds.x + share * spare, line, width, height)
