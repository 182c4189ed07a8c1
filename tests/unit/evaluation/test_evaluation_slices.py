from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from statsmodels.stats.multitest import multipletests

from stepladder.domain.messages import Example, Input, Message
from stepladder.evaluation.slices import find_slices, holm, kinds_of


def rows(count: int) -> list[str]:
    return [f"r{number:03}" for number in range(count)]


def by_turns(ids: list[str], *values: str) -> dict[str, str]:
    return {name: values[number % len(values)] for number, name in enumerate(ids)}


def test_a_slice_that_is_clearly_worse_is_named_and_the_others_are_not() -> None:
    ids = rows(120)
    kinds = {"channel": by_turns(ids, "mail", "phone", "chat"), "region": by_turns(ids, "north", "south")}
    rng = np.random.default_rng(1)
    chance = np.asarray([0.35 if kinds["channel"][name] == "phone" else 0.9 for name in ids])
    scores = (rng.random(120) < chance).astype(float)
    found = find_slices("prompt", ids, scores, np.arange(120), kinds)
    assert [(one.column, one.value) for one in found if one.worse] == [("channel", "phone")]
    worst = next(one for one in found if one.worse)
    assert worst.score.items == 40
    assert worst.rest == pytest.approx(scores[[kinds["channel"][name] != "phone" for name in ids]].mean())
    assert len(found) == 5


def test_small_slices_and_ungraded_rows_are_left_out() -> None:
    ids = rows(40)
    kinds = {"kind": {name: "rare" if number < 9 else "usual" for number, name in enumerate(ids)}}
    assert find_slices("prompt", ids, np.ones(40), np.arange(40), kinds) == ()
    scores = np.ones(40)
    scores[:5] = np.nan
    kinds = {"kind": {name: "first" if number < 14 else "usual" for number, name in enumerate(ids)}}
    assert find_slices("prompt", ids, scores, np.arange(40), kinds) == ()


def test_near_duplicates_count_once() -> None:
    """Forty copies of one bad row are one bad row."""
    ids = rows(80)
    kinds = {"kind": {name: "copies" if number < 40 else "usual" for number, name in enumerate(ids)}}
    scores = np.asarray([0.0] * 40 + [1.0] * 30 + [0.0] * 10)
    alone = find_slices("prompt", ids, scores, np.arange(80), kinds)
    together = find_slices("prompt", ids, scores, np.asarray([0] * 40 + list(range(1, 41))), kinds)
    assert [one.value for one in alone if one.worse] == ["copies"]
    assert not any(one.worse for one in together)


@pytest.mark.parametrize("repeats", [60, pytest.param(1_500, marks=pytest.mark.long)])
def test_where_no_slice_differs_one_is_named_in_at_most_five_of_a_hundred_climbs(repeats: int) -> None:
    rng = np.random.default_rng(7)
    ids = rows(100)
    kinds = {"a": by_turns(ids, "x", "y", "z"), "b": by_turns(ids, "p", "q"), "c": by_turns(ids, *"klmno")}
    false = 0
    for trial in range(repeats):
        scores = (rng.random(100) < 0.7).astype(float)
        false += any(one.worse for one in find_slices("prompt", ids, scores, np.arange(100), kinds, seed=trial))
    assert false / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


def test_pass_fail_slices_are_judged_by_fishers_test_and_graded_ones_alike() -> None:
    ids, rng = rows(60), np.random.default_rng(3)
    kinds = {"kind": by_turns(ids, "x", "y", "y")}
    scores = (rng.random(60) < np.asarray([0.4 if kinds["kind"][name] == "x" else 0.7 for name in ids])).astype(float)
    inside = np.asarray([kinds["kind"][name] == "x" for name in ids])
    table = [[scores[inside].sum(), (1 - scores[inside]).sum()], [scores[~inside].sum(), (1 - scores[~inside]).sum()]]
    exact = next(one for one in find_slices("r", ids, scores, np.arange(60), kinds) if one.value == "x")
    assert exact.chance == pytest.approx(min(1.0, 2 * fisher_exact(table, alternative="less").pvalue))
    drawn = next(one for one in find_slices("r", ids, scores / 2, np.arange(60), kinds) if one.value == "x")
    assert drawn.chance == pytest.approx(exact.chance, abs=0.01)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(chances: list[float]) -> None:
    assert holm(chances) == pytest.approx(list(multipletests(chances, method="holm")[1]))


def test_kinds_are_columns_with_a_few_values_and_the_expected_answer() -> None:
    def example(number: int) -> Example:
        metadata = {
            "channel": "mail" if number % 2 else "chat",
            "ticket": str(number),
            "source": "teacher" if number < 5 else "me",
        }
        return Example(Input.of("a", f"r{number}"), Message("assistant", "b"), metadata=metadata)

    examples = [example(number) for number in range(20)]
    kinds = kinds_of(examples, {one.id: "refund" if number < 7 else "order" for number, one in enumerate(examples)})
    assert list(kinds) == ["channel", "expected answer"]
    assert kinds["channel"]["r3"] == "mail"
