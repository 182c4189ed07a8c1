"""Ctrl-C or kill -9 at any moment: real engine, real training; the climb continues and ends with the same numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from small_tasks import write_task
from tiny_model import build_tiny_model

BLOWS = 2
LONG_BLOWS = 16


HEED_INTERRUPTS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from stepladder.interfaces.cli.main import run
run()
"""
"""What runs in the background of a shell ignores Ctrl-C, and so does all it starts, unless it is told otherwise."""


@contextmanager
def climbing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HEED_INTERRUPTS, "climb", str(folder), "--budget-minutes", "600"]
    environment = {**os.environ, "STEPLADDER_DTYPE": "float32", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # where the test ends before it


@dataclass(frozen=True)
class Blow:
    """A signal, sent so many seconds after so much has been answered: what has been done decides, not how fast the machine is."""

    kind: signal.Signals
    answered_bytes: int
    seconds: float


def climb_through(folder: Path, blows: Sequence[Blow]) -> int:
    """Start the climb again and again, each time struck by a blow, then let it end. Returns the blows that struck."""
    struck = 0
    for blow in blows:
        with climbing(folder) as process:
            while process.poll() is None and answered_bytes(folder) < blow.answered_bytes:
                time.sleep(0.02)
            time.sleep(blow.seconds)
            struck += process.poll() is None
            process.send_signal(blow.kind)
            output, errors = process.communicate()
        if "Report:" in output:  # through before it could be struck
            return struck
        assert process.returncode == (130 if blow.kind is signal.SIGINT else -signal.SIGKILL), errors
        if blow.kind is signal.SIGINT:
            assert errors.endswith("Interrupted; nothing is lost. Run the same command again to continue.\n")
            assert "Traceback" not in errors
    with climbing(folder) as process:
        output, errors = process.communicate()
    assert process.returncode in (0, 1), errors
    assert "Report:" in output
    return struck


def answered_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("runs/*/generations.jsonl"))


def graded(folder: Path) -> dict[tuple[str, str], list[tuple[object, ...]]]:
    """Every graded answer, by split and rung."""
    (run,) = (folder / "runs").iterdir()
    found = defaultdict(list)
    for row in map(json.loads, (run / "rows.jsonl").read_text(encoding="utf-8").splitlines()):
        found[row["split"], row["rung"]].append(tuple(row[key] for key in ("id", "seed", "answer", "score", "adapter_sha256")))
    return {key: sorted(rows) for key, rows in found.items()}


def make_task(folder: Path, model: Path) -> Path:
    write_task(
        folder,
        130,
        model=f'base = "{model}"',
        rungs='skip = ["classifier", "lora+nearest", "lora+constrained"]',
        **{"rungs.lora": "epochs = 2"},
    )
    return folder


def check(tmp_path: Path, blows: int) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    whole = make_task(tmp_path / "whole", model)
    climb_through(whole, [])
    dice = random.Random(7)
    moments = sorted(dice.uniform(0.02, 0.8) * answered_bytes(whole) for _ in range(blows))
    kinds = cycle([signal.SIGINT, signal.SIGKILL])
    broken = make_task(tmp_path / "broken", model)
    struck = climb_through(broken, [Blow(next(kinds), round(moment), dice.uniform(0, 0.5)) for moment in moments])
    assert struck > 0
    ends, wanted = graded(broken), graded(whole)
    assert {key for key in ends if key[0] == "validation"} == {key for key in wanted if key[0] == "validation"}
    both = ends.keys() & wanted.keys()  # of rungs that tie on validation, the clock chooses which answers the test rows
    assert ("test", "prompt") in both
    assert {key: ends[key] for key in both} == {key: wanted[key] for key in both}
    answers = [line for run in (broken / "runs").iterdir() for line in (run / "generations.jsonl").read_text().splitlines()]
    keys = [json.loads(line)["key"] for line in answers if line.endswith("}")]
    assert len(keys) == len(set(keys))


@pytest.mark.starter
@pytest.mark.timeout(600)
def test_a_climb_interrupted_and_killed_ends_with_the_same_numbers(tmp_path: Path) -> None:
    check(tmp_path, BLOWS)


@pytest.mark.starter
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_climb_interrupted_and_killed_many_times_ends_with_the_same_numbers(tmp_path: Path) -> None:
    check(tmp_path, LONG_BLOWS)
