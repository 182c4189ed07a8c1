"""Which trainings are compiled: long ones, by their rows and settings alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from stepladder.domain.task import LoraSettings
from stepladder.models.loading import load
from stepladder.models.prefix.paths import FusedPath, NotCompiled
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training import compiling
from stepladder.training.compiling import compile_where_it_pays, training_flop
from stepladder.training.presets import TrainSettings, choose_settings
from tiny_model import build_tiny_model

ROWS = [EncodedRow(f"row-{number}", (*range(3, 43), 50 + number, 60 + number), (0.0,) * 41 + (1.0,)) for number in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(str(build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")), device="cpu", dtype="bfloat16").model


@pytest.fixture
def settings() -> TrainSettings:
    wanted = LoraSettings(rank=4, epochs=3, batch_size=4)
    return choose_settings(wanted, rows=8, hidden=64, layers=2, model_type="llama", context_tokens=2048, seed=0)


def test_work_is_counted_by_step_with_shared_tokens_once(model: Any, settings: TrainSettings) -> None:
    weights = model.num_parameters(exclude_embeddings=True)
    assert weights == sum(
        value.numel() for name, value in model.named_parameters() if "embed" not in name and "lm_head" not in name
    )
    assert training_flop(model, ROWS, settings) == 4 * weights * (40 + 4 * 2) * 6  # six steps of four rows
    assert training_flop(model, ROWS, settings, together=2) == 4 * weights * (40 + 8 * 2) * 3  # three steps of four pairs


def test_only_a_long_training_is_compiled(model: Any, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(FusedPath, "compile", lambda self: asked.append(True))
    path = FusedPath(model)
    compile_where_it_pays(path, model, ROWS, settings, pytest.fail)
    assert not asked
    compile_where_it_pays(path, model, ROWS, replace(settings, epochs=10**9), pytest.fail)
    assert asked


def test_a_training_goes_on_where_nothing_can_be_compiled(
    model: Any, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FusedPath) -> None:
        raise NotCompiled("torch's compiler failed (no g++)")

    monkeypatch.setattr(FusedPath, "compile", fail)
    monkeypatch.setattr(compiling, "WORTH_FLOP", 0.0)
    notes: list[str] = []
    compile_where_it_pays(FusedPath(model), model, ROWS, settings, notes.append)
    assert notes == ["Training runs without compiled code, a little slower: torch's compiler failed (no g++)."]


def test_a_wide_type_is_not_even_tried(tmp_path: Any, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "WORTH_FLOP", 0.0)
    wide = load(str(build_tiny_model(tmp_path / "tiny")), device="cpu", dtype="float32").model
    assert wide.dtype == torch.float32
    path = FusedPath(wide)
    compile_where_it_pays(path, wide, ROWS, settings, pytest.fail)
    assert path.name == "fused"
