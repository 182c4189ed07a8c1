"""The forecast for twice the training rows, against statsmodels and against simulated curves."""

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.tools.eval_measures import aicc

from stepladder.domain.errors import EvaluationError
from stepladder.evaluation.learning_curve import CurveFit, Noise, _aicc, doubling, fit_curve

SIZES = np.repeat([25, 38, 50, 62, 75, 88], 3)
DRAWS = np.tile([0, 1, 2], 6)
SCORED = 100
INDEPENDENT = Noise()
EVERYBODY = 10**9  # validation rows, so many that no count of them falls out otherwise


def noisy(curve, seed, *, spread=0.02):
    return curve(SIZES) + np.random.default_rng(seed).normal(0.0, spread, len(SIZES))


def alone(fit, form, noise=INDEPENDENT):
    """The fit as if this form and this kind of noise were certain."""
    shape = next(shape for shape in fit.shapes if (shape.form, shape.noise) == (form, noise))
    return CurveFit((replace(shape, weight=1.0),), fit.points)


def fitted(scores, *, scored=SCORED):
    return fit_curve(SIZES, scores, DRAWS, all_rows=100, scored_rows=scored)


def forecast_of(scores, **changes):
    return doubling(SIZES, scores, DRAWS, **{"all_rows": 100, "scored_rows": SCORED, "minimum_gain": 0.03, **changes})


@pytest.mark.parametrize("form", ["flat", "log-linear"])
def test_a_single_shape_forecasts_what_statsmodels_forecasts(form):
    scores = noisy(lambda n: 0.2 + 0.1 * np.log(n), 1)
    columns = np.ones((len(SIZES), 1)) if form == "flat" else sm.add_constant(np.log(SIZES))
    at = np.ones((1, 1)) if form == "flat" else np.array([[1.0, np.log(200)]])
    expected = sm.OLS(scores, columns).fit().get_prediction(at)
    forecast = alone(fitted(scores, scored=EVERYBODY), form).score_at(200)
    assert forecast.value == pytest.approx(expected.predicted_mean[0], abs=1e-5)
    assert (forecast.low, forecast.high) == pytest.approx(tuple(expected.conf_int(obs=True, alpha=0.2)[0]), abs=1e-5)


def test_a_gain_counts_the_uncertainty_of_the_slope_and_the_noise_of_the_new_score():
    scores = noisy(lambda n: 0.2 + 0.1 * np.log(n), 2)
    line = sm.OLS(scores, sm.add_constant(np.log(SIZES))).fit()
    slope, error = line.params[1] * np.log(2), line.bse[1] * np.log(2)
    scale = np.sqrt(line.mse_resid + error**2)
    gain = alone(fitted(scores, scored=EVERYBODY), "log-linear").gain_between(100, 200)
    assert gain.value == pytest.approx(slope, abs=1e-5)
    assert gain.high - gain.value == pytest.approx(
        1.3368 * scale, rel=1e-3
    )  # the 90th percentile of t with 16 degrees of freedom


def overlaps():
    """Expected share of common rows of the 18 training sets and, last, of a set of 200 rows that holds all of them."""
    sets = [*zip(SIZES, DRAWS, strict=True), (200, None)]

    def overlap(one, other):
        (size, draw), (more, other_draw) = one, other
        common = min(size, more) if draw == other_draw or None in (draw, other_draw) else size * more / 100
        return common / (size + more - common)

    return np.array([[overlap(one, other) for other in sets] for one in sets])


@pytest.mark.parametrize("kind", [Noise(overlap=0.8), Noise(overlap=0.95), Noise(growth=1.0), Noise(overlap=0.8, growth=1.0)])
def test_the_noise_is_carried_on_as_by_conditioning_a_normal_distribution(kind):
    """The oracle: all 19 scores as one normal distribution, the line's two coefficients all but free; then 18 are seen."""
    scores = noisy(lambda n: 0.2 + 0.1 * np.log(n), 5)
    columns = np.column_stack([np.ones(19), np.log([*SIZES, 200])])
    noise = kind.overlap * overlaps()
    np.fill_diagonal(noise, 1.0)
    if kind.growth:  # the variance of a mean of n rows, that at the largest size being the unit
        noise *= 88 / np.sqrt(np.outer([*SIZES, 200], [*SIZES, 200]))
    joint = noise + columns @ (1e6 * np.eye(2)) @ columns.T
    weights = np.linalg.solve(joint[:18, :18], joint[:18, 18])
    place, scale = weights @ scores, joint[18, 18] - weights @ joint[:18, 18]
    fit = alone(fitted(scores, scored=EVERYBODY), "log-linear", kind)
    forecast = fit.score_at(200)
    assert forecast.value == pytest.approx(place, abs=1e-4)
    deviation = np.sqrt(fit.shapes[0].variance * scale)
    assert forecast.high - forecast.value == pytest.approx(1.3368 * deviation, rel=1e-3)
    gls = sm.GLS(scores, columns[:18], sigma=noise[:18, :18]).fit()
    assert fit.shapes[0].beta == pytest.approx(gls.params)
    assert fit.shapes[0].variance == pytest.approx(gls.scale)


def test_points_that_share_their_noise_are_worth_fewer():
    scores = noisy(lambda n: 0.2 + 0.1 * np.log(n), 6)
    fit = fitted(scores, scored=EVERYBODY)
    spreads = [alone(fit, "log-linear", one).shapes[0].spread[1, 1] for one in (INDEPENDENT, Noise(size=0.8))]
    assert spreads[1] > spreads[0]


def test_noise_that_falls_with_the_rows_is_told_from_noise_that_stays():
    """Scattered where few rows were drawn and steady where many were: the new score is forecast the narrower."""
    chance, shares = np.random.default_rng(8), np.zeros(2)
    for scatter in chance.normal(0.0, 0.03, (12, len(SIZES))):
        pair = [fitted(0.7 + scatter * scale, scored=EVERYBODY) for scale in (1.0, (25 / SIZES) ** 0.5)]
        shares += [sum(shape.weight for shape in fit.shapes if shape.noise.growth) / 12 for fit in pair]
    assert shares[1] > shares[0] + 0.1
    widths = [alone(pair[1], "flat", Noise(growth=growth)).score_at(200) for growth in (0.0, 1.0)]
    assert widths[1].high - widths[1].low < widths[0].high - widths[0].low


def test_how_many_rows_will_be_newly_right_is_a_count_with_its_own_noise():
    scores = noisy(lambda n: 0.2 + 0.1 * np.log(n), 7)
    wide, narrow = (alone(fitted(scores, scored=rows), "log-linear") for rows in (50, EVERYBODY))
    rise = narrow.shapes[0].beta[1] * np.log(200 / 88)
    added = wide._moments(wide.shapes[0], 200, None)[1] - narrow._moments(narrow.shapes[0], 200, None)[1]
    assert added == pytest.approx(rise * (1 - rise) / 50, rel=1e-6)


def test_the_criterion_ranks_shapes_as_statsmodels_does():
    scores = noisy(lambda n: 0.9 - 2.0 * n**-0.5, 3)
    fits = [sm.OLS(scores, np.ones((len(SIZES), 1))).fit(), sm.OLS(scores, sm.add_constant(np.log(SIZES))).fit()]
    ours = [
        _aicc(len(scores) * np.log(fit.ssr / len(scores)), len(scores), count) for fit, count in zip(fits, (2, 3), strict=True)
    ]
    theirs = [aicc(fit.llf, len(scores), count) for fit, count in zip(fits, (2, 3), strict=True)]
    assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0])


def test_points_on_a_level_line_promise_nothing():
    level = forecast_of(noisy(lambda n: 0.7 + 0 * n, 4))
    assert level.weights["flat"] == max(level.weights.values())
    assert level.gain.low < 0 < level.gain.high
    assert level.probability_minimum < 0.3


def test_scores_that_never_moved_are_known_no_finer_than_one_row():
    still = forecast_of(np.full(len(SIZES), 0.6), scored_rows=20, minimum_gain=0.05)
    assert still.score.low < 0.6 < still.score.high
    assert still.score.high - still.score.low < 0.1
    assert still.probability_minimum < 0.05


def test_a_rising_line_without_noise_is_continued():
    rising = forecast_of(0.2 + 0.1 * np.log(SIZES), scored_rows=EVERYBODY)
    assert rising.gain.value == pytest.approx(0.1 * np.log(2), abs=0.005)
    assert rising.probability_minimum > 0.95


def test_a_curve_that_levels_off_is_not_continued_as_a_line():
    curve = forecast_of(0.8 - 20.0 * SIZES**-1.5, scored_rows=1000)
    assert curve.weights["power law"] > 0.9
    assert curve.score.value == pytest.approx(0.8 - 20.0 * 200**-1.5, abs=0.005)


def test_near_the_ceiling_a_steep_curve_is_not_believed_to_go_on():
    """A line through these points would pass 1 well before twice the rows."""
    curve = forecast_of(0.98 - 0.5 * np.exp(-SIZES / 30), scored_rows=200)
    assert curve.score.low < 0.985
    assert curve.gain.value < 0.05


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_scores_that_never_left_an_end_promise_no_gain_and_no_loss(score):
    forecast = forecast_of([score] * 18, scored_rows=50)
    assert forecast.gain.low <= 0.0 <= forecast.gain.high
    assert forecast.score.low <= score <= forecast.score.high


def test_scores_out_of_range_are_refused():
    for wrong in (1.2, -0.1, float("nan")):
        with pytest.raises(EvaluationError, match="between 0 and 1"):
            forecast_of([wrong] * 18)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=18, max_size=18), st.integers(1, 500))
def test_whatever_the_scores_the_forecast_is_ordered_and_the_shares_add_up(scores, scored):
    forecast = forecast_of(scores, scored_rows=scored)
    assert 0 <= forecast.score.low <= forecast.score.value <= forecast.score.high <= 1
    assert -1 <= forecast.gain.low <= forecast.gain.value <= forecast.gain.high <= 1
    assert sum(forecast.weights.values()) == pytest.approx(1.0)
    assert 0 <= forecast.probability_minimum <= 1


@pytest.mark.parametrize(("rows", "scores"), [([10, 20, 30], [0.5, 0.6, 0.7]), ([10] * 8, [0.5] * 8), ([1, 2], [0.5])])
def test_too_few_points_are_refused(rows, scores):
    with pytest.raises(EvaluationError, match="learning curve"):
        fit_curve(rows, scores, [0] * len(rows), all_rows=100, scored_rows=SCORED)


def simulated_trial(curve, seed, *, rows=100, scored=80, wobble=0.15):
    """Whether the interval held the score at twice the rows. One set of validation rows, some easier than others, answers for
    every size; a draw answers a few of them otherwise than the next."""
    chance = np.random.default_rng(seed)
    threshold = chance.uniform(0, 1, scored)

    def score(size):
        return float((threshold + chance.normal(0, wobble, scored) < curve(size)).mean())

    forecast = forecast_of([score(size) for size in SIZES], all_rows=rows, scored_rows=scored)
    return forecast.score.low - 1e-9 <= score(2 * rows) <= forecast.score.high + 1e-9


CURVES = {
    "flat": lambda n: 0.6 + 0.0 * n,
    "log-linear": lambda n: 0.1 + 0.1 * np.log(n),
    "power law": lambda n: 0.9 - 2.0 * n**-0.5,
    "levelled off": lambda n: 0.8 - 10.0 * n**-1.2,
    "up to the ceiling": lambda n: 0.98 - 0.5 * np.exp(-n / 40),
    "through the ceiling": lambda n: 1.1 - 0.5 * np.exp(-n / 40),
}


def coverage(curve, trials):
    return float(np.mean([simulated_trial(curve, seed) for seed in range(trials)]))


@pytest.mark.parametrize("name", CURVES)
def test_the_80_percent_interval_holds_the_doubled_score_in_at_least_70_percent(name):
    assert coverage(CURVES[name], 60) >= 0.7


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CURVES)
def test_over_a_thousand_trials_the_interval_neither_misses_nor_says_nothing(name):
    assert 0.72 <= coverage(CURVES[name], 1000) <= 0.95
