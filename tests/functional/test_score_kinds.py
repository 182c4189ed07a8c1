"""Scoring where more than a text is at stake: a fitted style grader after cross-fitting, and tool calls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import stepladder
from stepladder.data.bundled import copy_bundled
from stepladder.domain.errors import RunError
from stepladder.service.style import load_style
from stepladder.storage.run_folder import RunFolder

ONLY_PROMPT = '\n[rungs]\nskip = ["baseline", "constrained", "few-shot", "nearest"]\n[model]\nbase = "fake"\n'
TOOL = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PLACES = "Graz Lyon Turin Bergen Porto Ghent Malmo Split Krakow Bath Leiden Trier".split()


def test_new_rows_are_graded_by_the_style_that_the_run_has_learned(tmp_path: Path) -> None:
    folder = tmp_path / "voice"
    copy_bundled("voice", folder)
    lines = (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "examples.jsonl").write_text("".join(lines[:24]), encoding="utf-8")
    (tmp_path / "new.jsonl").write_text("".join(lines[24:44]), encoding="utf-8")
    with (folder / "task.toml").open("a", encoding="utf-8") as file:
        file.write(ONLY_PROMPT)
    climb = stepladder.climb(folder)  # the fake model repeats its input: never in the voice
    found = stepladder.score(folder, tmp_path / "new.jsonl", target=0.5)
    assert (found.grader, found.rung) == ("style", "prompt")
    assert found.interval is not None
    assert found.interval.value < 0.4
    assert not found.passed
    assert found.metrics["style_auc"] > 0.8
    assert 0 < found.metrics["chrf"] < 1
    model = load_style(RunFolder.open(climb.folder), None)
    assert model is not None
    assert model.pairs == 24
    shutil.rmtree(climb.folder / "graders")
    with pytest.raises(RunError, match="does not hold its style grader"):
        stepladder.score(folder, tmp_path / "new.jsonl")


def test_tool_calls_are_graded_as_in_the_climb(tmp_path: Path) -> None:
    def row(number: int) -> str:
        arguments = json.dumps({"city": f"{PLACES[number % 12]} {number}"})
        call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": arguments}}
        said = json.dumps({"tool_calls": [{"name": "find", "arguments": json.loads(arguments)}]})  # which the fake model repeats
        turns = [{"role": "user", "content": said}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        return json.dumps({"id": f"r{number}", "tools": [TOOL], "messages": turns}) + "\n"

    toml = 'name = "calls"\ninstruction = "Find it."\ntarget = 0.9\n[data]\nexamples = "examples.jsonl"\n'
    (tmp_path / "task.toml").write_text(toml + ONLY_PROMPT, encoding="utf-8")
    (tmp_path / "examples.jsonl").write_text("".join(map(row, range(24))), encoding="utf-8")
    (tmp_path / "new.jsonl").write_text("".join(map(row, range(24, 36))), encoding="utf-8")
    stepladder.climb(tmp_path)
    found = stepladder.score(tmp_path, tmp_path / "new.jsonl")
    assert found.grader == "tool_calls"
    assert [row.score for row in found.rows] == [1.0] * 12
    assert json.loads(found.rows[0].answer)["tool_calls"][0]["arguments"] == {"city": "Graz 24"}
    assert found.passed
