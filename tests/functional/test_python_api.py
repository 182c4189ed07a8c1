"""The Python API of the README: the same nouns as the command line, and results that print well."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import stepladder
from small_tasks import write_task


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def test_a_climb_prints_in_a_terminal_and_in_a_notebook_and_is_found_again(tmp_path: Path) -> None:
    world = write_task(tmp_path / "things", 130, rungs='skip = ["classifier"]')
    task = stepladder.Task.load(tmp_path / "things")
    climb = stepladder.climb(task, tools=world.tools)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(climb)
    shown = console.export_text()
    assert "few-shot" in shown
    assert climb.verdict.sentence[:30] in " ".join(shown.split())
    notebook = climb._repr_html_()
    assert "<table" in notebook
    assert "<script" not in notebook
    assert {rung.name for rung in climb.rungs} >= {"baseline", "prompt", "lora"}
    again = stepladder.load_climb(tmp_path / "things")
    assert again.record == climb.record
    assert again.folder == climb.folder


def test_predictions_of_a_named_rung_land_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(
        'name = "t"\ninstruction = "Repeat."\n[model]\nbase = "fake"\n[data]\nexamples = "rows.jsonl"\n', encoding="utf-8"
    )
    words = "tea rain ships bread glass winter clocks paint maps owls salt doors".split()
    rows = [{"prompt": f"question {number} about {word}", "completion": word} for number, word in enumerate(words)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    climb = stepladder.climb(tmp_path)
    (tmp_path / "new.jsonl").write_text('{"id": "n1", "prompt": "what about tea"}\n', encoding="utf-8")
    done = stepladder.predict(climb.folder, tmp_path / "new.jsonl", tmp_path / "out.jsonl", rung="baseline")
    (line,) = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (done.rung, done.answered, done.new) == ("baseline", 1, 1)
    assert line["id"] == "n1"
    assert line["answer"]


def test_only_public_names_are_offered() -> None:
    names = {
        "Checked",
        "Climb",
        "FineTune",
        "Scored",
        "Task",
        "Watcher",
        "__version__",
        "check",
        "climb",
        "copy_bundled",
        "init_task",
        "load_climb",
        "plan",
        "predict",
        "read_file",
        "score",
        "tune",
        "write_examples",
    }
    assert set(stepladder.__all__) == names
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        stepladder.train  # noqa: B018
