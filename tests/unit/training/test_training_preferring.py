"""Preference tuning as a whole: what it starts from, what it leaves, what stops it, and what a kill does to it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from safetensors.torch import load_file

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import ModelIdentity, SilentProgress, Tuned
from stepladder.domain.task import DpoSettings, LoraSettings
from stepladder.files import hash_file
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base, tune_rows
from stepladder.training.preferring import dpo_settings_for, tune_pairs
from stepladder.training.presets import dpo_learning_rate

BuildRows = Callable[..., list[EncodedRow]]
IDENTITY = ModelIdentity("tiny", "transformers", "aa" * 32, "bb" * 32, "cc" * 32, context_tokens=96, dtype="float32")
SFT = LoraSettings(rank=2, learning_rate=5e-3, epochs=1, batch_size=4, rank_stabilised=True, target_modules=("q_proj", "up_proj"))
QUICK = DpoSettings(learning_rate=2e-3, epochs=3, batch_size=4)


class KilledError(Exception):
    pass


class Killing(SilentProgress):
    """Breaks off at the given advance."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def advance(self, count: int = 1, detail: str = "") -> None:
        self.left -= count
        if self.left == 0:
            raise KilledError


@pytest.fixture
def base(build_llama: Callable[..., Any]) -> Base:
    return Base(build_llama(), IDENTITY, decode=lambda ids: " ".join(map(str, ids)), stop_ids={2})


@pytest.fixture
def start(base: Base, build_rows: BuildRows, tmp_path: Path) -> Path:
    held_out = build_rows(3, seed=9)
    return tune_rows(base, build_rows(8), held_out, SFT, folder=tmp_path / "sft", seed=0, progress=SilentProgress()).folder


def prefer(base: Base, start: Path, build_pairs: BuildRows, folder: Path, **changes: Any) -> Tuned:
    rows, held_out = build_pairs(12), build_pairs(4, seed=9, name="unseen")
    given = {"start": start, "seed": 0, "progress": SilentProgress(), **changes}
    return tune_pairs(base, rows, held_out, given.pop("wanted", QUICK), folder=folder, **given)


def test_it_begins_at_ln_two_learns_to_prefer_and_leaves_its_start_alone(
    base: Base, start: Path, build_pairs: BuildRows, tmp_path: Path
) -> None:
    before = hash_file(start / "adapter_model.safetensors")
    tuned = prefer(base, start, build_pairs, tmp_path / "dpo")
    assert tuned.history[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert fmean(point.loss for point in tuned.history[-3:]) < math.log(2) - 0.01
    assert len(tuned.held_out_nll) == 4
    assert tuned.steps == 9
    assert hash_file(start / "adapter_model.safetensors") == before
    assert tuned.adapter_sha256 != before


def test_the_adapter_keeps_the_shape_of_its_start_and_records_where_it_comes_from(
    base: Base, start: Path, build_pairs: BuildRows, tmp_path: Path
) -> None:
    tuned = prefer(base, start, build_pairs, tmp_path / "dpo")
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (start, tuned.folder))
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}
    pins = json.loads((tuned.folder / "stepladder.json").read_text(encoding="utf-8"))["pins"]
    assert (pins["objective"], pins["beta"], pins["start_sha256"]) == ("dpo", 0.1, hash_file(start / "adapter_model.safetensors"))
    config = json.loads((tuned.folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["use_rslora"], config["target_modules"]) == (2, True, ["q_proj", "up_proj"])
    assert "| method | DPO, β 0.1, from adapter" in (tuned.folder / "README.md").read_text(encoding="utf-8")


def test_a_kill_ends_with_the_same_bits(base: Base, start: Path, build_pairs: BuildRows, tmp_path: Path) -> None:
    whole = prefer(base, start, build_pairs, tmp_path / "whole")
    with pytest.raises(KilledError):
        prefer(base, start, build_pairs, tmp_path / "killed", progress=Killing(5))
    assert prefer(base, start, build_pairs, tmp_path / "killed").adapter_sha256 == whole.adapter_sha256


def test_another_start_is_another_training(
    base: Base, start: Path, build_pairs: BuildRows, build_rows: BuildRows, tmp_path: Path
) -> None:
    first = prefer(base, start, build_pairs, tmp_path / "dpo")
    other = tune_rows(base, build_rows(8), [], SFT, folder=tmp_path / "other", seed=5, progress=SilentProgress()).folder
    assert prefer(base, other, build_pairs, tmp_path / "dpo-other").adapter_sha256 != first.adapter_sha256


def test_a_held_out_loss_that_no_longer_falls_ends_it(base: Base, start: Path, build_pairs: BuildRows, tmp_path: Path) -> None:
    wanted = QUICK.model_copy(update={"epochs": 40, "learning_rate": 0.02})
    notes: list[str] = []
    watcher = SilentProgress()
    watcher.note = notes.append  # type: ignore[method-assign]
    tuned = prefer(base, start, build_pairs, tmp_path / "dpo", wanted=wanted, progress=watcher)
    assert tuned.best_step < tuned.steps < 40 * 3
    kept = next(point for point in tuned.history if point.step == tuned.best_step)
    assert kept.held_out_nll == pytest.approx(fmean(tuned.held_out_nll))
    assert any("the held-out loss" in note for note in notes)


def test_the_rate_is_a_hundredth_of_the_fine_tunes_preset_with_a_floor(base: Base, start: Path) -> None:
    assert dpo_learning_rate(1e-3) == pytest.approx(1e-5)
    assert dpo_learning_rate(1e-4) == 5e-6
    settings = dpo_settings_for(base, DpoSettings(), start, pairs=50, seed=0)
    assert (settings.learning_rate, settings.rank, settings.batch_size) == (pytest.approx(1e-5), 2, 4)


def test_an_adapter_of_another_base_is_no_start(base: Base, start: Path, build_pairs: BuildRows, tmp_path: Path) -> None:
    side = json.loads((start / "stepladder.json").read_text(encoding="utf-8"))
    side["pins"]["base_sha256"] = "ff" * 32
    (start / "stepladder.json").write_text(json.dumps(side), encoding="utf-8")
    with pytest.raises(ModelError, match="trained on another base weights"):
        prefer(base, start, build_pairs, tmp_path / "dpo")


def test_a_start_that_is_not_there_is_named(base: Base, build_pairs: BuildRows, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: there is no adapter to go on from"):
        prefer(base, tmp_path / "nowhere", build_pairs, tmp_path / "dpo")


def test_no_pairs_are_an_error(base: Base, start: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no preference rows"):
        tune_pairs(base, [], [], QUICK, start=start, folder=tmp_path / "dpo", seed=0, progress=SilentProgress())
