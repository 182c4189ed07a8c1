"""Labels that mean nothing: whatever is fitted to them must be found not to help."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from small_tasks import World, write_task
from stepladder.domain.climb import RungStatus
from stepladder.domain.verdict import Route
from stepladder.service.climb import climb
from tiny_model import build_tiny_model

NO_TUNING = '"lora", "lora+constrained", "lora+nearest"'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def shuffle_labels(folder: Path, seed: int) -> None:
    path = folder / "examples.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    labels = [row["completion"] for row in rows]
    random.Random(seed).shuffle(labels)
    path.write_text("".join(json.dumps({**row, "completion": label}) + "\n" for row, label in zip(rows, labels, strict=True)))


def write_learnable(folder: Path) -> World:
    """A task that a classifier learns from its words, on a model that guesses."""
    world = write_task(folder, 200, rungs=f'skip = ["few-shot", "nearest", {NO_TUNING}]')
    world.zero_shot = 0.25
    return world


def test_a_classifier_learns_labels_that_mean_something_and_wins(tmp_path: Path) -> None:
    world = write_learnable(tmp_path / "task")
    finished = climb(tmp_path / "task", tools=world.tools)
    assert finished.verdict.rung == "classifier"


@pytest.mark.parametrize(("climbs", "most"), [(2, 0), pytest.param(30, 4, marks=pytest.mark.long)])
def test_a_classifier_of_shuffled_labels_is_seldom_found_to_help(tmp_path: Path, climbs: int, most: int) -> None:
    """At most five of a hundred; four or fewer of thirty are then seen in 98 % of all tries."""
    helped = 0
    for seed in range(climbs):
        folder = tmp_path / f"task{seed}"
        world = write_learnable(folder)
        shuffle_labels(folder, seed)
        finished = climb(folder, tools=world.tools)
        assert next(rung for rung in finished.rungs if rung.name == "classifier").status is RungStatus.RAN
        helped += (finished.verdict.rung, finished.verdict.route) == ("classifier", Route.GAIN)
    assert helped <= most


@pytest.mark.long
def test_a_fine_tune_on_shuffled_labels_does_not_help(tmp_path: Path) -> None:
    """Real training of a tiny model: it learns the rows by heart at best, and nothing of it shows on the test rows."""
    model = build_tiny_model(tmp_path / "model")
    skip = 'skip = ["classifier", "few-shot", "nearest", "lora+constrained", "lora+nearest"]'
    write_task(tmp_path / "task", 140, model=f'base = "{model}"', rungs=skip)
    shuffle_labels(tmp_path / "task", 3)
    finished = climb(tmp_path / "task", budget_minutes=600)
    assert next(rung for rung in finished.rungs if rung.name == "lora").status is RungStatus.RAN
    assert not (finished.verdict.rung or "").startswith("lora")
