"""`stepladder jobs`: what has run on this machine, read from the folders again when the index is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from filled_store import put_job
from small_tasks import write_task
from stepladder.service.run_index import note_runs
from stepladder.storage.store import DATABASE, Store
from tiny_training import build_base, tune


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def stepladder(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == code, done.stderr
    return done.stdout


def listed(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stepladder("jobs", *arguments, "--json"))
    return found


def finished_climb(folder: Path) -> Path:
    """A climb's folder, as far as the index looks at it."""
    write_task(folder, 24, model='base = "fake"')
    run = folder / "runs" / "2026-11-22-1015-quiet-heron"
    shutil.copytree(folder, run / "task", ignore=lambda *_: ["runs"])
    (run / "climb.json").write_text('{"key": "k", "created": "2026-11-22T10:15:00+00:00"}', encoding="utf-8")
    verdict = '{"record": {"verdict": {"outcome": "SUFFICIENT", "rung": "few-shot"}}}'
    (run / "verdict.json").write_text(verdict, encoding="utf-8")
    return run


def test_nothing_has_run_yet_is_said(own_home: Path) -> None:
    assert stepladder("jobs") == "Nothing has run yet. Run: stepladder demo\n"
    assert listed() == {"runs": [], "jobs": []}


def test_climbs_tunes_and_service_jobs_are_listed_together(tmp_path: Path, own_home: Path) -> None:
    run = finished_climb(tmp_path / "things")
    adapter = tune_a_little(tmp_path / "things" / "tuned" / "sft")
    note_runs(tmp_path / "things")
    with Store(own_home) as store:
        job = put_job(store)
    found = listed()
    assert {entry["folder"] for entry in found["runs"]} == {str(run), str(adapter)}
    climb = next(entry for entry in found["runs"] if entry["kind"] == "climb")
    assert (climb["task"], climb["status"], climb["summary"]) == ("things", "finished", "SUFFICIENT: few-shot")
    (shown,) = found["jobs"]
    assert (shown["id"], shown["status"]) == (job.id, "validating_files")
    text = stepladder("jobs")
    assert "climb finished" in text
    assert "tune  finished" in text
    assert job.id in text


def tune_a_little(folder: Path) -> Path:
    return tune(build_base(), folder).folder


def test_a_lost_index_is_read_from_the_folders_again(tmp_path: Path, own_home: Path) -> None:
    run = finished_climb(tmp_path / "work" / "things")
    other = finished_climb(tmp_path / "work" / "deep" / "others")
    (other / "verdict.json").unlink()
    note_runs(tmp_path / "work" / "things")
    before = listed()
    shutil.rmtree(own_home)
    text = stepladder("jobs", "rebuild", tmp_path / "work")
    assert text.endswith("2 runs are in the index.\n")
    after = {entry["folder"]: entry for entry in listed("list", "--limit", 9)["runs"]}
    assert after[str(run)] == before["runs"][0]
    assert after[str(other)]["status"] == "unfinished"
    shutil.rmtree(other)
    assert {entry["status"] for entry in listed()["runs"]} == {"finished", "missing"}
    assert stepladder("jobs", "rebuild", tmp_path / "work").endswith("1 run is in the index.\n")


def test_a_climb_of_the_command_line_enters_itself(tmp_path: Path) -> None:
    write_task(tmp_path / "things", 24, model='base = "fake"')
    stepladder("climb", tmp_path / "things")
    (entry,) = listed("list")["runs"]
    assert (entry["kind"], entry["status"]) == ("climb", "finished")
    (run,) = (tmp_path / "things" / "runs").glob("*/verdict.json")
    verdict = json.loads(run.read_text(encoding="utf-8"))["record"]["verdict"]
    assert entry["summary"] == f"{verdict['outcome'].replace('_', ' ')}: {verdict['rung']}"
    assert Path(entry["folder"]).parent == tmp_path / "things" / "runs"


def test_a_broken_index_stops_no_climb(tmp_path: Path, own_home: Path) -> None:
    own_home.mkdir()
    (own_home / DATABASE).write_bytes(b"no database " * 500)
    note_runs(tmp_path)
    assert "is damaged or no database" in run_failing("jobs")


def run_failing(*arguments: str) -> str:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 3
    return done.stderr


def test_a_backup_is_taken_while_the_store_is_open(tmp_path: Path, own_home: Path) -> None:
    with Store(own_home) as store:
        job = put_job(store)
        assert "is copied to" in stepladder("jobs", "backup", tmp_path / "copy.sqlite3")
    (tmp_path / "restored").mkdir()
    shutil.move(tmp_path / "copy.sqlite3", tmp_path / "restored" / DATABASE)
    with Store(tmp_path / "restored") as restored:
        assert restored.jobs(job.project).get(job.id) == job
    stepladder("jobs", "backup", tmp_path / "none", "--folder", tmp_path / "nowhere", code=3)
