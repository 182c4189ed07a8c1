"""The calibration of the retention gate, and in its long form the gate and its remedies on the real starter model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calibrate import HELD_OUT, RESULT, ROWS, TUNES, Bench, Recipe
from retention_table import DECISION, filled

from stepladder.evaluation.retention import CHOICES, GENERAL_TEXT, INSTRUCTIONS, MOST_MARGIN_LOSS, MOST_NLL_RISE
from stepladder.models.adapter_scale import write_scaled


def test_three_healthy_and_three_overcooked_tunes_are_made() -> None:
    assert [tune.healthy for tune in TUNES] == [True] * 3 + [False] * 3
    assert len({tune.name for tune in TUNES}) == len(TUNES)
    assert HELD_OUT < ROWS


def test_the_limits_in_force_pass_the_tunes_that_kept_their_abilities_and_catch_the_others() -> None:
    recorded = json.loads(RESULT.read_text(encoding="utf-8"))["tunes"]
    assert [tune["name"] for tune in recorded[: len(TUNES)]] == [tune.name for tune in TUNES]
    for tune in recorded[: len(TUNES)]:
        loss = {one["name"]: one["loss"] for one in tune["measures"]}
        caught = loss[GENERAL_TEXT]["high"] > MOST_NLL_RISE or loss[CHOICES]["value"] > MOST_MARGIN_LOSS
        kept = tune["healthy"] and loss[INSTRUCTIONS]["low"] <= 0  # the label task, though made by the presets, forgot
        assert caught is not kept, tune["name"]


def test_the_decision_holds_the_recorded_figures() -> None:
    text = DECISION.read_text(encoding="utf-8")
    assert filled(text) == text


@pytest.mark.long
@pytest.mark.starter
def test_on_the_starter_model_an_overcooked_tune_fails_and_a_weaker_adapter_restores_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    healthy = bench.tune(Recipe("healthy", "tickets", True, 3))
    assert all(one.within for one in bench.measure(Recipe("healthy", "tickets", True, 3), healthy))
    overcooked = bench.tune(Recipe("overcooked", "tickets", False, 3, 10.0, False))
    before = {one.name: one for one in bench.likely(overcooked)}
    assert not before[GENERAL_TEXT].within
    write_scaled(overcooked, tmp_path / "weaker", 0.05)
    assert all(one.within for one in bench.likely(tmp_path / "weaker"))
