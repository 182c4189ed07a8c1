from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar

from stepladder.domain.errors import EvaluationError
from stepladder.evaluation.gains import WinLoss, gain, probability_better, rows_to_prove


def pairs(wins: int, losses: int, ties: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.array([0.0] * wins + [1.0] * losses + [1.0] * ties)
    after = np.array([1.0] * wins + [0.0] * losses + [1.0] * ties)
    return before, after


def test_the_probability_of_being_better_is_one_minus_the_one_sided_mid_p_of_mcnemar() -> None:
    for differing in range(1, 41):
        for wins in range(differing + 1):
            mid_p = binom.sf(wins, differing, 0.5) + 0.5 * binom.pmf(wins, differing, 0.5)
            assert probability_better(wins, differing - wins) == pytest.approx(1 - mid_p, abs=1e-12)


@pytest.mark.parametrize(("wins", "losses"), [(9, 2), (5, 5), (14, 1), (3, 0), (30, 12)])
def test_the_exact_mcnemar_test_of_statsmodels_differs_only_by_its_full_point_mass(wins: int, losses: int) -> None:
    exact = mcnemar([[50, losses], [wins, 20]], exact=True).pvalue
    one_sided = (1 - probability_better(wins, losses)) + 0.5 * binom.pmf(wins, wins + losses, 0.5)
    assert exact == pytest.approx(min(1.0, 2 * one_sided), abs=1e-12)


@pytest.mark.parametrize("counts", [(9, 5, 106), (3, 0, 20), (0, 0, 30), (12, 12, 0), (7.2, 4, 40.8), (0, 9, 300)])
def test_the_quadrature_equals_drawing_from_the_dirichlet(counts: tuple[float, float, float]) -> None:
    draws = np.random.default_rng(0).dirichlet(np.array(counts) + 1, 400_000)
    gains = draws[:, 0] - draws[:, 1]
    posterior = WinLoss(*counts)
    assert posterior.better() == pytest.approx((gains > 0).mean(), abs=0.003)
    assert posterior.at_least(0.0) == pytest.approx(posterior.better(), abs=1e-4)
    for smallest in (0.03, -0.03, 0.1, -0.2):
        assert posterior.at_least(smallest) == pytest.approx((gains >= smallest).mean(), abs=0.003)
    assert posterior.bounds(0.95) == pytest.approx(np.quantile(gains, (0.025, 0.975)), abs=0.003)


def test_a_gain_counts_rows_and_keeps_the_observed_difference() -> None:
    before, after = pairs(9, 5, 106)
    result = gain(before, after, minimum_gain=0.03, names=("few-shot", "lora"))
    assert (result.baseline, result.candidate) == ("few-shot", "lora")
    assert (result.wins, result.losses, result.ties) == (9, 5, 106)
    assert result.interval.value == pytest.approx(4 / 120)
    assert result.interval.low < 0 < result.interval.high
    assert result.probability_better == pytest.approx(probability_better(9, 5))
    assert result.probability_not_worse > result.probability_better > result.probability_minimum


def test_turned_round_a_gain_is_its_own_opposite() -> None:
    before, after = pairs(9, 5, 40)
    one, other = gain(before, after, minimum_gain=0.05), gain(after, before, minimum_gain=0.05)
    assert other.interval.value == -one.interval.value
    assert other.probability_better == pytest.approx(1 - one.probability_better)
    assert other.probability_minimum == pytest.approx(1 - one.probability_not_worse, abs=1e-3)


def test_cross_fitting_divides_wins_and_losses() -> None:
    before, after = pairs(15, 5, 60)
    result = gain(before, after, minimum_gain=0.03, cross_fit=True)
    assert (result.wins, result.losses) == (15, 5)
    assert result.probability_better == pytest.approx(probability_better(12, 4))


def test_cross_fitting_widens_graded_gains_by_about_a_quarter_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.2, 0.8, 200)
    after = before + rng.uniform(-0.1, 0.2, 200)
    plain, crossed = (gain(before, after, minimum_gain=0.03, cross_fit=flag).interval for flag in (False, True))
    assert (crossed.high - crossed.low) / (plain.high - plain.low) == pytest.approx(1.25**0.5, rel=0.04)


def test_the_bootstrap_agrees_with_the_exact_rule_on_pass_and_fail_rows() -> None:
    before, after = pairs(12, 6, 80)
    exact = gain(before, after, minimum_gain=0.03)
    twice = gain(np.vstack([before, before]), after, minimum_gain=0.03)
    assert twice.interval.method == "bootstrap"
    assert twice.probability_better == pytest.approx(exact.probability_better, abs=0.01)
    assert twice.probability_minimum == pytest.approx(exact.probability_minimum, abs=0.02)


def test_rows_of_one_cluster_count_less() -> None:
    before, after = pairs(9, 1, 50)
    alone = gain(before, after, minimum_gain=0.03)
    clusters = [0] * 9 + list(range(1, 52))  # all nine wins are near-duplicates of one another
    assert gain(before, after, minimum_gain=0.03, clusters=clusters).probability_better < 0.9 < alone.probability_better


def test_seeds_that_disagree_make_a_gain_less_sure() -> None:
    before, after = pairs(12, 2, 86)
    same = gain(before, np.vstack([after, after]), minimum_gain=0.03)
    lucky, unlucky = pairs(24, 0, 76)[1], before
    apart = gain(before, np.vstack([lucky, unlucky]), minimum_gain=0.03)
    assert apart.interval.high - apart.interval.low > same.interval.high - same.interval.low
    assert apart.probability_better < same.probability_better


def test_graded_gains_are_the_same_whatever_the_scale_of_the_differences() -> None:
    rng = np.random.default_rng(4)
    shifts = rng.normal(0.3, 1.0, 60)
    wide, narrow = (gain(np.full(60, 0.5), 0.5 + shifts * scale, minimum_gain=0.001) for scale in (0.1, 0.01))
    assert wide.probability_better == narrow.probability_better


def test_ungraded_rows_of_either_rung_are_left_out() -> None:
    result = gain([1.0, np.nan, 0.0, 1.0], [1.0, 1.0, np.nan, 0.0], minimum_gain=0.03)
    assert (result.interval.items, result.interval.ungraded, result.losses) == (2, 2, 1)


def test_rungs_with_nothing_in_common_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="different numbers of rows"):
        gain([1.0], [1.0, 0.0], minimum_gain=0.03)
    with pytest.raises(EvaluationError, match="no row has a score from both"):
        gain([np.nan, 1.0], [1.0, np.nan], minimum_gain=0.03)


COUNTS = [(60, wins, losses) for wins in range(2, 25) for losses in range(wins - 1)]


@pytest.mark.parametrize("cross_fit", [False, True])
def test_the_rows_to_prove_a_gain_prove_it_and_one_fewer_do_not(cross_fit: bool) -> None:
    for n, wins, losses in COUNTS:
        observed = gain(*pairs(wins, losses, n - wins - losses), minimum_gain=0.03, cross_fit=cross_fit)
        rows = rows_to_prove(observed)
        assert rows is not None

        def better(rows: int, n: int = n, wins: int = wins, losses: int = losses) -> float:
            grown = rows / n / (1.25 if cross_fit else 1)
            return probability_better(wins * grown, losses * grown)

        assert better(rows) >= 0.95
        assert rows == n + 1 or better(rows - 1) < 0.95


def test_a_gain_that_was_not_seen_is_proved_by_no_number_of_rows() -> None:
    assert rows_to_prove(gain(*pairs(6, 10, 104), minimum_gain=0.03)) is None
    assert rows_to_prove(gain(*pairs(6, 6, 104), minimum_gain=0.03)) is None


def test_the_rows_to_prove_a_graded_gain_come_close() -> None:
    rng = np.random.default_rng(1)
    before = rng.uniform(0.3, 0.7, 60)
    after = np.clip(before + rng.normal(0.02, 0.15, 60), 0, 1)
    observed = gain(before, after, minimum_gain=0.01)
    rows = rows_to_prove(observed)
    assert rows is not None
    assert 60 < rows < 1_000
    chosen = np.linspace(0, 60, rows, endpoint=False).astype(int)  # each row as often as the next
    assert gain(before[chosen], after[chosen], minimum_gain=0.01).probability_better == pytest.approx(0.95, abs=0.02)


def seldom_failing(
    rng: np.random.Generator, n: int, failing: tuple[float, float] = (0.0, 0.05)
) -> tuple[np.ndarray, np.ndarray, float]:
    """Graded scores of two rungs that fail wholly on these shares of the rows, and their true gain."""
    level = 0.90 + rng.normal(0, 0.02, n)
    before = np.where(rng.random(n) < failing[0], 0.0, level)
    after = np.where(rng.random(n) < failing[1], 0.0, np.clip(level + 0.01, 0, 1))
    return before, after, 0.91 * (1 - failing[1]) - 0.90 * (1 - failing[0])


@pytest.mark.parametrize(("n", "repeats"), [(40, 150), *(pytest.param(n, 2_000, marks=pytest.mark.long) for n in (40, 60, 100))])
def test_a_rung_that_seldom_fails_wholly_and_is_worse_by_just_more_is_called_not_worse_in_at_most_five_of_a_hundred(
    n: int, repeats: int
) -> None:
    rng, called = np.random.default_rng(2026), 0
    for _ in range(repeats):
        before, after, true = seldom_failing(rng, n)
        called += gain(before, np.vstack([after, after]), minimum_gain=-true - 0.001).probability_not_worse >= 0.95
    assert called / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


@pytest.mark.parametrize("failing", [(0.0, 0.05), (0.05, 0.0)], ids=["the candidate fails", "the baseline fails"])
@pytest.mark.parametrize("repeats", [150, pytest.param(2_000, marks=pytest.mark.long)])
def test_the_interval_of_a_gain_covers_the_truth_where_one_rung_seldom_fails_wholly(
    repeats: int, failing: tuple[float, float]
) -> None:
    rng, hits = np.random.default_rng(2026), 0
    for _ in range(repeats):
        before, after, true = seldom_failing(rng, 40, failing)
        interval = gain(before, after, minimum_gain=0.03).interval
        hits += interval.low <= true <= interval.high
    assert hits / repeats >= 0.92 - (3 * (0.92 * 0.08 / repeats) ** 0.5 if repeats < 1_000 else 0)


def test_a_failure_not_seen_yet_speaks_against_a_rung_that_may_be_worse_and_not_against_a_better_one() -> None:
    before = np.random.default_rng(3).uniform(0.85, 0.95, 60)
    found = gain(before, before + 0.01, minimum_gain=0.03)
    assert found.probability_better > 0.95
    assert found.probability_not_worse < 0.95  # 3 of 60 rows may fail: 5 points of 90
    assert gain(np.tile(before, 3), np.tile(before + 0.01, 3), minimum_gain=0.03).probability_not_worse > 0.95


@pytest.mark.parametrize("repeats", [60, pytest.param(1_000, marks=pytest.mark.long)])
def test_the_interval_of_a_gain_covers_the_mean_of_all_trainings(repeats: int) -> None:
    rng, hits = np.random.default_rng(2026), 0
    for _ in range(repeats):
        luck = rng.random(200)
        after = luck < rng.normal(0.80, 0.10, (2, 1))
        interval = gain(luck < 0.7, after, minimum_gain=0.03).interval
        hits += interval.low <= 0.10 <= interval.high
    assert hits / repeats >= 0.92 - (3 * (0.92 * 0.08 / repeats) ** 0.5 if repeats < 500 else 0)


@pytest.mark.parametrize("repeats", [120, pytest.param(2_000, marks=pytest.mark.long)])
def test_the_interval_of_a_difference_covers_the_truth(repeats: int) -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(repeats):
        kinds = rng.choice(3, 80, p=(0.15, 0.05, 0.8))
        before, after = (kinds == 1).astype(float), (kinds == 0).astype(float)
        interval = gain(before, after, minimum_gain=0.03).interval
        hits += interval.low <= 0.10 <= interval.high
    assert hits / repeats > 0.95 - 3 * (0.95 * 0.05 / repeats) ** 0.5
