"""The learning curve over training rows as SVG text: points, their mean at each size, and the forecast for twice the rows."""

from __future__ import annotations

from itertools import groupby
from statistics import mean

from stepladder.domain.learning_curve import CurvePoint, LearningCurve
from stepladder.service.charts import SMALL, draw_dot, draw_level, draw_line, draw_path, draw_svg, draw_text
from stepladder.service.figures import number_text, one_line, rate_text
from stepladder.service.layout import Box, Scale, finite, nice_ticks, score_axis, text_width


def growth_chart(curve: LearningCurve, *, width: int, number: int) -> str:
    """One rung's curve. Empty without a point that has a score."""
    points = [point for point in curve.points if finite([point.score])]
    if not points:
        return ""
    forecast = curve.doubling.score if curve.doubling is not None else None
    plot = Box(42, 36, width - 42 - 30, 160)
    bottom = plot.y + plot.height
    ends = [] if forecast is None else finite([forecast.low, forecast.high])
    up, ticks = score_axis([*(point.score for point in points), *ends], bottom, plot.y)
    across_ticks = nice_ticks(0, 2 * curve.rows if forecast is not None else curve.rows, 4)
    across = Scale(0, max(across_ticks[-1], 2 * curve.rows), plot.x, plot.x + plot.width)
    parts = [line for tick in ticks for line in draw_level(up(tick), f"{tick * 100:g}", plot)]
    parts += [draw_text(across(tick), bottom + 18, number_text(tick), "tick", "middle") for tick in across_ticks]
    parts.append(draw_text(plot.x + plot.width, bottom + 36, "training rows", "axis", "end"))
    parts.append(draw_text(4, 14, "score, %", "axis"))
    parts.append(draw_path([(across(rows), up(score)) for rows, score in mean_scores(points)], "held-out"))
    parts += [draw_dot(across(point.rows), up(point.score), "hollow", 3) for point in points]
    words = f"{len(points)} points from {points[0].rows} to {max(point.rows for point in points)} rows."
    if forecast is not None:
        x, label = across(2 * curve.rows), "twice the rows"
        parts.append(draw_line(x, up(forecast.low), x, up(forecast.high), "whisker"))
        parts.append(draw_dot(x, up(forecast.value), "solid"))
        label_x = min(x, plot.x + plot.width + 28 - text_width(label, SMALL) / 2)
        parts.append(draw_text(label_x, plot.y - 8, label, "figure", "middle"))
        between = f"80 % between {rate_text(forecast.low)} and {rate_text(forecast.high)}"
        words += f" At {2 * curve.rows} rows: {rate_text(forecast.value)}, {between}."
    return draw_svg(
        width, int(bottom) + 44, f"growth-{number}", f"Score of {one_line(curve.rung)} by training rows", words, parts
    )


def mean_scores(points: list[CurvePoint]) -> list[tuple[float, float]]:
    """Mean rows and mean score of the draws at each size; sizes that differ by a cluster's rows count as one."""
    sized = [sorted(own, key=lambda point: point.rows) for _, own in groupby(points, lambda point: point.draw)]
    steps = zip(*sized, strict=False)
    return [(mean(point.rows for point in step), mean(point.score for point in step)) for step in steps]
