import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.service.layout import (
    LOG_RATIO,
    Box,
    Scale,
    finite,
    log_ticks,
    nice_ticks,
    place_labels,
    score_axis,
    shorten,
    spread,
    text_width,
    value_axis,
)

amounts = st.floats(0, 1e15, allow_subnormal=True)


def test_ticks_are_round_and_cover_the_values() -> None:
    assert nice_ticks(0.13, 0.92) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(0, 23) == [0, 5, 10, 15, 20, 25]
    assert log_ticks(0.3, 40) == [0.1, 1.0, 10.0, 100.0]


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_ticks_rise_and_are_few_for_any_values(one: float, other: float) -> None:
    ticks = nice_ticks(min(one, other), max(one, other))
    assert 2 <= len(ticks) <= 9
    assert all(later > earlier for earlier, later in itertools.pairwise(ticks))


@given(st.floats(1e-9, 1e15), st.floats(1e-9, 1e15))
def test_log_ticks_are_few_and_cover_the_values(one: float, other: float) -> None:
    ticks = log_ticks(min(one, other), max(one, other))
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= min(one, other) * 1.0001
    assert ticks[-1] >= max(one, other) * 0.9999


def test_the_axis_turns_logarithmic_when_the_spread_is_wide() -> None:
    assert not value_axis([1.0, LOG_RATIO], 0, 100)[0].log
    assert value_axis([1.0, LOG_RATIO + 1], 0, 100)[0].log


def test_free_of_charge_has_its_own_place_left_of_a_log_axis() -> None:
    scale, ticks = value_axis([0.0, 1.0, 1000.0], 50, 350)
    assert ticks == [0.0, 1.0, 10.0, 100.0, 1000.0]
    assert scale(0) == 50
    assert 50 < scale(1) < scale(10) < scale(1000) == 350


@given(st.lists(amounts, max_size=8), st.sampled_from([(40, 300), (300, 40)]))
def test_every_amount_lies_on_the_axis_in_its_order(values: list[float], ends: tuple[float, float]) -> None:
    scale, ticks = value_axis(values, *ends)
    places = [scale(value) for value in sorted(values)]
    assert all(min(ends) - 1e-6 <= place <= max(ends) + 1e-6 for place in [*places, *map(scale, ticks)])
    assert places == sorted(places, reverse=ends[0] > ends[1])


@given(st.lists(st.floats(0, 1), max_size=6))
def test_scores_use_at_least_twenty_points_of_the_range(values: list[float]) -> None:
    scale, ticks = score_axis(values, 0, 100)
    assert scale.high - scale.low >= 0.199
    assert 0 <= ticks[0] <= min(values, default=0.0) + 1e-9
    assert max(values, default=0.0) - 1e-9 <= ticks[-1] <= 1


def test_a_position_outside_the_scale_lies_on_its_edge() -> None:
    scale = Scale(0, 1, 10, 20)
    assert [scale(-5), scale(0.5), scale(7)] == [10, 15, 20]


def test_wide_signs_count_as_wide() -> None:
    assert text_width("日本", 10) > text_width("ab", 10)


def test_a_long_name_is_cut_with_an_ellipsis() -> None:
    assert shorten("few-shot", 100, 13) == "few-shot"
    cut = shorten("a-very-long-rung-name", 60, 13)
    assert cut.endswith("…")
    assert text_width(cut, 13) <= 60


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_spread_positions_keep_their_distance(positions: list[float]) -> None:
    moved = sorted(spread(positions, 15, 0, 100))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 100 + 1e-9
    assert all(later - earlier >= 15 - 1e-9 for earlier, later in itertools.pairwise(moved))


def test_positions_far_enough_apart_stay_where_they_are() -> None:
    assert spread([70.0, 20.0], 15, 0, 100) == [70.0, 20.0]


def _crowds() -> list[list[tuple[float, float]]]:
    return [
        [(150.0, 120.0)] * 12,
        [(40.0 + 12 * index, 100.0 + 3 * index) for index in range(12)],
        [(290.0, 10.0 + 4 * index) for index in range(12)],
        [(5.0, 5.0), (295.0, 5.0), (5.0, 235.0), (295.0, 235.0)],
    ]


@pytest.mark.parametrize("points", _crowds())
def test_labels_lie_on_no_other_label_and_on_no_point(points: list[tuple[float, float]]) -> None:
    bounds = Box(0, 0, 300, 240)
    boxes = place_labels(points, [90.0] * len(points), 16, bounds)
    for index, box in enumerate(boxes):
        assert box.inside(bounds)
        assert sum(box.overlap(other) for other in boxes[:index]) == 0
        assert sum(box.overlap(Box(x - 5, y - 5, 10, 10)) for x, y in points) == 0


def test_labels_stay_off_what_is_occupied() -> None:
    wall = Box(100, 0, 200, 240)
    (box,) = place_labels([(95.0, 100.0)], [60.0], 16, Box(0, 0, 300, 240), occupied=[wall])
    assert box.overlap(wall) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=10), st.floats(1, 500))
def test_every_point_gets_a_label_even_without_room(points: list[tuple[float, float]], width: float) -> None:
    assert len(place_labels(points, [width] * len(points), 16, Box(0, 0, 100, 100))) == len(points)


def test_only_finite_values_are_drawn() -> None:
    assert finite([1.0, None, math.nan, math.inf, -2.0]) == [1.0, -2.0]
