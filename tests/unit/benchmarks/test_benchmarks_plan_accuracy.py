from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from made_up_climb import made_up_climb
from plan_accuracy import Comparison, compare, fitting_factor, main, runs_at
from stepladder.domain.protocols import Choices
from stepladder.service.plan import Plan
from stepladder.storage.records import to_json
from stepladder.storage.run_folder import RunFolder

SECONDS = {"prompt": 26.0, "few-shot": 26.0, "nearest": 104.0, "lora": 107.0, "lora+nearest": 300.0}


def finished(task: Path) -> RunFolder:
    plan = Plan(Choices(), SECONDS, 40.0, ("lora+nearest",), ())
    run = RunFolder.create(task / "runs", {"plan": to_json(plan)}, now=datetime(2026, 1, 1))
    run.write_verdict(made_up_climb(), {})
    return run


def test_rungs_that_were_planned_and_ran_are_compared_and_then_the_whole(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert [found.path for found in runs_at(tmp_path)] == [found.path for found in runs_at(run.path)] == [run.path]
    ratios = {one.rung: one.ratio for one in compare(run)}
    assert ratios == {
        "prompt": 2.0,
        "few-shot": 2.0,
        "nearest": 0.5,
        "lora": 2.0,
        "whole climb": pytest.approx(431 / (26 + 26 + 104 + 107 + 40)),
    }


def test_the_factor_is_fitted_to_rungs_that_only_answer() -> None:
    def one(rung: str, seconds: float) -> Comparison:
        return Comparison("run", "task", rung, 10.0, seconds)

    answering = [one("few-shot", 20), one("nearest", 10), one("rag", 5)]
    assert fitting_factor([*answering, one("lora", 900), one("prompt", 900)], used=1.6) == pytest.approx(1.6)
    assert fitting_factor([one("few-shot", 25)], used=2.0) == pytest.approx(5.0)
    assert fitting_factor([one("lora", 900)]) is None


def test_the_command_prints_and_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    result = tmp_path / "out" / "plan_accuracy.json"
    assert main([str(tmp_path)], result) == 0
    assert "would have fitted the answering rungs" in capsys.readouterr().out
    written = json.loads(result.read_text(encoding="utf-8"))
    assert [rung["rung"] for rung in written["rungs"]][-1] == "whole climb"
    assert main([str(tmp_path / "nothing")], result) == 2
