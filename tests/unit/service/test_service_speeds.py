from __future__ import annotations

from pathlib import Path

from stepladder.engines.fake import FakeEngine
from stepladder.service.speeds import measure_speeds, remember_training


def test_speeds_are_measured_once_and_a_training_corrects_its_own_task_only(tmp_path: Path) -> None:
    engine, cache = FakeEngine(), tmp_path / "speeds.json"
    first = measure_speeds(engine, cache, task="tickets")
    asked = len(engine.calls)
    remember_training(engine, cache, task="tickets", tokens=600, seconds=3)
    assert measure_speeds(engine, cache, task="tickets").training == 200
    assert measure_speeds(engine, cache, task="other") == first
    assert len(engine.calls) == asked > 0


def test_a_broken_cache_file_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "speeds.json").write_text("{", encoding="utf-8")
    assert measure_speeds(FakeEngine(), tmp_path / "speeds.json", task="t").prompt > 0
