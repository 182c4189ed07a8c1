"""The report's charts as SVG text, drawn without a browser: scores, score against cost, learning.

Colours are the page's own (CSS classes), so a chart follows light and dark. Every chart is drawn for a given width: the
report holds a wide and a narrow one, since a shrunk chart cannot be read on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypedDict

from stepladder.domain.climb import RungResult
from stepladder.domain.protocols import TrainPoint
from stepladder.domain.verdict import Interval
from stepladder.service.figures import CALLS, interval_text, number_text, one_line, rate_text, setting_text
from stepladder.service.layout import (
    Box,
    Scale,
    finite,
    nice_ticks,
    place_labels,
    score_axis,
    shorten,
    spread,
    text_width,
    value_axis,
)

SIZE = 13.0  # font size, as in the report's style sheet
SMALL = 12.0
NARROW = 520  # below this width labels stand above their row
HISTORY_POINTS = 240  # more points than this are thinned: the eye sees no more


class Marks(TypedDict):
    """What a chart of scores points out."""

    chosen: str | None
    target: float | None


@dataclass(frozen=True, slots=True)
class Spot:
    """A rung in the chart of score against cost. `cost` is per 1,000 calls; `confirmed` = a test score."""

    name: str
    cost: float
    score: float
    confirmed: bool


def forest(rungs: Sequence[RungResult], *, width: int, chosen: str | None, target: float | None) -> str:
    """Scores with intervals, one row a rung: validation hollow, test filled. Empty when nothing was scored."""
    scored = [rung for rung in rungs if finite(_values(rung.validation)) or finite(_values(rung.test))]
    if not scored:
        return ""
    names = [f"★ {one_line(rung.name)}" if rung.name == chosen else one_line(rung.name) for rung in scored]
    narrow = width < NARROW
    gutter = 10.0 if narrow else min(220.0, max(text_width(name, SIZE) for name in names) + 24)
    row_height, top = (62 if narrow else 44), 26
    bottom = top + row_height * len(scored)
    values = finite([end for rung in scored for one in (rung.validation, rung.test) for end in _values(one)] + [target])
    scale, ticks = score_axis(values, gutter, width - (112 if not narrow else 102))
    parts = _vertical_grid(scale, ticks, top, bottom)
    if target is not None:
        parts.append(_target_line(scale(target), target, top, bottom))
    for number, (rung, name) in enumerate(zip(scored, names, strict=True)):
        parts += _forest_row(rung, name, scale, top + number * row_height, row_height, width, gutter, rung.name == chosen)
    words = "; ".join(
        f"{name}: validation {interval_text(rung.validation)}, test {interval_text(rung.test)}"
        for rung, name in zip(scored, names, strict=True)
    )
    return draw_svg(width, bottom + 26, "forest", "Scores with their intervals", words, parts)


def _forest_row(
    rung: RungResult, name: str, scale: Scale, top: float, height: float, width: int, gutter: float, chosen: bool
) -> list[str]:
    narrow = width < NARROW
    weight = "label strong" if chosen else "label"
    if narrow:
        label = draw_text(gutter, top + 17, shorten(name, width - 2 * gutter, SIZE), weight)
        first = top + 33.0
    else:
        label = draw_text(gutter - 12, top + height / 2 + 4, shorten(name, gutter - 14, SIZE), weight, "end")
        first = top + 14.0
    parts = [label]
    pairs = [(interval, kind) for interval, kind in ((rung.validation, "hollow"), (rung.test, "solid")) if interval is not None]
    shown = [(interval, kind) for interval, kind in pairs if finite([interval.value])]
    for number, (interval, kind) in enumerate(shown):
        y = first + (17 * number if len(shown) == 2 else 0 if narrow else 8)
        low, high = (
            scale(end) for end in (finite([interval.low, interval.value])[0], finite([interval.high, interval.value])[0])
        )
        parts.append(draw_line(low, y, high, y, f"whisker {kind}{' win' if chosen else ''}"))
        parts.append(draw_dot(scale(interval.value), y, f"{kind}{' win' if chosen else ''}"))
        parts.append(draw_text(width - 4, y + 4, interval_text(interval), "figure", "end"))
    return parts


def score_against_cost(rungs: Sequence[RungResult], *, width: int, chosen: str | None, target: float | None) -> str:
    """Score against the price of 1,000 calls, cheap on the left. Empty when nothing was scored."""
    in_usd, spots = cost_spots(rungs)
    if not spots:
        return ""
    unit, factor = ("US dollars", 1.0) if in_usd else _time_unit(max(spot.cost for spot in spots))
    height, plot = 316, Box(46, 6, width - 62, 262)
    across, cost_ticks = value_axis([spot.cost / factor for spot in spots], plot.x + 10, plot.x + plot.width - 10)
    up, score_ticks = score_axis(finite([*(spot.score for spot in spots), target]), plot.y + plot.height - 8, plot.y + 8)
    bottom = plot.y + plot.height
    parts = [line for tick in score_ticks for line in draw_level(up(tick), f"{tick * 100:g}", plot)]
    for tick in cost_ticks:
        parts.append(draw_line(across(tick), plot.y, across(tick), bottom, "grid"))
        parts.append(draw_text(across(tick), bottom + 18, f"{tick:,.6g}", "tick", "middle"))
    points = [(across(spot.cost / factor), up(spot.score)) for spot in spots]
    log = ", log scale" if across.log else ""
    parts.append(draw_text(plot.x + plot.width, bottom + 40, f"{unit} per {CALLS:,} calls{log}", "axis", "end"))
    label, aim = _level_target(target, up, plot, points)
    parts += [*aim, *_spot_marks(spots, points, plot, label, chosen)]
    words = "; ".join(f"{one_line(spot.name)}: {_spot_words(spot)} at {number_text(spot.cost / factor)} {unit}" for spot in spots)
    return draw_svg(width, height, "cost", "Score against cost", words, parts)


def _spot_words(spot: Spot) -> str:
    return f"{rate_text(spot.score)} ({'test' if spot.confirmed else 'validation'})"


def _level_target(
    target: float | None, up: Scale, plot: Box, points: Sequence[tuple[float, float]]
) -> tuple[list[Box], list[str]]:
    """The target's line with its label where the line is emptiest, and the room the label takes."""
    if target is None:
        return [], []
    y, words = up(target), f"target {setting_text(target)}"
    wide = text_width(words, SMALL)
    spare = plot.width - wide - 4
    places = [Box(plot.x + 4 + share * spare, y - 5 - SMALL, wide, SMALL + 8) for share in (1.0, 0.0, 0.75, 0.5, 0.25)]
    marks = [Box(at - 50, height - 12, 100, 24) for at, height in points]  # a point and the beginning of its label
    label = min(places, key=lambda box: sum(box.overlap(mark) for mark in marks))
    return [label], [
        draw_line(plot.x, y, plot.x + plot.width, y, "target"),
        draw_text(label.x + wide / 2, y - 5, words, "target-label", "middle"),
    ]


def cost_spots(rungs: Sequence[RungResult]) -> tuple[bool, list[Spot]]:
    """What to plot, and whether costs are dollars: only when every scored rung has a price, else machine seconds."""
    scored = []
    for rung in rungs:
        best = rung.test if rung.test is not None else rung.validation
        if best is not None and finite([best.value]):
            scored.append((rung, best.value))
    in_usd = bool(scored) and all(rung.cost.usd_per_call is not None for rung, _ in scored)
    spots = []
    for rung, score in scored:
        cost = rung.cost.usd_per_call if in_usd else rung.cost.seconds_per_call
        if cost is not None and finite([cost * CALLS]):
            spots.append(Spot(rung.name, cost * CALLS, score, rung.test is not None))
    return in_usd, spots


def _spot_marks(
    spots: Sequence[Spot], points: Sequence[tuple[float, float]], plot: Box, occupied: Sequence[Box], chosen: str | None
) -> list[str]:
    names = [
        shorten(f"★ {one_line(spot.name)}" if spot.name == chosen else one_line(spot.name), plot.width * 0.6, SIZE)
        for spot in spots
    ]
    boxes = place_labels(points, [text_width(name, SIZE) for name in names], SIZE + 3, plot, occupied=occupied)
    parts = []
    for spot, name, (x, y), box in zip(spots, names, points, boxes, strict=True):
        win = " win" if spot.name == chosen else ""
        # a label that had to move away is tied to its point
        nearest_x = min(max(x, box.x), box.x + box.width)
        nearest_y = min(max(y, box.y), box.y + box.height)
        if abs(nearest_x - x) + abs(nearest_y - y) > 20:
            parts.append(draw_line(x, y, nearest_x, nearest_y, "tie"))
        parts.append(draw_dot(x, y, ("solid" if spot.confirmed else "hollow") + win))
        # the estimated width is on the wide side: a label left of its point is set against it
        end = box.x + box.width <= x
        style = "label strong" if win else "label"
        parts.append(draw_text(box.x + box.width if end else box.x, box.y + SIZE - 1, name, style, "end" if end else "start"))
    return parts


def learning(rung: RungResult, *, width: int, number: int) -> str:
    """Training loss and held-out loss by step for one tuned rung, the kept step marked. Empty without history."""
    points = [point for point in thinned(rung.history) if finite([point.loss])]
    if not points:
        return ""
    held_out = [(point.step, point.held_out_nll) for point in rung.history if point.held_out_nll is not None]
    held_out = [(step, nll) for step, nll in held_out if finite([nll])]
    plot = Box(42, 36, width - 42 - 74, 160)
    steps = [point.step for point in points] + [step for step, _ in held_out]
    across_ticks = nice_ticks(min(0, *steps), max(*steps, 1), 4)
    across = Scale(across_ticks[0], across_ticks[-1], plot.x, plot.x + plot.width)
    losses = [point.loss for point in points] + [nll for _, nll in held_out]
    ticks = nice_ticks(min(0.0, *losses), max(losses), 4)
    up = Scale(ticks[0], ticks[-1], plot.y + plot.height, plot.y)
    parts = [line for tick in ticks for line in draw_level(up(tick), f"{tick:g}", plot)]
    bottom = plot.y + plot.height
    parts += [draw_text(across(tick), bottom + 18, f"{tick:,g}", "tick", "middle") for tick in across_ticks]
    parts.append(draw_text(plot.x + plot.width, bottom + 36, "optimizer step", "axis", "end"))
    parts.append(draw_text(4, 14, "nats per learned token", "axis"))
    parts.append(draw_path([(across(point.step), up(point.loss)) for point in points], "training"))
    parts.append(draw_path([(across(step), up(nll)) for step, nll in held_out], "held-out"))
    parts += [draw_dot(across(step), up(nll), "held-out-dot", 2.5) for step, nll in held_out]
    parts += _curve_labels(across, up, points, held_out, plot)
    words, mark = _kept_mark(rung, across, up, held_out, plot)
    last = f"Training loss {points[-1].loss:.3g} at step {points[-1].step}"
    return draw_svg(
        width, int(bottom) + 44, f"learning-{number}", f"Learning of {one_line(rung.name)}", f"{last}. {words}", parts + mark
    )


def kept_step(rung: RungResult) -> tuple[int, bool] | None:
    """The step whose weights were kept, and whether the recipe says so; else the lowest held-out loss; None without either."""
    adapters = rung.recipe.get("adapters")
    first = adapters[0] if isinstance(adapters, (list, tuple)) and adapters else None
    kept = first.get("best_step") if isinstance(first, Mapping) else None  # the history is the first seed's, too
    if isinstance(kept, int) and not isinstance(kept, bool) and any(point.step == kept for point in rung.history):
        return kept, True
    measured = [(point.held_out_nll, point.step) for point in rung.history if point.held_out_nll is not None]
    measured = [pair for pair in measured if finite([pair[0]])]
    return (min(measured)[1], False) if measured else None


def thinned(history: Sequence[TrainPoint], most: int = HISTORY_POINTS) -> list[TrainPoint]:
    """At most about `most` points, evenly spread, the last one always among them."""
    if len(history) <= most:
        return list(history)
    stride = -(-len(history) // most)
    kept = list(history[::stride])
    return kept if kept[-1] == history[-1] else [*kept, history[-1]]


def _kept_mark(
    rung: RungResult, across: Scale, up: Scale, held_out: Sequence[tuple[int, float]], plot: Box
) -> tuple[str, list[str]]:
    kept = kept_step(rung)
    if kept is None:
        return "No held-out loss was measured.", []
    step, said = kept
    words = f"{'kept' if said else 'lowest'}: step {number_text(step)}"
    x, nlls = across(step), [nll for at, nll in held_out if at == step]
    half = text_width(words, SMALL) / 2
    label_x = min(max(x, plot.x + half), plot.x + plot.width + 70 - half)
    parts = [
        draw_line(x, plot.y, x, plot.y + plot.height, "kept"),
        draw_text(label_x, plot.y - 5, words, "figure strong", "middle"),
    ]
    return f"Held-out loss, {words}.", parts + [draw_dot(x, up(nll), "ring", 5.5) for nll in nlls[:1]]


def _curve_labels(
    across: Scale, up: Scale, points: Sequence[TrainPoint], held_out: Sequence[tuple[int, float]], plot: Box
) -> list[str]:
    ends = [(up(points[-1].loss), "training", "training-label")]
    if held_out:
        ends.append((up(held_out[-1][1]), "held-out", "held-out-label"))
    places = spread([end for end, _, _ in ends], 15, plot.y + 8, plot.y + plot.height - 2)
    last = max([point.step for point in points] + [step for step, _ in held_out])
    x = across(last) + 7
    return [draw_text(x, y + 4, words, style) for y, (_, words, style) in zip(places, ends, strict=True)]


def _time_unit(most_seconds: float) -> tuple[str, float]:
    if most_seconds < 120:
        return "machine seconds", 1.0
    return ("machine minutes", 60.0) if most_seconds < 7200 else ("machine hours", 3600.0)


def _values(interval: Interval | None) -> tuple[float, ...]:
    return () if interval is None else (interval.value, interval.low, interval.high)


# SVG ------------------------------------------------------------------------------------------------------------------


def draw_svg(width: int, height: float, name: str, title: str, words: str, parts: Sequence[str]) -> str:
    key = f"{name}-{width}"
    return (
        f'<svg viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-desc">{escape(words)}</desc>{"".join(parts)}</svg>'
    )


def _vertical_grid(scale: Scale, ticks: Sequence[float], top: float, bottom: float) -> list[str]:
    parts = []
    for tick in ticks:
        parts.append(draw_line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(draw_text(scale(tick), bottom + 18, f"{tick * 100:g}{' %' if tick == ticks[-1] else ''}", "tick", "middle"))
    return parts


def draw_level(y: float, words: str, plot: Box) -> list[str]:
    return [draw_line(plot.x, y, plot.x + plot.width, y, "grid"), draw_text(plot.x - 8, y + 4, words, "tick", "end")]


def _target_line(x: float, target: float, top: float, bottom: float) -> str:
    return draw_line(x, top - 4, x, bottom, "target") + draw_text(
        x, top - 9, f"target {setting_text(target)}", "target-label", "middle"
    )


def draw_text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'


def draw_line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def draw_dot(x: float, y: float, style: str, radius: float = 5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{style}"/>'


def draw_path(points: Sequence[tuple[float, float]], style: str) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{steps}" class="{style}"/>' if points else ""
