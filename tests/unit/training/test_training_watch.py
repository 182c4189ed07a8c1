"""Whoever watches a training hears of every step and every epoch's adapter, also when it is broken off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import TrainPlan, TrainPoint
from stepladder.files import hash_bytes
from tiny_training import QUICK, STEPS, build_base, build_llama, build_rows, tune


@dataclass
class Diary:
    """Writes down what it is told; leaves in order after step `leave_at`."""

    leave_at: int | None = None
    plans: list[TrainPlan] = field(default_factory=list)
    points: list[TrainPoint] = field(default_factory=list)
    epochs: dict[int, str] = field(default_factory=dict)
    saves: list[int] = field(default_factory=list)

    def begun(self, plan: TrainPlan) -> None:
        self.plans.append(plan)

    def stepped(self, point: TrainPoint) -> None:
        self.points.append(point)

    def epoch_ended(self, point: TrainPoint, adapter: Callable[[], Mapping[str, bytes]]) -> None:
        self.epochs[point.step] = hash_bytes(adapter()["adapter_model.safetensors"])

    def may_go_on(self) -> None:
        if self.points and self.points[-1].step == self.leave_at:
            raise KeyboardInterrupt

    def saved(self, step: int) -> None:
        self.saves.append(step)


def test_every_step_is_told_and_every_epoch_hands_out_its_adapter(tmp_path):
    diary = Diary()
    tuned = tune(build_base(), tmp_path / "a", watch=diary)
    (plan,) = diary.plans
    assert (plan.steps, plan.epochs, plan.batch_size, plan.rank, plan.history) == (STEPS, 4, 4, 2, ())
    last = {point.step: point for point in diary.points}
    assert tuple(last.values()) == tuned.history
    assert list(diary.epochs) == [3, 6, 9, 12]
    assert diary.saves == [3, 6, 9, 12]
    assert diary.epochs[tuned.best_step] == tuned.adapter_sha256


def test_epochs_that_end_between_two_evaluations_are_told_too(tmp_path):
    diary = Diary()
    rows, wanted = build_rows(50), QUICK.model_copy(update={"epochs": 2, "batch_size": 2})  # 25 steps an epoch, evaluated at 20
    tune(build_base(), tmp_path / "a", rows=rows, wanted=wanted, watch=diary)
    assert list(diary.epochs) == [25, 50]


@pytest.mark.parametrize("leave_at", range(1, STEPS + 1))
def test_a_training_left_at_any_step_tells_in_all_what_an_uninterrupted_one_tells(tmp_path, leave_at):
    whole, first, second = Diary(), Diary(leave_at), Diary()
    tune(build_base(), tmp_path / "whole", watch=whole)
    with pytest.raises(KeyboardInterrupt):
        tune(build_base(), tmp_path / "left", watch=first)
    tuned = tune(build_base(), tmp_path / "left", watch=second)
    told = {point.step: point for point in (*first.points, *second.points)}
    assert told == {point.step: point for point in whole.points}
    assert {**first.epochs, **second.epochs} == whole.epochs
    for plan in second.plans:  # what was done before is told at the start; the last step's evaluation may still have to come
        assert [(point.step, point.loss) for point in plan.history] == [
            (point.step, point.loss) for point in tuned.history[: len(plan.history)]
        ]


def test_a_fine_tune_goes_on_from_an_adapter_and_keeps_its_shape(tmp_path):
    start = tune(build_base(), tmp_path / "start", wanted=QUICK.model_copy(update={"rank": 4}))
    diary = Diary()
    fresh = tune(build_base(), tmp_path / "fresh")
    gone_on = tune(build_base(), tmp_path / "on", watch=diary, start=start.folder)
    assert diary.plans[0].rank == 4
    assert gone_on.history[0].loss < fresh.history[0].loss  # it begins where the first one ended
    assert gone_on.adapter_sha256 != start.adapter_sha256


def test_an_adapter_of_another_base_or_none_is_no_start(tmp_path):
    with pytest.raises(ModelError, match="there is no adapter to go on from"):
        tune(build_base(), tmp_path / "a", start=Path("nowhere"))
    start = tune(build_base(), tmp_path / "start")
    base = build_base()
    other = replace(base, model=build_llama(1), identity=replace(base.identity, base_sha256="dd" * 32))
    with pytest.raises(ModelError, match="was trained on another"):
        tune(other, tmp_path / "b", start=start.folder)
