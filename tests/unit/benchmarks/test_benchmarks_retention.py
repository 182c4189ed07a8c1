"""The calibration of the retention gate, and in its long form the gate and its remedies on the real starter model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from calibrate import HELD_OUT, RESULT, ROWS, TUNES, Bench, Recipe
from retention_table import DECISION, filled

from stepladder.domain.retention import Retention
from stepladder.domain.verdict import Interval
from stepladder.evaluation.retention import GENERAL_TEXT, MOST_NLL_RISE, Observed, retention_measures
from stepladder.service.remedies import SCALES

ANY = Observed(*[(1.0,)] * 8)
LIMITS = {one.name: one for one in retention_measures(ANY, ANY)}
"""The measures as the product limits them today."""
RECORDED: Mapping[str, Mapping[str, Any]] = {
    tune["name"]: tune for tune in json.loads(RESULT.read_text(encoding="utf-8"))["tunes"]
}


def failed(name: str) -> list[str]:
    """The measures by which the product would fail a recorded tune whose model has other tasks."""
    measures = [replace(LIMITS[one["name"]], loss=Interval(**one["loss"])) for one in RECORDED[name]["measures"]]
    return [one.name for one in Retention(name, True, tuple(measures)).failed]


def bound(name: str) -> float:
    """The bound of a recorded tune's rise on general text."""
    return float(next(one["loss"]["high"] for one in RECORDED[name]["measures"] if one["name"] == GENERAL_TEXT))


def test_three_healthy_and_three_overcooked_tunes_are_made() -> None:
    assert [tune.healthy for tune in TUNES] == [True] * 3 + [False] * 3
    assert len({tune.name for tune in TUNES}) == len(TUNES)
    assert HELD_OUT < ROWS


@pytest.mark.parametrize("tune", TUNES, ids=lambda tune: tune.name)
def test_the_limits_in_force_pass_every_healthy_tune_and_fail_every_overcooked_one(tune: Recipe) -> None:
    assert (failed(tune.name) == []) is tune.healthy


def test_the_limit_on_general_text_keeps_a_margin_on_either_side() -> None:
    healthy, overcooked = ([bound(tune.name) for tune in TUNES if tune.healthy is kind] for kind in (True, False))
    assert 1.4 * max(healthy) < MOST_NLL_RISE < min(overcooked) / 2.5


def test_of_the_products_scales_half_restores_two_overcooked_tunes_and_none_the_third() -> None:
    first = {
        tune.name: next((scale for scale in SCALES if not failed(f"{tune.name}, scale {scale:g}")), None)
        for tune in TUNES
        if not tune.healthy
    }
    assert first == {"rate x10, tickets": 0.5, "rate x10, voice": None, "25 epochs, voice": 0.5}


def test_the_decision_holds_the_recorded_figures() -> None:
    text = DECISION.read_text(encoding="utf-8")
    assert filled(text) == text


@pytest.mark.long
@pytest.mark.starter
@pytest.mark.timeout(3600)
def test_on_the_starter_model_an_overcooked_tune_fails_and_a_scale_of_the_products_restores_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    healthy = Recipe("healthy", "tickets", True, 3)
    assert all(one.within for one in bench.measure(healthy, bench.tune(healthy)))
    overcooked = TUNES[-1]
    before = {one.name: one for one in bench.likely(bench.tune(overcooked))}
    assert not before[GENERAL_TEXT].within
    restoring = [scale for scale in SCALES if all(one.within for one in bench.scaled(overcooked, scale))]
    assert 0.5 in restoring
