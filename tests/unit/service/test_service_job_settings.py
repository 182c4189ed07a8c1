"""OpenAI's hyper-parameters and ours: what is taken, what it becomes, and what is refused by name."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.errors import UsageError
from stepladder.domain.protocols import TrainPlan
from stepladder.domain.task import DpoSettings, LoraSettings
from stepladder.service.job_settings import check_hyperparameters, dpo_settings, lora_settings, resolved


@pytest.mark.parametrize("asked", [{}, {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": None}])
def test_auto_is_what_tune_would_do(asked: dict[str, Any]) -> None:
    assert lora_settings(asked, base_rate=1e-3) == LoraSettings()
    assert dpo_settings(asked, base_rate=1e-5) == DpoSettings()


def test_the_multiplier_multiplies_our_own_rate_and_a_rate_of_ones_own_wins() -> None:
    assert lora_settings({"learning_rate_multiplier": 2}, base_rate=1e-3).learning_rate == pytest.approx(2e-3)
    assert lora_settings({"learning_rate_multiplier": 2, "learning_rate": 5e-4}, base_rate=1e-3).learning_rate == 5e-4
    assert dpo_settings({"learning_rate_multiplier": 0.5, "beta": 0.3}, base_rate=1e-5) == DpoSettings(
        beta=0.3, learning_rate=5e-6
    )


def test_our_own_knobs_reach_the_training() -> None:
    asked = {"lora_rank": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "label_smoothing": 0.1, "rank_stabilised": True}
    found = lora_settings({**asked, "n_epochs": 2, "batch_size": 3, "max_tokens": 64, "prompt_loss_weight": 0.2}, base_rate=1e-3)
    assert found == LoraSettings(
        rank=4,
        alpha=8,
        target_modules=("q_proj",),
        label_smoothing=0.1,
        rank_stabilised=True,
        epochs=2,
        batch_size=3,
        max_tokens=64,
        prompt_loss_weight=0.2,
    )
    assert lora_settings({"lora_r": 4}, base_rate=1e-3).rank == 4


REFUSED = [
    ("supervised", {"n_epochs": 51}, "n_epochs: "),
    ("supervised", {"n_epochs": 0}, "n_epochs: "),
    ("supervised", {"n_epochs": "many"}, "n_epochs: "),
    ("supervised", {"batch_size": 257}, "batch_size: "),
    ("supervised", {"batch_size": 1.5}, "batch_size: "),
    ("supervised", {"learning_rate_multiplier": 0}, "learning_rate_multiplier: "),
    ("supervised", {"learning_rate_multiplier": float("inf")}, "learning_rate_multiplier: "),
    ("supervised", {"learning_rate_multiplier": float("nan")}, "learning_rate_multiplier: "),
    ("supervised", {"beta": 0.1}, "beta: is not known"),
    ("supervised", {"packing": True}, "packing: is not known"),
    ("dpo", {"beta": 2.1}, "beta: "),
    ("dpo", {"lora_rank": 8}, "lora_rank: is not known"),
]


@pytest.mark.parametrize(("method", "asked", "said"), REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(method: Any, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=rf"^{said}.*Method {method} takes n_epochs, batch_size, learning_rate_multiplier"):
        check_hyperparameters(method, asked)


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.just("auto"))


@given(st.sampled_from(["supervised", "dpo", "reinforcement"]), st.dictionaries(st.text(), values))
def test_no_value_whatever_is_another_error(method: Any, asked: dict[str, Any]) -> None:
    with suppress(UsageError):
        check_hyperparameters(method, asked)


@given(
    st.dictionaries(st.sampled_from(["n_epochs", "batch_size", "learning_rate_multiplier", "lora_rank", "lora_alpha"]), values)
)
def test_whatever_is_accepted_the_training_accepts_too(asked: dict[str, Any]) -> None:
    try:
        check_hyperparameters("supervised", asked)
    except UsageError:
        return
    lora_settings(asked, base_rate=1e-3)


def test_what_was_auto_is_a_number_once_the_job_runs() -> None:
    plan = TrainPlan(steps=30, epochs=3, batch_size=4, learning_rate=2e-3, rank=8, alpha=16.0, history=())
    found = resolved({"n_epochs": "auto", "batch_size": None, "label_smoothing": 0.1}, plan, base_rate=1e-3, beta=0.2)
    assert found == {
        "n_epochs": 3,
        "batch_size": 4,
        "learning_rate_multiplier": 2.0,
        "learning_rate": 2e-3,
        "lora_rank": 8,
        "lora_alpha": 16.0,
        "label_smoothing": 0.1,
        "beta": 0.2,
    }
