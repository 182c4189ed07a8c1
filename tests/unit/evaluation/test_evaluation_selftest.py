"""The statistics put to the test: climbs whose truth is known, judged by the verdict's own rules.

Short forms run every time and catch a broken rule; the long forms hold the promised rates tightly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from stepladder.domain.verdict import Cost, Outcome
from stepladder.evaluation.compare import Contender, name_contenders
from stepladder.evaluation.gains import gain
from stepladder.evaluation.planning import REACHED, false_pass_rate, power
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.evaluation.statistics import probability_at_least
from stepladder.evaluation.verdict import decide

Scores = NDArray[np.float64]


def long(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.long)


def answers(rng: np.random.Generator, difficulty: Scores, seeds: int = 1) -> Scores:
    """Pass/fail answers to rows of the given probabilities of being right, shape (seeds, items)."""
    return (rng.random((seeds, len(difficulty))) < difficulty).astype(float)


def rung(name: str, scores: Scores, price: float, tuned: bool = False) -> Contender:
    return Contender(name, tuned, scores, Cost(seconds_per_call=price, calls=1_000))


def rate(event: Callable[[np.random.Generator], bool], repeats: int) -> float:
    rng = np.random.default_rng(2026)
    return sum(event(rng) for _ in range(repeats)) / repeats


def slack(promised: float, repeats: int) -> float:
    """Three standard errors of a simulated rate."""
    return 3 * (promised * (1 - promised) / repeats) ** 0.5


@pytest.mark.parametrize(("n", "repeats"), [(60, 150), long(60, 3_000), long(120, 3_000)])
def test_the_same_rung_twice_is_called_better_in_at_most_five_of_a_hundred_climbs(n: int, repeats: int) -> None:
    def says_better(rng: np.random.Generator) -> bool:
        difficulty = rng.beta(2, 1, n)
        pair = (rung("a", answers(rng, difficulty), 1), rung("b", answers(rng, difficulty), 2, tuned=True))
        verdict = decide(VerdictInputs(pair, None, 0.03))
        return verdict.outcome is Outcome.SUFFICIENT and verdict.rung == "b"

    assert rate(says_better, repeats) <= 0.05 + slack(0.05, repeats)


@pytest.mark.parametrize(("seeds", "repeats"), [(1, 100), long(1, 2_000), long(2, 2_000)])
def test_among_eight_equal_rungs_a_tuned_one_is_chosen_in_at_most_five_of_a_hundred_climbs(seeds: int, repeats: int) -> None:
    def chooses_tuned(rng: np.random.Generator) -> bool:
        validation, test = rng.beta(3, 2, 50), rng.beta(3, 2, 80)
        names = [f"untuned {i}" for i in range(5)] + [f"tuned {i}" for i in range(3)]
        on_validation = [rung(name, answers(rng, validation), i + 1, "un" not in name) for i, name in enumerate(names)]
        chosen = name_contenders(on_validation, target=None, minimum_gain=0.03, zero_shot="untuned 0").names
        contenders = tuple(
            rung(name, answers(rng, test, seeds if "un" not in name else 1), i + 1, "un" not in name)
            for i, name in enumerate(names)
            if name in chosen
        )
        verdict = decide(VerdictInputs(contenders, None, 0.03))
        return verdict.outcome is Outcome.SUFFICIENT and (verdict.rung or "").startswith("tuned")

    assert rate(chooses_tuned, repeats) <= 0.05 + slack(0.05, repeats)


def test_four_independent_contenders_five_points_short_seldom_pass_a_test_of_a_hundred_rows_or_more() -> None:
    """Exact. With fewer rows the chance is larger; then the verdict says so and is only indicative."""
    for target in (0.6, 0.7, 0.8, 0.85, 0.9, 0.95):
        for n in range(100, 301, 10):
            assert false_pass_rate(target, n, 4) <= 0.05


@pytest.mark.parametrize(("n", "repeats"), [(100, 120), long(50, 3_000), long(100, 3_000)])
def test_contenders_five_points_short_are_confirmed_sufficient_in_at_most_five_of_a_hundred_climbs(n: int, repeats: int) -> None:
    def passes(rng: np.random.Generator) -> bool:
        contenders = tuple(rung(f"rung {i}", answers(rng, np.full(n, 0.75)), i + 1) for i in range(4))
        verdict = decide(VerdictInputs(contenders, 0.80, 0.03))
        return verdict.outcome is Outcome.SUFFICIENT and verdict.confidence == "confirmed"

    assert rate(passes, repeats) <= 0.05 + slack(0.05, repeats)


TEN_WORDINGS = np.repeat(np.arange(10), 10)
"""Ten questions, each in ten wordings that get the same answer: a hundred rows that carry as much as ten."""


@pytest.mark.parametrize("repeats", [120, long(3_000)])
def test_near_duplicates_five_points_short_are_confirmed_sufficient_in_at_most_five_of_a_hundred_climbs(repeats: int) -> None:
    def passes(rng: np.random.Generator) -> bool:
        contenders = tuple(rung(f"rung {i}", answers(rng, np.full(10, 0.75))[:, TEN_WORDINGS], i + 1) for i in range(4))
        verdict = decide(VerdictInputs(contenders, 0.80, 0.03, clusters=tuple(TEN_WORDINGS.tolist())))
        return verdict.outcome is Outcome.SUFFICIENT and verdict.confidence == "confirmed"

    assert rate(passes, repeats) <= 0.05 + slack(0.05, repeats)


@pytest.mark.parametrize("repeats", [200, long(3_000)])
def test_a_tuned_rung_that_takes_over_five_points_short_is_confirmed_in_at_most_five_of_a_hundred_climbs(repeats: int) -> None:
    """Three untuned rungs, and a cheap tuned one that answers like the best of them."""

    def passes(rng: np.random.Generator) -> bool:
        dear = [answers(rng, np.full(10, 0.75)) for _ in range(3)]
        tuned = np.repeat(max(dear, key=np.mean), 2, axis=0)
        contenders = (*(rung(f"rung {i}", scores, i + 2) for i, scores in enumerate(dear)), rung("tuned", tuned, 1, tuned=True))
        verdict = decide(VerdictInputs(contenders, 0.80, 0.20))
        return verdict.outcome is Outcome.SUFFICIENT and verdict.confidence == "confirmed"

    assert rate(passes, repeats) <= 0.05 + slack(0.05, repeats)


@pytest.mark.parametrize("repeats", [150, long(4_000)])
def test_two_seeds_two_points_short_are_called_sufficient_in_at_most_ten_of_a_hundred_climbs(repeats: int) -> None:
    """Trainings that are right on 93 of a hundred rows, give or take six, and a target of 95."""
    spread = 0.93 * 0.07 / 0.06**2 - 1

    def passes(rng: np.random.Generator) -> bool:
        levels = rng.beta(0.93 * spread, 0.07 * spread, 2)
        scores = np.vstack([answers(rng, np.full(120, level)) for level in levels])
        return probability_at_least(scores, 0.95) >= REACHED

    assert rate(passes, repeats) <= 0.10 + slack(0.10, repeats)


@pytest.mark.parametrize(("short", "promised", "repeats"), [(0.0, 0.10, 200), long(0.0, 0.10, 800), long(0.02, 0.05, 800)])
def test_two_seeds_far_apart_confirm_a_target_they_do_not_pass_in_at_most_ten_of_a_hundred_climbs(
    short: float, promised: float, repeats: int
) -> None:
    """Trainings that spread by six points about the target itself, or two points under it."""

    def confirms(rng: np.random.Generator) -> bool:
        levels = np.clip(rng.normal(0.85 - short, 0.06, 2), 0, 1)
        tuned = np.vstack([answers(rng, np.full(300, level)) for level in levels])
        pair = rung("a", answers(rng, np.full(300, 0.5)), 1), rung("b", tuned, 2, tuned=True)
        verdict = decide(VerdictInputs(pair, 0.85, 0.03))
        return verdict.rung == "b" and verdict.outcome is Outcome.SUFFICIENT and verdict.confidence == "confirmed"

    assert rate(confirms, repeats) <= promised + slack(promised, repeats)


@pytest.mark.parametrize(("n", "spread", "repeats"), [(300, 0.06, 120), long(300, 0.06, 2_000), long(100, 0.06, 2_000)])
def test_two_seeds_far_apart_confirm_a_gain_over_an_equal_rung_in_at_most_five_of_a_hundred_climbs(
    n: int, spread: float, repeats: int
) -> None:
    def confirms(rng: np.random.Generator) -> bool:
        difficulty = rng.beta(2, 1, n)
        tuned = np.vstack([answers(rng, np.clip(difficulty + rng.normal(0, spread), 0, 1)) for _ in range(2)])
        verdict = decide(VerdictInputs((rung("a", answers(rng, difficulty), 1), rung("b", tuned, 2, tuned=True)), None, 0.03))
        return verdict.rung == "b" and verdict.outcome is Outcome.SUFFICIENT and verdict.confidence == "confirmed"

    assert rate(confirms, repeats) <= 0.05 + slack(0.05, repeats)


@pytest.mark.parametrize("loss_rate", [0.05, 0.10])
def test_fifteen_planted_points_are_found_with_the_promised_power(loss_rate: float) -> None:
    assert power(100, 0.15, loss_rate) >= 0.80


@pytest.mark.parametrize(("loss_rate", "repeats"), [(0.05, 60), long(0.05, 2_000), long(0.10, 2_000)])
def test_fifteen_planted_points_are_found_in_four_of_five_climbs(loss_rate: float, repeats: int) -> None:
    def found(rng: np.random.Generator) -> bool:
        before, after = planted(rng, 100, 0.15, loss_rate)
        verdict = decide(VerdictInputs((rung("a", before, 1), rung("b", after, 2, tuned=True)), None, 0.03))
        return verdict.outcome is Outcome.SUFFICIENT and verdict.rung == "b"

    assert rate(found, repeats) >= 0.80 - slack(0.80, repeats)


def planted(rng: np.random.Generator, n: int, size: float, loss_rate: float) -> tuple[Scores, Scores]:
    kinds = rng.choice(4, n, p=(loss_rate + size, loss_rate, 0.5, 0.5 - size - 2 * loss_rate))
    return np.isin(kinds, (1, 2)).astype(float), np.isin(kinds, (0, 2)).astype(float)


def graded_pair(rng: np.random.Generator) -> tuple[Scores, Scores, None]:
    base = rng.beta(4, 3, 60)
    return np.clip(base + rng.normal(0, 0.08, 60), 0, 1), np.clip(base + rng.normal(0, 0.08, 60), 0, 1), None


def skewed_pair(rng: np.random.Generator) -> tuple[Scores, Scores, None]:
    """Most rows equal, a few far apart: field F1 of nearly right JSON."""
    base = np.where(rng.random(60) < 0.8, 1.0, 0.5)
    drops = [np.where(rng.random(60) < 0.15, rng.choice([0.2, 0.5, 0.8], 60), 0.0) for _ in range(2)]
    return np.clip(base - drops[0], 0, 1), np.clip(base - drops[1], 0, 1), None


def two_seed_pair(rng: np.random.Generator) -> tuple[Scores, Scores, None]:
    """Each seed has a level of its own, as trainings do."""
    difficulty = rng.beta(2, 1, 60)
    tuned = np.vstack([answers(rng, np.clip(difficulty + rng.normal(0, 0.03), 0, 1)) for _ in range(2)])
    return answers(rng, difficulty), tuned, None


def clustered_pair(rng: np.random.Generator) -> tuple[Scores, Scores, NDArray[np.int64]]:
    """Thirty clusters of two near-duplicates that get the same answers."""
    difficulty = rng.beta(2, 1, 30)
    pair = [np.repeat(answers(rng, difficulty), 2, axis=1) for _ in range(2)]
    return pair[0], pair[1], np.repeat(np.arange(30), 2)


@pytest.mark.parametrize("repeats", [40, long(1_500)])
@pytest.mark.parametrize("pair", [graded_pair, skewed_pair, two_seed_pair, clustered_pair])
def test_equal_rungs_with_other_kinds_of_scores_are_seldom_called_better(pair: Callable[..., tuple], repeats: int) -> None:  # type: ignore[type-arg]
    def says_better(rng: np.random.Generator) -> bool:
        before, after, clusters = pair(rng)
        return gain(before, after, minimum_gain=0.03, clusters=clusters).probability_better >= 0.95

    assert rate(says_better, repeats) <= 0.05 + slack(0.05, repeats)
