"""Worse than recorded: the statistics against scipy and statsmodels, and how often a gate closes for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from statsmodels.stats.contingency_tables import mcnemar

from stepladder.domain.errors import EvaluationError
from stepladder.evaluation.worsening import WORSE, compare_paired, compare_unpaired


def scores(*counts: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(count, value, dtype=np.float64) for count, value in counts])


def test_paired_pass_fail_rows_are_one_minus_mcnemars_one_sided_mid_p() -> None:
    before, now = scores((9, 1.0), (3, 0.0), (40, 1.0)), scores((9, 0.0), (3, 1.0), (40, 1.0))
    exact = mcnemar([[40, 9], [3, 0]], exact=True).pvalue / 2  # one-sided
    point = np.exp(np.log(1.0 * np.prod(np.arange(10, 13)) / 6) - 12 * np.log(2))  # C(12, 9) / 2^12
    found = compare_paired(before, now)
    assert found.probability_worse == pytest.approx(1 - (exact - point / 2), abs=1e-9)
    assert found.difference.value == pytest.approx(-6 / 52)
    assert found.paired
    assert found.rows == 52


def test_unchanged_rows_are_neither_better_nor_worse() -> None:
    for values in (scores((30, 1.0), (10, 0.0)), np.linspace(0, 1, 40)):
        assert compare_paired(values, values).probability_worse == pytest.approx(0.5, abs=0.02)
        assert compare_unpaired(values, values).probability_worse == pytest.approx(0.5, abs=0.02)


def test_other_pass_fail_rows_are_two_beta_posteriors() -> None:
    grid = (np.arange(4000) + 0.5) / 4000
    exact = float(np.mean(beta.cdf(beta.ppf(grid, 46, 6), 41, 11)))  # P(now < recorded): 45 of 50 then, 40 of 50 now
    found = compare_unpaired(scores((45, 1.0), (5, 0.0)), scores((40, 1.0), (10, 0.0)))
    assert found.probability_worse == pytest.approx(exact, abs=0.015)
    assert not found.paired
    assert found.difference.value == pytest.approx(-0.1)
    assert found.difference.low < -0.1 < found.difference.high


def test_a_clear_fall_closes_the_gate_and_a_rise_does_not() -> None:
    rng = np.random.default_rng(0)
    high, low = np.clip(0.8 + 0.1 * rng.normal(size=60), 0, 1), np.clip(0.6 + 0.1 * rng.normal(size=60), 0, 1)
    for compare in (compare_paired, compare_unpaired):
        assert compare(high, low).worse
        assert compare(low, high).probability_worse < 0.01


@pytest.mark.parametrize("graded", [False, True])
def test_an_unchanged_rung_closes_the_gate_about_once_in_twenty(graded: bool) -> None:
    rng = np.random.default_rng(3)
    draw = (lambda: rng.beta(4, 2, size=50)) if graded else (lambda: (rng.random(50) < 0.8).astype(np.float64))
    closed = np.mean(
        [[compare(draw(), draw()).worse for compare in (compare_paired, compare_unpaired)] for _ in range(60)], axis=0
    )
    assert WORSE == 0.95
    assert (closed <= 0.15).all()


def test_seeds_that_differ_make_it_less_sure_also_where_few_rows_differ() -> None:
    recorded = np.vstack([np.ones(120), np.arange(120) >= 14]).astype(float)
    now = scores((102, 1.0), (18, 0.0))
    assert compare_unpaired(recorded.mean(axis=0), now).probability_worse > 0.95
    assert compare_unpaired(recorded, now).probability_worse < 0.9


def test_duplicates_and_cross_fitting_make_it_less_sure() -> None:
    before, now = scores((45, 1.0), (5, 0.0)), scores((38, 1.0), (12, 0.0))
    plain = compare_unpaired(before, now).probability_worse
    twins = np.repeat(np.arange(25), 2)
    assert compare_unpaired(before, now, twins, twins).probability_worse < plain
    assert compare_unpaired(before, now, cross_fit=True).probability_worse < plain


def test_several_recorded_seeds_are_taken_as_they_are_and_rows_without_a_score_left_out() -> None:
    seeds = np.stack([scores((40, 1.0), (10, 0.0)), scores((44, 1.0), (6, 0.0))])
    now = scores((30, 1.0), (19, 0.0), (1, np.nan))
    assert compare_paired(seeds, now).rows == 49
    assert compare_paired(seeds, now).worse
    assert compare_unpaired(seeds, now).worse
    with pytest.raises(EvaluationError):
        compare_unpaired(seeds, np.full(3, np.nan))
