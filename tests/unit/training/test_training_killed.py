"""What happens to the process: kill -9, signals, and no memory left. Real processes, real signals, the system's own limits."""

from __future__ import annotations

import errno
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import killed_training
from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import Tuned
from stepladder.training import follow
from stepladder.training.adapters import adapted, adapter_tensors, silenced
from stepladder.training.checkpoint import steps_taken
from stepladder.training.failures import is_out_of_memory, memory_named
from stepladder.training.loop import build_optimizer
from stepladder.training.presets import TrainSettings
from tiny_training import KilledError, Watcher, broken_off, build_base, build_llama, continued, tune

SCRIPT = str(Path(killed_training.__file__))


def run_script(*arguments: str | Path, timeout_seconds: float = 280) -> Any:
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=timeout_seconds
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Kills


def test_a_training_killed_with_kill_9_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = run_script("kills", tmp_path, 6, 1)
    assert found["wrong"] == []
    assert sum(found["struck"].values()) >= 6


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_killed_fifty_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = run_script("kills", tmp_path, 60, 2, timeout_seconds=850)
    assert found["wrong"] == []
    assert sum(found["struck"].values()) >= 50
    assert min(found["struck"].values()) >= 5


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_kill_at_any_touch_of_the_disk_leaves_a_whole_adapter_or_none(tmp_path: Path) -> None:
    found = run_script("publishing", tmp_path, timeout_seconds=850)
    assert found["struck"] > 8  # weights, configuration, tokenizer's papers: each written, made durable, and the folder renamed
    assert found["half"] == []
    assert found["wrong"] == []


def test_in_bf16_a_resumed_training_differs_no_more_than_twins_do(tmp_path: Path) -> None:
    def losses(folder: Path) -> list[float]:
        model = build_llama().to(torch.bfloat16)
        return [point.loss for point in tune(replace(build_base(), model=model), folder).history]

    twins = [losses(tmp_path / name) for name in ("one", "two", "three")]
    spread = max(abs(other - first) / first for twin in twins for first, other in zip(twins[0], twin, strict=True))
    with pytest.raises(KilledError):
        tune(replace(build_base(), model=build_llama().to(torch.bfloat16)), tmp_path / "a", progress=Watcher(8))
    resumed = losses(tmp_path / "a")
    assert max(abs(own - first) / first for first, own in zip(twins[0], resumed, strict=True)) <= spread


def test_a_termination_signal_saves_the_last_step_and_ends_in_time(tmp_path: Path, whole: Tuned) -> None:
    command = [sys.executable, SCRIPT, "slow", str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["step"] < 4:
            pass
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - told < 20
    assert process.returncode == 130, errors
    tuned, notes = continued(tmp_path / "a")
    assert any(note in notes for note in ("Continuing the training behind step 4.", "Continuing the training behind step 5."))
    assert tuned.adapter_sha256 == whole.adapter_sha256


@contextmanager
def interrupted_after(seconds: float) -> Iterator[list[int]]:
    """Holds the signal's number once it has struck: a library may turn the interruption into an error of its own."""
    struck: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        struck.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield struck
    except Exception:
        if not struck:
            raise
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_grad_enabled(True)  # it may have struck inside torch's own `no_grad`, which then stays behind in this process


# Python drops an interruption that strikes inside a garbage collector's callback (hypothesis installs one) or a `__del__`.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("trials", [8, pytest.param(80, marks=pytest.mark.long)])
def test_an_interruption_at_any_instant_saves_no_wrong_state(tmp_path: Path, whole: Tuned, trials: int) -> None:
    draw = random.Random(trials)
    struck = 0
    for trial in range(trials):
        for _ in range(2):
            with interrupted_after(draw.uniform(0.03, 1.1 * whole.seconds + 0.05)) as signals:
                tune(build_base(), tmp_path / str(trial))
            struck += len(signals)
        tuned, _ = continued(tmp_path / str(trial))
        assert tuned.adapter_sha256 == whole.adapter_sha256
        assert [replace(point) for point in tuned.history] == list(whole.history)
    assert struck >= trials / 2


def test_an_interrupted_step_costs_only_itself(tmp_path: Path, whole: Tuned) -> None:
    watcher = Watcher(5, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        tune(build_base(), tmp_path / "a", progress=watcher)
    assert watcher.notes[-1] == "Interrupted behind step 5, which is saved."
    tuned, notes = continued(tmp_path / "a")
    assert "Continuing the training behind step 5." in notes
    assert tuned.history == whole.history


def test_an_interruption_before_an_evaluation_leaves_it_to_the_resume(tmp_path: Path, whole: Tuned) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(build_base(), tmp_path / "a", progress=Watcher(6, KeyboardInterrupt))
    tuned, notes = continued(tmp_path / "a")
    assert "Continuing the training behind step 6." in notes
    assert (tuned.history, tuned.adapter_sha256) == (whole.history, whole.adapter_sha256)


def test_an_interruption_in_the_middle_of_an_update_saves_nothing(quick_settings: TrainSettings) -> None:
    with adapted(build_llama(), quick_settings) as wrapped:
        optimizer = build_optimizer(wrapped, quick_settings)
        assert steps_taken(optimizer) == 0
        for value in adapter_tensors(wrapped).values():
            value.grad = torch.ones_like(value)
        optimizer.step()
        assert steps_taken(optimizer) == 1
        next(iter(optimizer.state.values()))["step"] += 1
        assert steps_taken(optimizer) is None


@pytest.mark.parametrize("touch", [1, 5, 14, 15, 20])
def test_an_interrupted_look_at_the_base_saves_no_silenced_adapter(
    tmp_path: Path, whole: Tuned, touch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every B is zero for the time of the look at which divergence is judged; the interruption strikes between two of them."""
    touched, zero, copy = 0, torch.Tensor.zero_, torch.Tensor.copy_

    def counted(kind: Any) -> Any:
        def act(tensor: Any, *arguments: Any) -> Any:
            nonlocal touched
            if looking:
                touched += 1
                if touched == touch:
                    raise KeyboardInterrupt
            return kind(tensor, *arguments)

        return act

    @contextmanager
    def watched(wrapped: Any) -> Iterator[None]:
        nonlocal looking
        looking = True
        with silenced(wrapped):
            looking = False
            yield
            looking = True
        looking = False

    looking = False
    monkeypatch.setattr(torch.Tensor, "zero_", counted(zero))
    monkeypatch.setattr(torch.Tensor, "copy_", counted(copy))
    monkeypatch.setattr(follow, "silenced", watched)
    monkeypatch.setattr(follow, "may_diverge", lambda history, batch_size: len(history) == 5)
    with pytest.raises(KeyboardInterrupt):
        tune(build_base(), tmp_path / "a")
    monkeypatch.undo()
    tuned, _ = continued(tmp_path / "a")
    assert (tuned.history, tuned.adapter_sha256) == (whole.history, whole.adapter_sha256)


def test_steps_between_evaluations_are_saved_when_time_has_passed(tmp_path: Path, whole: Tuned) -> None:
    broken_off(tmp_path / "often", 5, save_every_seconds=0.0)
    broken_off(tmp_path / "seldom", 5)
    often, notes = continued(tmp_path / "often")
    assert "Continuing the training behind step 4." in notes
    assert "Continuing the training behind step 3." in continued(tmp_path / "seldom")[1]
    assert (often.history, often.adapter_sha256) == (whole.history, whole.adapter_sha256)


def test_a_continued_training_is_not_a_fresh_one(tmp_path: Path, whole: Tuned) -> None:
    broken_off(tmp_path / "a", 5, save_every_seconds=0.0)
    saved = next((tmp_path / "a.checkpoints").glob("*/step-000004"))
    state = json.loads((saved / "state.json").read_text())
    assert [point["loss"] for point in state["history"]] == [point.loss for point in whole.history[:4]]
    tuned, _ = continued(tmp_path / "a")
    assert tuned.history[4].loss == whole.history[4].loss != whole.history[0].loss


# Out of memory


def test_a_lack_of_memory_has_a_name_and_advice_and_the_next_training_runs(tmp_path: Path) -> None:
    found = run_script("memory", tmp_path)
    assert found["said"].startswith("out of memory: training tiny needs more than this machine can give (")
    assert "STEPLADDER_DTYPE=bfloat16" in found["said"]
    assert "lower [rungs.lora] rank (it is 2)" in found["said"]
    assert "shorten or drop the longest rows (row " in found["said"]
    assert found["steps"] == 2


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_way_to_say_that_memory_is_used_up_is_known(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it
    with pytest.raises(ModelError if is_it else type(error)), memory_named("it", "advice"):
        raise error
