from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import beta, binom

from stepladder.evaluation.gains import probability_better
from stepladder.evaluation.planning import (
    chance_to_pass,
    false_pass_rate,
    more_rows_for,
    pass_mark,
    power,
    rows_to_decide,
    rows_to_show,
    smallest_provable_gain,
)
from stepladder.evaluation.statistics import SeedSpread, probability_at_least

EVIDENCE = {  # rows: power at loss rates 5 and 10 % for true gains of 5, 10, 15 and 20 points (evidence 4.2)
    30: [(0.11, 0.11), (0.28, 0.23), (0.47, 0.38), (0.64, 0.54)],
    50: [(0.19, 0.16), (0.45, 0.36), (0.70, 0.57), (0.87, 0.75)],
    100: [(0.36, 0.26), (0.74, 0.58), (0.94, 0.83), (0.99, 0.95)],
    200: [(0.58, 0.41), (0.95, 0.83), (1.00, 0.98), (1.00, 1.00)],
}


def test_the_power_table_of_the_design_is_met_exactly() -> None:
    for n, row in EVIDENCE.items():
        for gain, expected in zip((0.05, 0.10, 0.15, 0.20), row, strict=True):
            found = (power(n, gain, 0.05), power(n, gain, 0.10))
            assert found == pytest.approx(expected, abs=0.0105)


def test_power_equals_adding_up_every_possible_outcome() -> None:
    n, win_rate, loss_rate = 24, 0.2, 0.1
    total = 0.0
    for wins, losses in itertools.product(range(n + 1), repeat=2):
        if wins + losses <= n and probability_better(wins, losses) >= 0.95:
            differing = wins + losses
            chance = binom.pmf(differing, n, win_rate + loss_rate) * binom.pmf(wins, differing, win_rate / (win_rate + loss_rate))
            total += float(chance)
    assert power(n, win_rate - loss_rate, loss_rate) == pytest.approx(total, abs=1e-12)


def test_equal_rungs_are_called_better_in_at_most_five_of_a_hundred_climbs() -> None:
    for n in (30, 50, 60, 100, 200, 400):
        for loss_rate in (0.01, 0.02, 0.05, 0.10):
            assert power(n, 0.0, loss_rate) <= 0.05


def test_even_where_every_row_may_differ_equal_rungs_are_called_better_in_at_most_six_of_a_hundred() -> None:
    """A mid-p is not exact: in corners (few rows, nearly all differing) it passes 5 % a little. The gain asked for hides it."""
    for n in (10, 20, 30, 50, 100, 200, 400):
        for loss_rate in (0.2, 0.35, 0.5):
            assert power(n, 0.0, loss_rate) <= 0.06


def test_five_points_need_the_rows_the_design_names() -> None:
    assert rows_to_show(0.05, 0.05) == pytest.approx(370, abs=15)
    assert rows_to_show(0.05, 0.10) == pytest.approx(610, abs=15)
    assert rows_to_show(0.0001) is None
    assert rows_to_show(0.0) is None
    rows = rows_to_show(0.10)
    assert rows is not None
    assert power(rows, 0.10) >= 0.8 > power(rows - 8, 0.10)
    assert more_rows_for(120) == rows_to_show(0.05) - 120
    assert more_rows_for(5_000) == 0


def test_the_smallest_provable_gain_is_proved_and_a_smaller_one_is_not() -> None:
    for n in (30, 100, 300):
        smallest = smallest_provable_gain(n)
        assert smallest is not None
        assert power(n, smallest) >= 0.8 > power(n, smallest - 0.005)
    assert smallest_provable_gain(3) is None
    assert smallest_provable_gain(100, cross_fit=True) > smallest_provable_gain(100)  # type: ignore[operator]


def test_fifty_five_of_sixty_must_be_right_for_85_percent() -> None:
    assert pass_mark(0.85, 60) == 55
    assert beta(56, 6).sf(0.85) >= 0.9 > beta(55, 7).sf(0.85)
    assert pass_mark(0.85, 10) is None
    assert pass_mark(1.0, 1_000) is None
    assert pass_mark(0.85, 0) is None


@pytest.mark.parametrize("cross_fit", [False, True])
def test_the_pass_mark_is_the_rule_of_the_verdict(cross_fit: bool) -> None:
    for target, n in ((0.5, 20), (0.7, 48), (0.9, 100)):
        mark = pass_mark(target, n, cross_fit=cross_fit)
        assert mark is not None
        probabilities = [probability_at_least(np.arange(n) < right, target, cross_fit=cross_fit) for right in (mark - 1, mark)]
        assert probabilities[0] < 0.9 <= probabilities[1]


def test_the_rows_to_decide_decide_on_either_side_of_the_target() -> None:
    above = rows_to_decide(0.88, 0.85, at_least=61)
    assert above is not None
    assert (
        beta(0.88 * above + 1, 0.12 * above + 1).sf(0.85) >= 0.9 > beta(0.88 * (above - 1) + 1, 0.12 * (above - 1) + 1).sf(0.85)
    )
    below = rows_to_decide(0.80, 0.85)
    assert below is not None
    assert beta(0.80 * below + 1, 0.20 * below + 1).sf(0.85) <= 0.1
    assert rows_to_decide(0.85, 0.85) is None
    assert rows_to_decide(0.88, 0.85, rows_per_effective=2.0) == pytest.approx(2 * rows_to_decide(0.88, 0.85), abs=2)  # type: ignore[operator]


def test_no_number_of_rows_decides_between_seeds_on_either_side_of_the_target() -> None:
    def decides(half_gap: float, by_chance: float) -> int | None:
        return rows_to_decide(0.94, 0.90, seeds=SeedSpread(np.array([-half_gap, half_gap]), 100, by_chance))

    alone, near, by_chance = rows_to_decide(0.94, 0.90), decides(0.02, 0.0), decides(0.06, 1.0)
    assert decides(0.06, 0.0) is None
    assert alone is not None
    assert near is not None
    assert by_chance is not None
    assert alone < near < by_chance


def test_more_contenders_make_a_false_pass_likelier_and_more_rows_rarer() -> None:
    assert false_pass_rate(0.85, 100, 1) == pytest.approx(binom.sf(pass_mark(0.85, 100) - 1, 100, 0.80))  # type: ignore[operator]
    assert false_pass_rate(0.85, 100, 4) > false_pass_rate(0.85, 100, 1)
    assert false_pass_rate(0.85, 300, 4) < false_pass_rate(0.85, 100, 4)
    assert false_pass_rate(0.99, 20, 4) == 0.0


def test_a_gain_that_leaves_no_room_for_its_losses_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot exceed 1"):
        power(50, 0.95, 0.05)


def test_the_chance_to_pass_is_that_of_meeting_the_mark_and_grows_with_the_rows() -> None:
    mark = pass_mark(0.85, 60)
    assert mark == 55
    assert chance_to_pass(0.9, 0.85, 60) == pytest.approx(sum(binom.pmf(right, 60, 0.9) for right in range(55, 61)))
    assert chance_to_pass(0.9, 0.85, 60) < chance_to_pass(0.9, 0.85, 300)
    assert chance_to_pass(0.99, 0.98, 20) == 0.0
