"""The Python API of the README: the same nouns as the command line, and results that print well."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from pathlib import Path

import pytest
from rich.console import Console

import stepladder
from small_tasks import write_task
from stepladder.domain.errors import DataError, UsageError


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
    table = str(climb.rungs).splitlines()
    assert [line.removeprefix("★").split()[0] for line in table] == ["rung", *(rung.name for rung in climb.rungs)]
    assert str(pickle.loads(pickle.dumps(climb.rungs))) == str(climb.rungs)
    assert "<table" in climb.rungs._repr_html_()
    assert "Verdict" not in climb.rungs._repr_html_()
    prompt = next(rung for rung in climb.rungs if rung.name == "prompt")
    assert re.fullmatch(r"prompt: ran, validation 0\.\d\d \[.*\], test 0\.\d\d \[.*\]", str(prompt))
    assert str(climb.rungs[-1]) == f"hosted: not applicable. {climb.rungs[-1].reason}"
    again = stepladder.load_climb(tmp_path / "things")
    assert again.record == climb.record
    assert again.folder == climb.folder


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished climb of the fake model."""
    folder = tmp_path_factory.mktemp("climbed")
    (folder / "task.toml").write_text(
        'name = "t"\ninstruction = "Repeat."\n[model]\nbase = "fake"\n[data]\nexamples = "rows.jsonl"\n', encoding="utf-8"
    )
    words = "tea rain ships bread glass winter clocks paint maps owls salt doors".split()
    rows = [{"prompt": f"question {number} about {word}", "completion": word} for number, word in enumerate(words)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(folder / "cache"))
        stepladder.climb(folder)
    return folder


def test_predictions_of_a_named_rung_land_in_a_file(tmp_path: Path, climbed: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": "n1", "prompt": "what about tea"}\n', encoding="utf-8")
    done = stepladder.predict(climbed, tmp_path / "new.jsonl", tmp_path / "out.jsonl", rung="baseline")
    (line,) = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (done.rung, done.answered, done.new) == ("baseline", 1, 1)
    assert line["id"] == "n1"
    assert line["answer"]


@pytest.mark.parametrize(("lines", "letters", "new"), [(0, 5, 9), (4, 0, 5), (4, 1, 5), (4, 60, 5), (8, -1, 1), (9, 0, 0)])
def test_predictions_that_were_broken_off_go_on_and_only_whole_lines_are_left(
    tmp_path: Path, climbed: Path, lines: int, letters: int, new: int
) -> None:
    rows = [{"id": f"n{number}", "prompt": f"what about number {number}"} for number in range(9)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    stepladder.predict(climbed, tmp_path / "new.jsonl", out, rung="prompt")
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:lines]) + (whole[lines][:letters] if letters else b""))
    done = stepladder.predict(climbed, tmp_path / "new.jsonl", out, rung="prompt")
    assert (done.answered, done.new) == (9, new)
    assert out.read_bytes().splitlines(keepends=True)[:lines] == whole[:lines]
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["id"], line["answer"]) for line in answers] == [(row["id"], row["prompt"]) for row in rows]


@pytest.mark.parametrize("content", ["my notes\n", "my notes", '{"id": 1}\n', "[]\n", '{"id": "n1", "rung": "prompt"\n'])
def test_predictions_never_go_into_a_file_that_holds_something_else(tmp_path: Path, climbed: Path, content: str) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": "n1", "prompt": "what about tea"}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    out.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="out.jsonl:1: this is not a file of answers"):
        stepladder.predict(climbed, tmp_path / "new.jsonl", out, rung="prompt")
    assert out.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("place", [".", os.devnull])
def test_predictions_go_into_files_only(tmp_path: Path, climbed: Path, place: str) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": "n1", "prompt": "what about tea"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="is no file"):
        stepladder.predict(climbed, tmp_path / "new.jsonl", tmp_path / place, rung="prompt")


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
