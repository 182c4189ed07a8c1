"""kill -9 at any moment: real engine, real training, a tiny random model; the climb continues and ends with the same numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_tasks import write_task
from tiny_model import build_tiny_model

KILLS = 3
LONG_KILLS = 15


def start_climb(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "climb", str(folder), "--budget-minutes", "600"]
    environment = {**os.environ, "STEPLADDER_DTYPE": "float32", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def climb_through_kills(folder: Path, seconds: list[float]) -> int:
    """Start the climb again and again, killing it after each of `seconds`, then let it end. Returns the kills that struck."""
    struck = 0
    for wait in seconds:
        process = start_climb(folder)
        time.sleep(wait)
        if process.poll() is not None:  # a busy machine: it was through before it could be killed
            process.communicate()
            return struck
        struck += 1
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start_climb(folder)
    output, errors = process.communicate(timeout=280)
    assert process.returncode in (0, 1), errors
    assert "Report:" in output
    return struck


def graded(folder: Path) -> list[tuple[object, ...]]:
    (run,) = (folder / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = ("rung", "split", "id", "seed", "answer", "score", "adapter_sha256")
    return sorted(tuple(row[key] for key in keys) for row in rows)


def make_task(folder: Path, model: Path) -> Path:
    write_task(
        folder,
        130,
        model=f'base = "{model}"',
        rungs='skip = ["classifier", "lora+nearest", "lora+constrained"]',
        **{"rungs.lora": "epochs = 2"},
    )
    return folder


def check(tmp_path: Path, kills: int) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    whole = make_task(tmp_path / "whole", model)
    started = time.monotonic()
    climb_through_kills(whole, [])
    duration = time.monotonic() - started
    dice = random.Random(7)
    broken = make_task(tmp_path / "broken", model)
    struck = climb_through_kills(broken, [dice.uniform(0.1, 0.7) * duration for _ in range(kills)])
    assert struck > 0
    assert graded(broken) == graded(whole)
    answers = [line for run in (broken / "runs").iterdir() for line in (run / "generations.jsonl").read_text().splitlines()]
    keys = [json.loads(line)["key"] for line in answers if line.endswith("}")]
    assert len(keys) == len(set(keys))


@pytest.mark.starter
@pytest.mark.timeout(600)
def test_a_killed_climb_ends_with_the_same_numbers(tmp_path: Path) -> None:
    check(tmp_path, KILLS)


@pytest.mark.starter
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_climb_killed_many_times_ends_with_the_same_numbers(tmp_path: Path) -> None:
    check(tmp_path, LONG_KILLS)
