"""The worker as a process beside the server: started, looked after, and ended with it. No pipe connects the two."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from stepladder.domain.jobs import Job, JobStatus
from stepladder.domain.protocols import Progress
from stepladder.service.job_attempt import TrainerOptions
from stepladder.service.job_worker import WorkerOptions
from stepladder.storage.store import Store

MODULE = "stepladder.interfaces.worker"
LOG = "worker.log"
LARGEST_LOG_BYTES = 5 * 2**20
SECONDS_TO_LEAVE = 20.0
LOOK_EVERY_SECONDS = 0.3


class WorkerProcess:
    """Call `ensure` now and then: it starts the worker, and again when it has died. It leaves by itself when we are gone."""

    def __init__(self, folder: Path, options: WorkerOptions | None = None) -> None:
        self._folder = folder
        self._options = options or WorkerOptions()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ensure(self) -> bool:
        """Start the worker if it does not run; whether it had to be started."""
        if self._process is not None and self._process.poll() is None:
            return False
        log = self._folder / LOG
        if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        return True

    def stop(self) -> None:
        """Let the worker save what runs and put it back; killed when that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        until = time.monotonic() + SECONDS_TO_LEAVE
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process = None

    def _command(self) -> list[str]:
        options, trainer = self._options, self._options.trainer
        return [
            *(sys.executable, "-m", MODULE, str(self._folder)),
            *("--parent", str(os.getpid())),
            *("--device", trainer.device),
            *("--save-every-seconds", str(trainer.save_every_seconds)),
            *("--compare-rows", str(trainer.compare_rows)),
            *("--lease-seconds", str(options.lease_seconds)),
            *("--most-attempts", str(options.most_attempts)),
        ]


def follow(store: Store, job: Job, *, device: str = "auto", progress: Progress) -> Job:
    """Let a worker of our own do the jobs of the store until this one is over; events are told as they come.

    A Ctrl-C, or any end of this process, lets a running training save itself; it goes on at the next call, or under a server.
    """
    worker = WorkerProcess(store.folder, WorkerOptions(TrainerOptions(device=device)))
    jobs, told, waiting = store.jobs(job.project), 0, threading.Event()
    progress.start(f"job {job.id}")
    try:
        while True:
            found = jobs.get(job.id)
            assert found is not None
            for event in jobs.events(job.id, after=told):
                told = event.sequence
                progress.advance(0, event.message)
            if found.status.final or found.status is JobStatus.PAUSED:
                return found
            worker.ensure()
            waiting.wait(LOOK_EVERY_SECONDS)
    finally:
        worker.stop()
        progress.finish()
