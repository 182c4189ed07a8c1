"""`stepladder init`: from a file to a task that climbs, with two commands and nothing in between."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from small_tasks import LABELS, THINGS, World
from stepladder.domain.task import Task
from stepladder.service.climb import climb
from stepladder.service.init import init_task

TOPICS = "tea rain ships bread glass winter clocks paint maps owls salt doors".split()


def stepladder(*arguments: str | Path, timeout_seconds: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=timeout_seconds)


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def spreadsheet(path: Path, rows: int = 300) -> Path:
    """A team's export: columns of no telling name, a number, a date, a text with commas and line breaks, a class."""
    lines = [["Nr", "Eingang", "Feld 7", "Feld 9"]]
    for number in range(rows):
        label = LABELS[number % 4]
        thing = THINGS[label][number // 4 % 15]
        text = f'A {thing} ,\n"seen" again, near the {TOPICS[number % 12]} ({number * 37 % 1001}).'
        lines.append([str(number + 1), f"2026-0{number % 9 + 1}-11", text, label])
    return write_csv(path, lines)


def test_a_spreadsheet_of_300_rows_reaches_a_verdict_with_two_commands(tmp_path: Path) -> None:
    source = spreadsheet(tmp_path / "export.csv")
    begun = stepladder("init", tmp_path / "task", source, "--model", "fake")
    assert begun.returncode == 0, begun.stderr
    for said in ("Feld 7", "Feld 9", "one of 4 labels", "Eingang", "values that repeat", "stepladder climb"):
        assert said in begun.stdout
    climbed = stepladder("climb", tmp_path / "task", "--json")
    assert climbed.returncode == 0, climbed.stderr
    record = json.loads(climbed.stdout)
    assert record["verdict"]["outcome"] in ("sufficient", "undecided")
    assert record["grader"] == "labels"
    assert sum(record["split_sizes"].values()) == 300


@pytest.mark.long
@pytest.mark.starter
@pytest.mark.timeout(1500)
def test_a_spreadsheet_reaches_a_verdict_with_no_model_named_at_all(tmp_path: Path) -> None:
    begun = stepladder("init", tmp_path / "task", spreadsheet(tmp_path / "export.csv"))
    assert begun.returncode == 0, begun.stderr
    climbed = stepladder("climb", tmp_path / "task", "--json", "--budget-minutes", "4", timeout_seconds=1400)
    assert climbed.returncode == 0, climbed.stderr
    record = json.loads(climbed.stdout)
    assert record["model"]["name"] == "smollm2-135m-instruct"
    assert record["verdict"]["outcome"] in ("sufficient", "undecided")


def test_the_task_that_init_wrote_is_climbed_with_training_too(tmp_path: Path) -> None:
    init_task(tmp_path / "task", spreadsheet(tmp_path / "export.csv"))
    world = World({thing: label for label, things in THINGS.items() for thing in things})
    finished = climb(tmp_path / "task", tools=world.tools)
    assert finished.verdict.rung is not None
    assert finished.record.regime == "large"


def test_json_says_what_was_guessed_and_why(tmp_path: Path) -> None:
    begun = stepladder("init", tmp_path / "task", spreadsheet(tmp_path / "export.csv", 40), "--json")
    assert begun.returncode == 0, begun.stderr
    told = json.loads(begun.stdout)
    guesses = {guess["what"]: guess for guess in told["guesses"]}
    assert guesses["input"]["value"] == "Feld 7"
    assert guesses["id"]["value"] == "Nr"
    assert all(guess["why"] for guess in guesses.values())
    assert told["files"] == ["task.toml", "export.csv"]
    assert any("indicative" in doubt for doubt in told["doubts"])
    assert Task.load(tmp_path / "task").settings.output.labels


def test_a_bad_file_exits_3_with_its_line_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes('text,label\nokay,a\n"caf\u00e9",b\n'.encode("latin-1"))
    refused = stepladder("init", tmp_path / "new" / "task", tmp_path / "rows.csv")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "rows.csv:3: not UTF-8" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_folder_or_nothing_in_place_of_the_file_exits_3(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for source in ("some", "missing.csv"):
        refused = stepladder("init", tmp_path / "task", tmp_path / source)
        assert refused.returncode == 3
        assert source in refused.stderr
    assert not (tmp_path / "task").exists()


def test_a_task_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    source = spreadsheet(tmp_path / "export.csv", 20)
    assert stepladder("init", tmp_path / "task", source).returncode == 0
    (tmp_path / "task" / "task.toml").write_text("mine", encoding="utf-8")
    again = stepladder("init", tmp_path / "task", source)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (tmp_path / "task" / "task.toml").read_text(encoding="utf-8") == "mine"


def test_columns_can_be_named_and_a_misspelt_one_is_refused(tmp_path: Path) -> None:
    source = spreadsheet(tmp_path / "export.csv", 20)
    refused = stepladder("init", tmp_path / "task", source, "--reference", "Feld 8")
    assert refused.returncode == 3
    assert "Feld 9" in refused.stderr
    named = stepladder("init", tmp_path / "task", source, "--input", "Feld 9", "--reference", "Feld 7")
    assert named.returncode == 0, named.stderr
    assert Task.load(tmp_path / "task").settings.data.input == "Feld 9"
