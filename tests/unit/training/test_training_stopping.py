from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stepladder.domain.protocols import TrainPoint
from stepladder.training.stopping import best_step, candidates, far_above, learned_by_heart, may_diverge, settled, within_noise


def test_the_earliest_step_within_one_paired_standard_error_is_kept() -> None:
    best = (1.0, 2.0, 3.0, 4.0)
    near = (1.3, 1.9, 3.2, 3.8)  # mean +.05, standard error .12
    far = (1.3, 2.3, 3.3, 4.25)  # mean +.29, standard error .01: always a little worse, which pairing shows
    assert candidates({1: far, 2: near, 3: best, 4: near}) == (2, 3, 4)
    assert best_step({1: far, 2: near, 3: best}) == 3


def test_rows_that_differ_widely_do_not_hide_a_steady_loss() -> None:
    best = (0.1, 5.0, 20.0)
    assert not within_noise(tuple(value + 0.2 for value in best), best)


def test_one_held_out_row_leaves_no_room_for_noise() -> None:
    assert within_noise((1.0,), (1.0,))
    assert not within_noise((1.001,), (1.0,))


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=2, max_size=20))
def test_the_standard_error_is_that_of_the_differences(pairs: list[tuple[float, float]]) -> None:
    left, right = zip(*pairs, strict=True)
    differences = [one - other for one, other in pairs]
    error = float(stats.sem(differences))
    assert math.isclose(error, stdev(differences) / math.sqrt(len(pairs)), rel_tol=1e-9, abs_tol=1e-12)
    if abs(fmean(differences) - error) > 1e-9:
        assert within_noise(left, right) == (fmean(differences) <= error)


def point(step: int, loss: float, held_out: float | None) -> TrainPoint:
    return TrainPoint(step, step / 2, 1e-3, loss, held_out)


@pytest.mark.parametrize(
    ("losses", "held_out", "stops"),
    [
        ((0.04, 0.04, 0.04), (1.0, 1.1, 1.2), True),
        ((0.04, 0.04, 0.06), (1.0, 1.1, 1.2), False),  # not yet by heart
        ((0.04, 0.04, 0.04), (1.0, 1.1, 1.1), False),  # rose once only
        ((0.04, 0.04, 0.04), (1.2, 1.1, 1.2), False),
        ((0.04, 0.04), (1.0, 1.1), False),
    ],
)
def test_training_stops_when_learned_by_heart_and_getting_worse(
    losses: tuple[float, ...], held_out: tuple[float, ...], stops: bool
) -> None:
    history = []
    for number, (loss, nll) in enumerate(zip(losses, held_out, strict=True)):
        history += [point(2 * number + 1, loss, None), point(2 * number + 2, loss, nll)]
    assert learned_by_heart(history) is stops


def test_without_evaluations_nothing_stops() -> None:
    assert not learned_by_heart([point(step, 0.0, None) for step in range(9)])


def test_a_training_is_settled_two_evaluations_after_the_step_to_keep() -> None:
    history = [TrainPoint(step, step / 4, 1e-3, 0.5, held_out_nll=None if step % 2 else 0.4) for step in range(1, 9)]
    assert not settled(history[:4], kept=2)
    assert not settled(history[:6], kept=4)
    assert settled(history[:6], kept=2)


def test_a_loss_far_above_its_start_is_suspected_once_every_two_dozen_rows() -> None:
    def history(*losses: float) -> list[TrainPoint]:
        return [point(step, loss, None) for step, loss in enumerate(losses, 1)]

    rising = history(1.0, *[3.0] * 11)
    assert [may_diverge(rising[:steps], batch_size=8) for steps in (0, 2, 3, 4, 6)] == [False, False, True, False, True]
    assert not may_diverge(rising[:3], batch_size=4)  # six steps hold 24 rows here
    assert may_diverge(rising[:6], batch_size=4)
    assert not may_diverge(history(1.0, 1.4, 1.9, 1.8), batch_size=32)


def test_far_above_takes_both_a_factor_and_half_a_nat() -> None:
    assert far_above(2.1, 1.0)
    assert not far_above(1.9, 1.0)
    assert not far_above(0.5, 0.01)
    assert far_above(8.1, 5.0)
    assert not far_above(7.9, 5.0)
