"""The README does what it says: its order, its quick start on the command line and from Python, its file tree."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = README.partition("## Quick start on your own data")[2].partition("\n## ")[0]
DESKS = ("refund", "delivery", "other")
MESSAGES = [
    f"Something about the {word} since {day}." for word in "lamp van mug rug bus".split() for day in ("May", "June", "July")
]


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", QUICK_START, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found.group(1)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with an export of labelled messages, and new ones."""
    with (tmp_path / "export.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("message", "desk"), *((text, DESKS[row % 3]) for row, text in enumerate(MESSAGES))])
    (tmp_path / "new.jsonl").write_text('{"message": "Where is the van?"}\n', encoding="utf-8")
    return tmp_path


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_sections_stand_in_the_order_of_a_readers_questions() -> None:
    wanted = ["The verdict", "Two commands", "Quick start on your own data", "How it decides", "File tree", "How to change it"]
    assert [title for title in re.findall(r"^## (.*)$", README, flags=re.MULTILINE) if title in wanted] == wanted
    first = README.split("\n\n")[1]
    assert first.startswith("Stepladder ")
    assert first.count(". ") == 0
    assert re.search(r"```sh\nmake demo .*\nmake test .*\n```", README)


@pytest.mark.starter
def test_the_quick_start_runs_on_the_command_line(desk: Path) -> None:
    lines = [shlex.split(line)[1:] for line in block("sh").splitlines() if line.startswith("stepladder ")]
    assert [line[0] for line in lines] == ["init", "check", "plan", "climb", "predict", "report"]
    for line in lines:
        model = ["--model", "fake"] if line[0] == "init" else []
        assert python(desk, "-m", "stepladder.interfaces.cli.main", *line, *model)
    assert (desk / "new.jsonl.answers.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.starter
def test_the_quick_start_runs_from_python(desk: Path) -> None:
    shown = block("python")
    asked_of_the_fake = shown.replace('"export.csv")', '"export.csv", model="fake")')
    assert asked_of_the_fake != shown
    said = python(desk, "-c", asked_of_the_fake)
    assert "15 rows" in said
    assert re.search(r"^prompt ran \d\.\d\d \[\d\.\d\d, \d\.\d\d\]$", said, flags=re.MULTILINE)
    assert (desk / "answers.jsonl").read_text(encoding="utf-8").count("\n") == 1


def test_the_file_tree_shows_the_rooms_that_there_are() -> None:
    tree = README.partition("## File tree")[2].partition("```\n")[2].partition("```")[0]
    shown = set(re.findall(r"^  (\w+)/ ", tree, flags=re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "src" / "stepladder").glob("*/__init__.py")}
