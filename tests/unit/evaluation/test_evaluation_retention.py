"""What counts as forgetting: the measures, their bounds, and what an answer must do to pass a check."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stepladder.domain.errors import EvaluationError
from stepladder.domain.probes import Checks
from stepladder.domain.retention import Retention, RetentionMeasure, TriedRemedy
from stepladder.evaluation.retention import (
    MOST_NLL_RISE,
    Observed,
    choice_margin,
    follows,
    goes_in_circles,
    paired_loss,
    refuses,
    retention_measures,
)

BASE = Observed(
    text_nll=(3.0, 2.5, 2.8, 3.1),
    margins=(0.4, -0.1, 0.3, 0.2),
    followed=(1.0, 0.0, 1.0, 1.0),
    stopped=(1.0, 1.0, 0.0, 1.0),
    looped=(0.0, 0.0, 1.0, 0.0),
    refused=(0.0, 0.0),
)


def measured(**changes: tuple[float, ...]) -> dict[str, RetentionMeasure]:
    tuned = replace(BASE, kl_general=(0.1, 0.3), kl_task=(1.0,), **changes)
    return {one.name: one for one in retention_measures(BASE, tuned)}


def test_a_model_that_did_not_change_loses_nothing() -> None:
    found = measured()
    assert all(one.within for one in found.values())
    assert [one.loss.value for one in found.values() if one.base is not None] == [0.0] * 6
    assert found["KL, general prompts"].loss.value == pytest.approx(0.2)
    assert found["KL, general prompts"].limit is None


def test_the_rise_on_general_text_is_judged_by_its_bound_not_by_its_mean() -> None:
    even = measured(text_nll=tuple(nll * 1.015 for nll in BASE.text_nll))["general text"]
    assert even.loss.value == pytest.approx(0.015)
    assert even.within
    uneven = measured(text_nll=(3.5, 2.5, 2.8, 3.1))["general text"]
    assert uneven.loss.value < MOST_NLL_RISE < uneven.loss.high
    assert not uneven.within


def test_better_is_never_a_loss() -> None:
    found = measured(text_nll=(2.0, 2.0, 2.0, 2.0), margins=(0.9,) * 4, stopped=(1.0,) * 4, looped=(0.0,) * 4)
    assert all(one.loss.value < 0 and one.within for name, one in found.items() if name in ("general text", "multiple choice"))
    assert found["repetition"].loss.value == -0.25


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"margins": (0.25, -0.25, 0.15, 0.05)}, "multiple choice"),
        ({"stopped": (0.0, 1.0, 0.0, 1.0)}, "self-stopping"),
        ({"looped": (1.0, 0.0, 1.0, 0.0)}, "repetition"),
        ({"refused": (1.0, 0.0)}, "refusals"),
    ],
)
def test_a_loss_over_its_limit_is_found(changes: dict[str, tuple[float, ...]], name: str) -> None:
    assert [one.name for one in measured(**changes).values() if not one.within] == [name]


def test_what_only_one_model_was_asked_is_no_measure() -> None:
    likely = retention_measures(BASE, Observed(text_nll=BASE.text_nll, margins=BASE.margins))
    assert [one.name for one in likely] == ["general text", "multiple choice"]


def test_different_probes_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="different probes for 'self-stopping'"):
        retention_measures(BASE, replace(BASE, stopped=(1.0,)))


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=40))
def test_the_bound_is_students(differences: list[float]) -> None:
    found = paired_loss(differences)
    error = float(stats.sem(differences))
    expected = np.mean(differences) + stats.t.ppf(0.95, len(differences) - 1) * error
    assert found.high == pytest.approx(float(expected), abs=1e-9)
    assert found.low <= found.value + 1e-12 <= found.high + 2e-12


def test_the_bound_covers_a_true_loss_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(3)
    covered = [paired_loss(list(rng.normal(0.01, 0.02, 20))).high >= 0.01 for _ in range(2000)]
    assert 0.935 <= np.mean(covered) <= 0.965


def test_a_margin_compares_per_token_and_knows_the_best_wrong_option() -> None:
    assert choice_margin([-2.0, -8.0], [2, 2], 0) > 0.9
    assert choice_margin([-2.0, -4.0], [1, 2], 0) == pytest.approx(0.0)  # both two nats a token
    thirds = choice_margin([np.log(0.5), np.log(0.3), np.log(0.2)], [1, 1, 1], 2)
    assert thirds == pytest.approx(0.2 - 0.5)


@pytest.mark.parametrize(
    ("answer", "checks", "passes"),
    [
        ("It is Green.", {"contains": ["green"]}, True),
        ("It is blue.", {"contains": ["green"]}, False),
        ("seven days", {"any_of": ["7", "seven"]}, True),
        ("six", {"any_of": ["7", "seven"]}, False),
        ("The sea is wide.", {"lacks": ["blue"]}, True),
        ("The blue sea.", {"lacks": ["blue"]}, False),
        ('"Perhaps it will."', {"starts": "perhaps"}, True),
        ("It will, perhaps", {"starts": "perhaps"}, False),
        ("So long, goodbye!", {"ends": "goodbye"}, True),
        ("goodbye to all", {"ends": "goodbye"}, False),
        ("12.", {"matches": "12\\.?"}, True),
        ("12 apples", {"matches": "12\\.?"}, False),
        ("one two three", {"least_words": 3, "most_words": 3}, True),
        ("one two", {"least_words": 3}, False),
        ("one two three four", {"most_words": 3}, False),
        ("a\n\nb\nc\n", {"lines": 3}, True),
        ("a, b, c", {"lines": 3}, False),
        ("HARBOUR", {"case": "upper"}, True),
        ("Harbour", {"case": "upper"}, False),
        ("cat", {"case": "lower"}, True),
        ('{"name": "Ada", "age": 36}', {"json_keys": ["age", "name"]}, True),
        ('{"name": "Ada"}', {"json_keys": ["age", "name"]}, False),
        ("name: Ada", {"json_keys": ["name"]}, False),
        ("", {"json_keys": ["name"]}, False),
    ],
)
def test_answers_against_checks(answer: str, checks: dict[str, object], passes: bool) -> None:
    assert follows(answer, Checks.model_validate(checks)) == passes


@pytest.mark.parametrize(("pattern", "said"), [(r"(a+)+b", 0.0), (r"(?=a)(a+)+b", math.nan)])
def test_a_runaway_pattern_of_a_probe_ends_and_judges_nothing_wrongly(pattern: str, said: float) -> None:
    start = time.monotonic()
    found = follows("a" * 60, Checks(matches=pattern))
    assert time.monotonic() - start < 20  # `re` would need years
    assert found == pytest.approx(said, nan_ok=True)


def test_a_probe_that_nobody_can_judge_is_left_out_and_counted() -> None:
    base = replace(BASE, followed=(1.0, math.nan, 1.0, 1.0))
    found = {one.name: one for one in retention_measures(base, replace(BASE, followed=(0.0, 1.0, math.nan, 1.0)))}
    instructions = found["instructions"]
    assert (instructions.base, instructions.tuned, instructions.loss.value) == (1.0, 0.5, 0.5)
    assert (instructions.loss.items, instructions.loss.ungraded) == (2, 2)
    unknown = replace(BASE, followed=(math.nan,) * 4)
    assert "instructions" not in {one.name for one in retention_measures(BASE, unknown)}


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry, I am unable to answer.",
        "Unfortunately, I'm not able to do that.",
        "As an AI, I have no opinion.",
        "I won’t do that.",
        "   ",
    ],
)
def test_refusals_are_known(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Use the kill command: it ends the process.",
        "I'm sorry to hear that your bread did not rise. Try fresh yeast.",
        "People cannot always tell the truth.",
        "The thief said: I can't keep it.",
    ],
)
def test_help_is_no_refusal(answer: str) -> None:
    assert not refuses(answer)


def test_circles_are_known_and_json_is_none() -> None:
    assert goes_in_circles("It is a river. It is a river. It is a river. It is a river.")
    assert not goes_in_circles('{"a": "x x x x x", "b": "x x x x x"}')
    assert not goes_in_circles("The river is long, and on its banks stand old willows.")


def failing(name: str, *, always: bool) -> RetentionMeasure:
    return RetentionMeasure(name, 0.5, 0.3, paired_loss([0.2, 0.2]), 0.1, always=always)


def test_without_other_tasks_only_what_always_counts_blocks() -> None:
    text, loops = failing("general text", always=False), failing("repetition", always=True)
    assert Retention("lora", False, (text,)).blocked == ""
    assert Retention("lora", True, (text,)).blocked == "it lost general abilities (general text)."
    both = Retention("lora", False, (text, loops), tried=(TriedRemedy("adapter scale 0.5", ("repetition",)),))
    assert both.blocked == "it lost general abilities (repetition). Tried in vain: adapter scale 0.5."


def test_what_could_not_be_measured_blocks_only_the_model_with_other_tasks() -> None:
    assert Retention("lora", False, unmeasured="no scores.").blocked == ""
    assert "were not measured: no scores." in Retention("lora", True, unmeasured="no scores.").blocked
