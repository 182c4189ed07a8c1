"""`python -m stepladder.interfaces.worker FOLDER`: do the jobs of the store in FOLDER until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from stepladder.interfaces.worker.trainer import COMMAND
from stepladder.service.job_attempt import TrainerOptions
from stepladder.service.job_worker import Worker, WorkerOptions
from stepladder.storage.queue import LEASE_SECONDS, MOST_ATTEMPTS
from stepladder.storage.store import Store

PARENT_LOOKED_FOR_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """A first signal lets a training save itself; a second one ends everything at once."""
    given = _parser().parse_args(arguments)
    options = WorkerOptions(
        TrainerOptions(given.device, given.save_every_seconds, given.compare_rows), given.lease_seconds, given.most_attempts
    )
    with Store(given.folder) as store:
        worker = Worker(store, COMMAND, options)

        def leave(number: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)
            worker.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)
        if given.parent is not None:
            _follow(given.parent, worker)
        worker.run()
    return 0


def _follow(parent: int, worker: Worker) -> None:
    """Leave in order when the process that started us is gone."""

    def watch() -> None:
        waiting = threading.Event()
        while not waiting.wait(PARENT_LOOKED_FOR_SECONDS):
            if os.getppid() != parent:
                worker.stop()
                return

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stepladder.interfaces.worker", description=__doc__)
    parser.add_argument("folder", type=Path, help="the store's folder")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--parent", type=int, default=None, help="process id of the starter; leave when it is gone")
    parser.add_argument("--lease-seconds", type=float, default=LEASE_SECONDS)
    parser.add_argument("--save-every-seconds", type=float, default=TrainerOptions().save_every_seconds)
    parser.add_argument("--compare-rows", type=int, default=TrainerOptions().compare_rows)
    parser.add_argument("--most-attempts", type=int, default=MOST_ATTEMPTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
