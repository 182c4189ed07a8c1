"""Trainings that are killed for real: run as a script, since what is killed must be a process of its own.

`kills FOLDER COUNT SEED`: one uninterrupted training, then others that are killed twice each and continued;
`publishing FOLDER`: one killed at each touch of the disk behind its last step; `slow FOLDER`: one that waits for a signal;
`memory FOLDER`: one that may take hardly any memory, then one that may. Each prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

import tiny_training
from stepladder.domain.errors import ModelError
from stepladder.files import Disk, FailingDisk, writing_to
from stepladder.interfaces.cli.climbing import watching
from stepladder.interfaces.exit_codes import exit_code
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.record import SIDE_FILE
from tiny_training import QUICK, STEPS, Watcher, build_base, build_rows


class KillingDisk(Disk):
    """Kills its process at operation number `at`; a write has then written half of its data."""

    def __init__(self, at: int) -> None:
        self._left = at

    def write(self, file: IO[bytes], data: bytes) -> None:
        super().write(file, data[: len(data) // 2])
        self._count()
        super().write(file, data[len(data) // 2 :])

    def sync(self, handle: int) -> None:
        self._count()
        super().sync(handle)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class KillingWatcher(Watcher):
    """Kills its process behind step `kill_at`, before the evaluation that may follow it."""

    def advance(self, count: int = 1, detail: str = "") -> None:
        self.advanced += count
        if self.advanced == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def kills(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """`count` kills, two a training: at an instant, at a touch of the disk, or at an epoch's border."""
    draw = random.Random(seed)
    counting = FailingDisk()
    started = time.perf_counter()
    whole = outcome(folder / "whole", 0.0, disk=counting)
    seconds = time.perf_counter() - started
    struck: dict[str, int] = {}
    wrong: list[list[str]] = []
    trial = 0
    while sum(struck.values()) < count and trial < count:
        trial += 1
        train = partial(outcome, folder / f"killed-{trial}", draw.choice([0.0, seconds / STEPS, 60.0]))
        kinds = draw.choices(["instant", "disk", "border"], [2, 2, 1], k=2)
        for kind in kinds:
            status = run_and_kill(train, kind, draw, seconds, counting.operations)
            struck[kind] = struck.get(kind, 0) + (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        result = folder / f"result-{trial}.json"
        status = run(partial(write_outcome, result, train))
        if status or json.loads(result.read_text()) != json.loads(json.dumps(whole)):
            wrong.append(kinds)
    return {"struck": struck, "wrong": wrong, "trainings": trial}


def publishing(folder: Path) -> dict[str, Any]:
    """A training killed at every touch of the disk behind its last checkpoint, until it ends by itself, each time from there."""
    counting = FailingDisk()
    whole = outcome(folder / "whole", 60.0, disk=counting)
    with suppress(KeyboardInterrupt):  # all steps are done and saved, and nothing is published
        outcome(folder / "a", 60.0, watcher=Watcher(tiny_training.STEPS, KeyboardInterrupt))
    struck, half, ended = 0, [], False
    while not ended and struck < counting.operations:
        copied = folder / f"killed-{struck + 1}"
        copied.mkdir()
        shutil.copytree(folder / "a.checkpoints", copied / "a.checkpoints")
        train = partial(outcome, copied / "a", 60.0)
        ended = not os.WIFSIGNALED(run(partial(train, disk=KillingDisk(struck + 1))))
        struck += not ended
        if (copied / "a").exists() and not (copied / "a" / SIDE_FILE).is_file():
            half.append(struck)
    wrong = []
    for number in range(1, struck + 1):
        result = folder / f"result-{number}.json"
        status = run(partial(write_outcome, result, partial(outcome, folder / f"killed-{number}" / "a", 60.0)))
        if status or json.loads(result.read_text()) != json.loads(json.dumps(whole)):
            wrong.append(number)
    return {"struck": struck, "half": half, "wrong": wrong}


def run_and_kill(train: Callable[..., Any], kind: str, draw: random.Random, seconds: float, operations: int) -> int:
    if kind == "instant":
        return run(train, kill_after_seconds=draw.uniform(0, seconds))
    if kind == "disk":
        return run(partial(train, disk=KillingDisk(draw.randint(1, operations))))
    return run(partial(train, watcher=KillingWatcher(draw.choice([3, 6, 9, 12]))))


def write_outcome(path: Path, train: Callable[[], Any]) -> None:
    path.write_text(json.dumps(train()))


def run(work: Callable[[], Any], *, kill_after_seconds: float | None = None) -> int:
    """`work` in a forked process (torch is imported once only); its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after_seconds is not None:
        time.sleep(kill_after_seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def outcome(folder: Path, save_every_seconds: float, *, disk: Disk | None = None, watcher: Watcher | None = None) -> list[Any]:
    """Everything about a training that must not depend on its kills."""
    with writing_to(disk or Disk()):
        tuned = tiny_training.tune(build_base(), folder, progress=watcher or Watcher(), save_every_seconds=save_every_seconds)
    losses = [[point.step, point.loss, point.held_out_nll, point.learning_rate] for point in tuned.history]
    return [tuned.adapter_sha256, tuned.best_step, tuned.steps, tuned.tokens, list(tuned.held_out_nll), losses]


def slow(folder: Path) -> int:
    """A training with a slow watcher, ended by a signal as a command would be; the exit code."""

    class Slow(Watcher):
        def advance(self, count: int = 1, detail: str = "") -> None:
            super().advance(count, detail)
            print(json.dumps({"step": self.advanced}), flush=True)
            time.sleep(0.3)

    try:
        with watching():
            tiny_training.tune(build_base(), folder, progress=Slow())
    except BaseException as error:
        return exit_code(error)
    return 0


def memory(folder: Path) -> dict[str, Any]:
    """What a training says when it may take 2 MB more than the process has; and whether the next one goes well."""
    base = build_base(vocab=60_000)
    plenty = [
        EncodedRow(f"{row.id}-{copy}", (*row.token_ids[:-1], 3 + copy, 2), (*row.weights, 1.0))
        for copy in range(20)
        for row in build_rows(10)
    ]
    wanted = QUICK.model_copy(update={"batch_size": 100, "epochs": 1})
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2_000_000, limits[1]))
    try:
        tiny_training.tune(base, folder / "a", rows=plenty, wanted=wanted)
        said = ""
    except ModelError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    return {"said": said, "steps": tiny_training.tune(base, folder / "a", rows=plenty, wanted=wanted).steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "slow":
        sys.exit(slow(place))
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "kills": lambda: kills(place, int(sys.argv[3]), int(sys.argv[4])),
        "publishing": lambda: publishing(place),
        "memory": lambda: memory(place),
    }
    print(json.dumps(tasks[what]()))
