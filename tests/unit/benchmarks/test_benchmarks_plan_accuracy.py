from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from made_up_climb import made_up_climb
from plan_accuracy import Comparison, Peak, compare, fitting_factor, main, report, runs_at
from small_tasks import write_task
from stepladder.domain.protocols import Choices
from stepladder.service.plan import Plan
from stepladder.storage.records import to_json
from stepladder.storage.run_folder import RunFolder
from tiny_model import build_tiny_model

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


def test_a_peak_and_a_whole_climb_are_held_against_what_was_promised() -> None:
    def whole(seconds: float) -> Comparison:
        return Comparison("run", "tickets", "whole climb", 100.0, seconds)

    said = report([whole(129), whole(69)], [Peak("run", "tickets", 2 * 2**30, int(2.2 * 2**30)), Peak("run", "t", 100, 116)])
    assert "1.29  within 30% of the plan" in said
    assert "0.69  beyond 30% of the plan" in said
    assert "peak memory: 2.00 GiB predicted, 2.20 GiB real, 1.10, within 15% of the plan" in said
    assert "1.16, beyond 15% of the plan" in said


def test_a_task_is_climbed_anew_in_a_process_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    task = tmp_path / "things"
    base = build_tiny_model(tmp_path / "model", hidden=32)
    write_task(task, 60, rungs='skip = ["classifier", "nearest", "few-shot", "lora"]', model=f'base = "{base}"')
    result = tmp_path / "plan_accuracy.json"
    assert main(["--climb", "--budget-minutes", "1", str(task)], result) == 0
    (peak,) = json.loads(result.read_text(encoding="utf-8"))["memory"]
    assert peak["predicted_bytes"] > 500 * 2**20  # Python with torch alone
    assert peak["peak_bytes"] > 200 * 2**20
    assert "peak memory:" in capfd.readouterr().out
    assert main(["--climb", str(tmp_path / "nothing")], result) == 3
    assert "ended with exit code" in capfd.readouterr().err
