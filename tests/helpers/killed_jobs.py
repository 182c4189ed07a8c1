"""A service in small whose processes are killed at random: `parent FOLDER MODEL JOBS` stands for the server.

It uploads, creates its jobs by idempotency keys, keeps a worker running and waits until all jobs are over. Whatever is killed,
starting it again has to go on as if nothing had been.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from service_jobs import OPTIONS, QUICK, chat_rows, rows_text
from stepladder.domain.jobs import LOCAL_PROJECT, JobRequest
from stepladder.service.worker_process import WorkerProcess
from stepladder.storage.store import Store

HYPERPARAMETERS = {**QUICK, "n_epochs": 15}
VICTIMS = ("server", "worker", "trainer")
JOBS_AT_ONCE = 3  # so that a strike mostly finds work under way, and not a process that starts


def serve(folder: Path, model: str, jobs: int) -> None:
    """Stand for the server until all jobs are over."""
    with Store(folder) as store:
        store.sweep()
        worker = WorkerProcess(folder, OPTIONS)
        worker.ensure()
        for number in range(jobs):
            file = _upload(store, number)
            request = JobRequest(model, file, hyperparameters=HYPERPARAMETERS, seed=5)
            store.jobs(LOCAL_PROJECT).create(request, idempotency_key=f"job-{number}")
        while not all(job.status.final for job in store.jobs(LOCAL_PROJECT).list(limit=1000)):
            worker.ensure()
            time.sleep(0.1)
        worker.stop()


def _upload(store: Store, number: int) -> str:
    with store.blobs.receive(LOCAL_PROJECT) as incoming:
        incoming.write(rows_text(chat_rows()))
        added = store.files(LOCAL_PROJECT).add(
            incoming, filename="rows.jsonl", purpose="fine-tune", idempotency_key=f"file-{number}"
        )
        return added.id


@dataclass
class Chaos:
    """Kills until it has struck `kills` times, each after at most `longest_wait_seconds`; then lets everything end."""

    folder: Path
    model: Path
    kills: int
    draw: random.Random
    longest_wait_seconds: float = 0.0
    jobs: int = 0
    struck: Counter[str] = field(default_factory=Counter)

    def run(self, *, seconds: float) -> None:
        until = time.monotonic() + seconds
        while sum(self.struck.values()) < self.kills:
            self.jobs += JOBS_AT_ONCE  # all that were there are over, and there are kills left
            while self._serve_and_kill(until):
                pass
        process = self._start()
        try:
            if process.wait(max(1.0, until - time.monotonic())):
                raise AssertionError(f"the server ended with {process.returncode}")
        finally:
            self._end(process)

    def _serve_and_kill(self, until: float) -> bool:
        """One life of the server; whether it has to live again."""
        process = self._start()
        try:
            while sum(self.struck.values()) < self.kills:
                wait = self.draw.uniform(0.05, self.longest_wait_seconds)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(wait)
                    return process.returncode != 0
                if time.monotonic() > until:
                    raise AssertionError(f"jobs are stuck after {dict(self.struck)}")
                if self._strike(process.pid, self.draw.choice(VICTIMS)):
                    process.wait()
                    return True
            return False
        finally:
            self._end(process)

    def _strike(self, server: int, victim: str) -> bool:
        """Kill the victim if it lives; whether it was the server."""
        workers = children(server)
        at_work = [trainer for worker in workers for trainer in trainers(worker)]
        found = {"server": [server], "worker": workers, "trainer": at_work}[victim]
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.draw.choice(found), signal.SIGKILL)
            self.struck[victim] += 1
        return victim == "server"

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, str(self.folder), str(self.model), str(self.jobs)]
        return subprocess.Popen(command)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None and sum(self.struck.values()) >= self.kills:
            process.kill()
            process.wait()


def children(parent: int) -> list[int]:
    """Process ids of those that `parent` has started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, its_parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state != "Z":
                found.append(int(stat.parent.name))
    return found


def trainers(parent: int) -> list[int]:
    """Those of them that are trainers, or validators."""
    found = []
    for process in children(parent):
        with suppress(OSError):
            if b"interfaces.worker.trainer" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
