"""`stepladder score` over a server that can get worse: exit codes, comparison, JUnit, continuing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import stepladder
from scored_climb import Scene, scored_climb
from stepladder.domain.errors import DataError, RunError, UsageError
from stepladder.domain.task import Task
from stepladder.service.predict import held_output


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scored_climb(tmp_path_factory.mktemp("score") / "things") as scene:
        yield scene


@pytest.fixture
def scene(climbed: Scene) -> Scene:
    climbed.rate = 0.9
    return climbed


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "stepladder.interfaces.cli.main", "score", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=240)


def test_an_unchanged_rung_passes_and_is_compared_row_by_row_with_its_own_test_scores(scene: Scene, tmp_path: Path) -> None:
    shown = command(scene.task, scene.test_rows(), "--junit", tmp_path / "out" / "junit.xml", "--fresh")
    assert shown.returncode == 0, shown.stderr
    assert "Passed." in shown.stdout
    assert "pair by pair" in shown.stdout
    assert "% (" in shown.stdout
    again = stepladder.score(scene.run, scene.test_rows())
    assert again.new == 0
    assert again.against is not None
    assert again.against.comparison.difference.value == 0
    assert again.interval == scene.climb.rungs[[rung.name for rung in scene.climb.rungs].index("prompt")].test
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()[0]
    assert int(suite.get("tests", "0")) == len(again.rows)
    assert int(suite.get("failures", "0")) == sum(row.score == 0 for row in again.rows) > 0


def test_a_rung_that_has_become_worse_exits_1_although_it_is_above_the_target(scene: Scene) -> None:
    scene.rate = 0.7
    shown = command(scene.run, scene.test_rows(), "--fresh", "--target", "0.2", "--json")
    assert shown.returncode == 1, shown.stderr
    found = json.loads(shown.stdout)
    assert found["passed"] is False
    assert found["against"]["comparison"]["probability_worse"] >= 0.95
    assert found["against"]["comparison"]["paired"] is True
    assert "worse than 'prompt'" in " ".join(found["failures"])
    assert not any("below the target" in failure for failure in found["failures"])


def test_below_the_target_exits_1(scene: Scene) -> None:
    shown = command(scene.run, scene.test_rows(), "--target", "0.99", "--fresh")
    assert shown.returncode == 1
    assert "below the target of 99 %" in shown.stdout


def test_rows_never_seen_are_compared_as_other_rows(scene: Scene) -> None:
    found = stepladder.score(scene.run, scene.new_rows(), against=scene.run)
    assert found.against is not None
    assert not found.against.comparison.paired
    assert found.passed
    assert found.notes == ()
    scene.rate = 0.3
    worse = stepladder.score(scene.run, scene.new_rows(), target=0.1, fresh=True)
    assert not worse.passed


def test_rows_the_climb_chose_by_are_pointed_out(scene: Scene) -> None:
    found = stepladder.score(scene.run, scene.task / "examples.jsonl")
    trained = 130 - scene.climb.record.split_sizes["test"]
    assert found.notes[0].startswith(f"{trained} rows of 130:")


def test_a_broken_off_scoring_continues_where_it_was(scene: Scene) -> None:
    file = scene.new_rows(70)
    whole = stepladder.score(scene.run, file)
    assert whole.new == 70
    (answers,) = [path for path in (scene.run / "scores").iterdir() if len(path.read_text().splitlines()) == 70]
    lines = answers.read_text(encoding="utf-8").splitlines(keepends=True)
    answers.write_text("".join(lines[:32]) + lines[32][:20], encoding="utf-8")  # killed in mid-line
    asked = len(scene.server.requests)
    again = stepladder.score(scene.run, file)
    assert again.new == 38
    assert len(scene.server.requests) - asked <= 38
    assert [row.score for row in again.rows] == [row.score for row in whole.rows]


def test_two_processes_never_score_the_same_at_once(scene: Scene) -> None:
    file = scene.new_rows(70)
    stepladder.score(scene.run, file)
    (answers,) = [path for path in (scene.run / "scores").glob("*.answers.jsonl") if len(path.read_text().splitlines()) == 70]
    with held_output(answers, Task.load(scene.task)), pytest.raises(RunError, match="another process answers"):
        stepladder.score(scene.run, file, fresh=True)
    assert len(answers.read_text().splitlines()) == 70  # `fresh` took nothing from under the other


def test_what_does_not_make_sense_is_said(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rate"):
        stepladder.score(scene.run, scene.new_rows(), target=85)
    with pytest.raises(RunError, match="no test scores of 'few-shot'.*among: prompt"):
        stepladder.score(scene.run, scene.new_rows(), rung="few-shot", against=scene.run)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(
        '{"prompt": "A heron.", "completion": "bird"}\n{"prompt": "A carp.", "completion": "dragon"}\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"wrong.jsonl:2"):
        stepladder.score(scene.run, wrong)
    assert command(scene.run, wrong).returncode == 3
    assert command(scene.run, scene.new_rows(), "--target", "85").returncode == 2
    assert command(scene.run, scene.new_rows(), "--rung", "lora").returncode == 3
