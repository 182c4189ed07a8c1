from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.paths import FusedPath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import adapted, adapter_tensors
from stepladder.training.loop import Evaluation, TrainStep, build_optimizer, check_every_part_learns, train
from stepladder.training.presets import TrainSettings

BuildModel = Callable[..., Any]
BuildRows = Callable[..., list[EncodedRow]]


def run(model: Any, rows: list[EncodedRow], settings: TrainSettings, **keywords: Any) -> list[TrainStep | Evaluation]:
    with adapted(model, settings) as wrapped:
        optimizer = build_optimizer(wrapped, settings)
        held_out = keywords.pop("held_out", rows[:3])
        base = wrapped.get_base_model()
        return list(train(base, optimizer, rows, held_out, settings, path=FusedPath(base), **keywords))


class SpoiltPath(FusedPath):
    """A path after which something has gone wrong with the gradients."""

    def __init__(self, model: Any, spoil: Callable[[], Any]) -> None:
        super().__init__(model)
        self._spoil = spoil

    def backward_loss(self, rows: Sequence[EncodedRow], **options: Any) -> float:
        loss = super().backward_loss(rows, **options)
        self._spoil()
        return loss


def test_the_loss_falls_and_held_out_rows_are_evaluated_every_epoch(
    build_llama: BuildModel, build_rows: BuildRows, quick_settings: TrainSettings
) -> None:
    events = run(build_llama(), build_rows(12), replace(quick_settings, epochs=8))
    losses = [event.loss for event in events if isinstance(event, TrainStep)]
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert [event.step for event in evaluations] == [3 * epoch for epoch in range(1, 9)]
    assert all(len(event.held_out_nll) == 3 for event in evaluations)


def test_tokens_and_epochs_are_counted(build_llama: BuildModel, build_rows: BuildRows, quick_settings: TrainSettings) -> None:
    rows = build_rows(8)
    steps = [event for event in run(build_llama(), rows, quick_settings) if isinstance(event, TrainStep)]
    assert [event.epoch for event in steps] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert sum(event.tokens for event in steps) == quick_settings.epochs * sum(map(len, rows))


@pytest.mark.parametrize("tokens_per_pass", [1, 10_000])
def test_how_rows_are_split_into_passes_does_not_change_the_training(
    build_llama: BuildModel, build_rows: BuildRows, quick_settings: TrainSettings, tokens_per_pass: int
) -> None:
    rows = build_rows(8)
    reference = run(build_llama(), rows, quick_settings)
    events = run(build_llama(), rows, replace(quick_settings, tokens_per_pass=tokens_per_pass))
    for event, expected in zip(events, reference, strict=True):
        if isinstance(event, TrainStep) and isinstance(expected, TrainStep):
            assert event.loss == pytest.approx(expected.loss, abs=1e-3)


def test_a_loss_that_is_no_number_stops_the_training_naming_step_and_rows(
    build_llama: BuildModel, build_rows: BuildRows, quick_settings: TrainSettings
) -> None:
    model = build_llama()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"broke at step 1: the loss is nan.*\(rows row-.*Lower \[rungs.lora\] learning_rate"):
        run(model, build_rows(4), quick_settings)


def test_a_gradient_that_overflows_stops_before_the_adapter_is_touched(
    build_llama: BuildModel, build_rows: BuildRows, quick_settings: TrainSettings
) -> None:
    rows, model = build_rows(4), build_llama()
    with adapted(model, quick_settings) as wrapped:
        before = [value.detach().clone() for value in adapter_tensors(wrapped).values()]
        first = next(iter(adapter_tensors(wrapped).values()))
        path = SpoiltPath(wrapped.get_base_model(), lambda: first.grad.fill_(float("inf")))
        training = train(wrapped.get_base_model(), build_optimizer(wrapped, quick_settings), rows, [], quick_settings, path=path)
        with pytest.raises(ModelError, match="its gradient is not finite"):
            next(training)
        assert all(torch.equal(old, new) for old, new in zip(before, adapter_tensors(wrapped).values(), strict=True))


def test_a_part_that_gets_no_gradient_is_named_after_the_first_step(
    build_llama: BuildModel, build_rows: BuildRows, quick_settings: TrainSettings
) -> None:
    model = build_llama()
    with adapted(model, quick_settings) as wrapped:
        inert = next(value for name, value in wrapped.named_parameters() if "layers.1.mlp.up_proj.lora_B" in name)
        path = SpoiltPath(wrapped.get_base_model(), lambda: inert.grad.zero_())
        optimizer = build_optimizer(wrapped, quick_settings)
        training = train(wrapped.get_base_model(), optimizer, build_rows(4), [], quick_settings, path=path)
        with pytest.raises(ModelError, match="no gradient at .*layers.1.mlp.up_proj"):
            next(training)


def test_many_inert_parts_are_counted(build_llama: BuildModel, quick_settings: TrainSettings) -> None:
    with adapted(build_llama(), quick_settings) as wrapped, pytest.raises(ModelError, match="and 11 more"):
        check_every_part_learns(wrapped)
