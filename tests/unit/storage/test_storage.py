from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from made_up_climb import climbs, made_up_climb
from stepladder.domain.climb import ClimbRecord, GradedRow
from stepladder.domain.errors import RunError
from stepladder.storage.records import from_json, to_json
from stepladder.storage.run_folder import RunFolder

NOW = datetime(2026, 11, 22, 10, 15)


@given(climbs())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_record_survives_its_json(record: ClimbRecord) -> None:
    assert from_json(ClimbRecord, to_json(record)) == record


def test_a_run_is_named_by_time_and_two_words_and_found_again_until_it_has_a_verdict(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {"key": "k"}, now=NOW)
    assert run.name.startswith("2026-11-22-1015-")
    assert RunFolder.unfinished(tmp_path, "k") == run
    assert RunFolder.unfinished(tmp_path, "other") is None
    run.write_verdict(made_up_climb(), {})
    assert RunFolder.unfinished(tmp_path, "k") is None
    assert run.read_verdict() == made_up_climb()


def test_rows_and_results_come_back_as_written(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {}, now=NOW)
    rows = [GradedRow("prompt", "test", "a", "ä\n", None, "broken grader"), GradedRow("lora", "test", "b", "x", 0.5)]
    run.replace_rows(rows)
    assert run.read_rows() == rows
    run.write_result("prompt @ openai:a/b", 2, {"recipe": {"k": 4}, "seconds": 1.0})
    assert run.read_result("prompt @ openai:a/b", 2) == {"recipe": {"k": 4}, "seconds": 1.0}
    assert run.read_result("prompt @ openai:a_b", 2) is None


def test_broken_and_missing_runs_are_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder.open(tmp_path)
    run = RunFolder.create(tmp_path, {}, now=NOW)
    with pytest.raises(RunError, match="no verdict yet"):
        run.read_verdict()
    run.verdict_path.write_text('{"record": 3}', encoding="utf-8")
    with pytest.raises(RunError, match="broken"):
        run.read_verdict()


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, {}, now=NOW)
    with run.locked(), pytest.raises(RunError, match="another process"), run.locked():
        pass
