"""The commands that climb: `demo`, `plan`, `climb`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from stepladder.data.bundled import copy_bundled
from stepladder.domain.verdict import Outcome
from stepladder.interfaces.cli.progress import TerminalProgress
from stepladder.interfaces.exit_codes import DATA, OK, TARGET_NOT_REACHED
from stepladder.service.climb import Climb
from stepladder.service.climb import climb as climb_task
from stepladder.service.planning import plan as plan_task
from stepladder.service.setup import Watcher
from stepladder.service.show import ladder_lines
from stepladder.storage.records import to_json


@contextmanager
def watching() -> Iterator[Watcher]:
    """A watcher on stderr; a termination signal is treated like Ctrl-C, so that everything is left in order."""
    progress = TerminalProgress()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield Watcher(progress, progress.note)
    finally:
        progress.close()
        signal.signal(signal.SIGTERM, before)


def demo(name: str, folder: Path, *, budget_minutes: float, device: str, as_json: bool) -> None:
    """Copy a bundled task and climb it."""
    copy_bundled(name, folder)
    with watching() as watcher:
        watcher.say(f"The task '{name}' lies in {folder}; look into it while the climb goes on.")
        finished = climb_task(folder, budget_minutes=budget_minutes, device=device, watcher=watcher)
    show(finished, as_json=as_json)


def plan(task: Path, *, budget_minutes: float | None, device: str, seed: int, as_json: bool) -> None:
    """Print the plan of a climb."""
    with watching() as watcher:
        planned = plan_task(task, budget_minutes=budget_minutes, device=device, seed=seed, watcher=watcher)
    print(json.dumps(to_json(planned), indent=2) if as_json else planned)


def climb(
    task: Path,
    *,
    budget_minutes: float | None,
    device: str,
    seed: int,
    tune_anyway: bool,
    fresh: bool,
    cache: bool,
    as_json: bool,
) -> int:
    """Climb, show, and return the exit code."""
    with watching() as watcher:
        finished = climb_task(
            task,
            budget_minutes=budget_minutes,
            device=device,
            seed=seed,
            tune_anyway=tune_anyway,
            fresh=fresh,
            cache=cache,
            watcher=watcher,
        )
    show(finished, as_json=as_json)
    return {Outcome.NOT_REACHED: TARGET_NOT_REACHED, Outcome.INVALID: DATA}.get(finished.verdict.outcome, OK)


def show(finished: Climb, *, as_json: bool) -> None:
    """The ladder and the verdict on stdout: JSON, a table on a terminal, plain lines in a pipe."""
    if as_json:
        print(json.dumps(to_json(finished.record), ensure_ascii=False, indent=2))
        return
    if sys.stdout.isatty():
        Console().print(finished)
    else:
        for line in ladder_lines(finished.record):
            print(line)
    print(f"Report: {finished.folder / 'report.html'}")
