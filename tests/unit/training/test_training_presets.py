from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.task import LoraSettings
from stepladder.training.presets import (
    TrainSettings,
    activation_bytes,
    choose_settings,
    default_learning_rate,
    room_for_tokens,
)

LLAMA = {"hidden": 576, "layers": 30, "model_type": "llama", "context_tokens": 2048, "seed": 0}


@pytest.mark.parametrize(
    ("rows", "rank", "batch", "epochs"), [(99, 8, 4, 10), (100, 16, 8, 6), (300, 16, 8, 6), (301, 16, 16, 4)]
)
def test_the_preset_goes_by_the_number_of_rows(rows: int, rank: int, batch: int, epochs: int) -> None:
    settings = choose_settings(LoraSettings(), rows=rows, **LLAMA)
    assert (settings.rank, settings.alpha, settings.batch_size, settings.epochs) == (rank, 2 * rank, batch, epochs)


def test_the_users_own_values_stand() -> None:
    own = LoraSettings(rank=3, alpha=5, learning_rate=2e-4, epochs=2, batch_size=6, max_tokens=100)
    settings = choose_settings(own, rows=500, **LLAMA)
    assert (settings.rank, settings.alpha, settings.learning_rate) == (3, 5, 2e-4)
    assert (settings.epochs, settings.batch_size, settings.max_tokens) == (2, 6, 100)


def test_a_rank_stabilised_adapter_has_one_alpha_for_every_rank() -> None:
    for rows in (50, 500):
        settings = choose_settings(LoraSettings(rank_stabilised=True), rows=rows, **LLAMA)
        assert (settings.alpha, settings.rank_stabilised) == (16, True)
    assert choose_settings(LoraSettings(rank_stabilised=True, alpha=3), rows=50, **LLAMA).alpha == 3


def test_rows_never_exceed_the_models_context_even_when_the_user_allows_more() -> None:
    assert choose_settings(LoraSettings(max_tokens=9000), rows=50, **LLAMA).max_tokens == 2048
    assert choose_settings(LoraSettings(), rows=50, **{**LLAMA, "context_tokens": 0}).max_tokens == 0


@pytest.mark.parametrize(
    ("hidden", "model_type", "rate"),
    [
        (576, "llama", 1e-3),  # the formula gives 1.3e-3
        (2048, "llama", 4.909e-4),
        (4096, "llama", 2.859e-4),
        (50_000, "llama", 1e-4),
        (896, "qwen2", 3e-4),
        (2560, "qwen3", 3e-4),
    ],
)
def test_the_learning_rate_goes_by_the_models_width(hidden: int, model_type: str, rate: float) -> None:
    assert default_learning_rate(hidden, model_type) == pytest.approx(rate, rel=1e-3)


def test_a_pass_takes_what_a_share_of_the_memory_holds() -> None:
    gibibyte = 2**30
    assert [activation_bytes("cpu", total * gibibyte) for total in (4, 8, 16, 64)] == [
        gibibyte // 4,
        gibibyte // 2,
        gibibyte,
        gibibyte,
    ]
    assert [activation_bytes("cuda", total * gibibyte) for total in (4, 24, 80)] == [gibibyte, 3 * gibibyte, 10 * gibibyte]
    assert activation_bytes("mps", None) == gibibyte
    small, usual = (choose_settings(LoraSettings(), rows=50, **LLAMA, activations=size) for size in (gibibyte // 2, gibibyte))
    assert (small.tokens_per_pass, usual.tokens_per_pass) == (776, 1553)
    assert choose_settings(LoraSettings(), rows=50, **LLAMA, activations=1).tokens_per_pass == 512
    assert choose_settings(LoraSettings(tokens_per_pass=100), rows=50, **LLAMA).tokens_per_pass == 100


def test_layers_are_computed_twice_only_where_weights_and_tokens_pass_their_share_of_the_memory() -> None:
    gibibyte = 2**30

    def room(device: str, total: int | None, weights: int, **sizes: int) -> int | None:
        whole = None if total is None else total * gibibyte
        return room_for_tokens(
            device, whole, weights=weights * gibibyte, **{"layers": 32, "hidden": 4096, "bytes_per_number": 2, **sizes}
        )

    per_token = 32 * 4096 * 40
    assert room("cpu", 64, 14) == (32 - 14) * gibibyte // per_token
    assert room("cuda", 24, 5) == (int(0.8 * 24 * gibibyte) - 5 * gibibyte) // per_token
    assert room("cpu", 64, 28, bytes_per_number=4) == 4 * gibibyte // (2 * per_token)
    assert room("cpu", 16, 14) == gibibyte // per_token  # as much as a pass takes anyway
    assert room("cpu", None, 14) is None


def build(**changes: object) -> TrainSettings:
    base = {"rank": 8, "alpha": 16, "learning_rate": 1.0, "epochs": 3, "batch_size": 4, "max_tokens": 0}
    return TrainSettings(**{**base, "tokens_per_pass": 100, "seed": 0, **changes})  # type: ignore[arg-type]


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    rates = [build().learning_rate_at(step, 100) for step in range(1, 101)]
    assert rates[:8] == pytest.approx([step / 8 for step in range(1, 9)])
    assert max(rates) == rates[7] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(earlier > later for earlier, later in pairwise(rates[7:]))
    steps = [rates[place + 1] - rates[place] for place in range(8, 99)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_a_short_training_warms_up_for_three_steps_at_least() -> None:
    assert [build().learning_rate_at(step, 10) for step in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert build().learning_rate_at(2, 2) == 1.0


@given(rows=st.integers(1, 70), batch=st.integers(1, 20), seed=st.integers(0, 5), data=st.data())
def test_every_epoch_sees_every_row_once_in_batches_of_even_size(rows: int, batch: int, seed: int, data: st.DataObject) -> None:
    settings = build(batch_size=batch, seed=seed)
    steps = list(settings.batches(rows))
    assert [step for step, _ in steps] == list(range(1, settings.steps(rows) + 1))
    per_epoch = settings.steps_per_epoch(rows)
    for epoch in range(settings.epochs):
        batches = [chosen for _, chosen in steps[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert sorted(row for chosen in batches for row in chosen) == list(range(rows))
        assert max(map(len, batches)) <= batch
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
    behind = data.draw(st.integers(0, len(steps)))
    assert list(settings.batches(rows, after_step=behind)) == steps[behind:]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [[row for _, chosen in build(seed=seed).batches(20) for row in chosen] for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert orders[0][:20] != orders[0][20:40]


def test_evaluations_come_every_epoch_or_every_twenty_steps_and_at_the_end() -> None:
    short, long = build(), build(batch_size=1, epochs=1)
    assert [step for step in range(1, 16) if short.evaluates_after(step, 20)] == [5, 10, 15]
    assert [step for step in range(1, 51) if long.evaluates_after(step, 50)] == [20, 40, 50]
