"""The worker: it claims jobs, lets a process of their own do them, keeps the leases, and says what became of those that died.

Two lanes, so that a long training holds no validation up. A trainer is stopped by a file in its folder, or killed; nothing it
does can block the worker, and no pipe connects the two.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from stepladder.domain.jobs import NewEvent
from stepladder.service.job_attempt import DONE, LEFT, LOST, SECONDS_TO_LEAVE, STOP, TrainerOptions
from stepladder.storage.queue import HEARTBEAT_SECONDS, LEASE_SECONDS, MOST_ATTEMPTS, Claim, LostClaim
from stepladder.storage.store import Store

IDLE_SECONDS = 0.3
LOOK_EVERY_SECONDS = 0.2
LOG = "trainer.log"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works. Leases are renewed four times in their length, at least every 15 s."""

    trainer: TrainerOptions = TrainerOptions()  # noqa: RUF009 - a frozen value
    lease_seconds: float = LEASE_SECONDS
    most_attempts: int = MOST_ATTEMPTS


class Worker:
    """Does the jobs of one store, one training at a time, until it is told to stop.

    Args:
        command: What starts a trainer; the folder of the store, the claim, this process's id and the options are added to it.
    """

    def __init__(self, store: Store, command: Sequence[str], options: WorkerOptions | None = None) -> None:
        self._store = store
        self._command = list(command)
        self._options = options or WorkerOptions()
        self._queue = store.queue(lease_seconds=self._options.lease_seconds, most_attempts=self._options.most_attempts)
        self._stop = threading.Event()
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

    def stop(self) -> None:
        """Let running trainings save what they have, put their jobs back, and end `run`."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`; first remove the folders of jobs that are over."""
        self._tidy()
        lanes = [
            threading.Thread(target=self._lane, args=(validating,), name=f"lane-{validating}") for validating in (True, False)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def _lane(self, validating: bool) -> None:
        while not self._stop.is_set():
            try:
                claim = self._queue.claim(self.name, validating=validating)
                if claim is not None:
                    self._do(claim)
                    continue
            except Exception as error:  # the disk, mostly; the next try may go well, and leases end by themselves
                self._say(f"{type(error).__name__}: {error}")
            self._stop.wait(IDLE_SECONDS)

    def _do(self, claim: Claim) -> None:
        """See one attempt at a job through."""
        place = self._store.workplace(claim.project, claim.job) / str(claim.token)
        place.mkdir(parents=True, exist_ok=True)
        trainer = self._start(claim, place)
        try:
            code = self._watch(claim, place, trainer)
            self._settle(claim, code)
        except LostClaim:
            pass
        finally:
            _kill(trainer)
        self._tidy_job(claim.project, claim.job)

    def _start(self, claim: Claim, place: Path) -> subprocess.Popen[bytes]:
        """The trainer in a process group of its own, so that a Ctrl-C at the server's terminal does not reach it."""
        options = {**asdict(self._options.trainer), "lease_seconds": self._options.lease_seconds}
        arguments = [str(self._store.folder), claim.project, claim.job, str(claim.token), str(os.getpid()), json.dumps(options)]
        with (place / LOG).open("ab") as log:
            return subprocess.Popen(
                [*self._command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _watch(self, claim: Claim, place: Path, trainer: subprocess.Popen[bytes]) -> int:
        """Keep the lease while the trainer works; its exit code, LEFT when it had to be told to go.

        Raises:
            LostClaim: The job was cancelled, or is another worker's by now.
        """
        every = min(HEARTBEAT_SECONDS, self._options.lease_seconds / 4)
        renewed = time.monotonic()
        told_at: float | None = None
        while (code := trainer.poll()) is None:
            if time.monotonic() - renewed >= every:
                pausing, renewed = self._queue.heartbeat(claim), time.monotonic()
            else:
                pausing = self._queue.check(claim)
            if told_at is None and (pausing or self._stop.is_set()):
                told_at = time.monotonic()
                (place / STOP).touch()
            if told_at is not None and time.monotonic() - told_at > SECONDS_TO_LEAVE:
                return LEFT
            with suppress(subprocess.TimeoutExpired):
                trainer.wait(LOOK_EVERY_SECONDS)
        return code

    def _settle(self, claim: Claim, code: int) -> None:
        """What becomes of the job now that its trainer is gone.

        Raises:
            LostClaim: The trainer said so itself.
        """
        if code == LEFT and self._queue.check(claim):
            self._queue.paused(claim)
        elif code == LEFT:
            self._queue.release(claim)
        elif code in (DONE, LOST):
            self._queue.check(claim)  # raises, unless it ended without a word
            self._queue.release(claim, crashed=True)
        else:
            self._queue.record(claim, [NewEvent(f"The training stopped without a word ({_cause(code)}); trying again", "warn")])
            self._queue.release(claim, crashed=True)
            self._say(f"{claim.job}: the trainer ended with {_cause(code)}, attempt {claim.token}")

    def _tidy(self) -> None:
        for place in (self._store.folder / "work").glob("*/*"):
            self._tidy_job(place.parent.name, place.name)

    def _tidy_job(self, project: str, job: str) -> None:
        """Remove what lies about of a job that is over, or unknown."""
        known = self._store.jobs(project).get(job)
        if known is None or known.status.final:
            shutil.rmtree(self._store.workplace(project, job), ignore_errors=True)

    def _say(self, text: str) -> None:
        print(f"worker {self.name}: {text}", file=sys.stderr, flush=True)


def _kill(trainer: subprocess.Popen[bytes]) -> None:
    """End a trainer and all it has started, at once."""
    if trainer.poll() is None:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(trainer.pid, signal.SIGKILL)
        else:
            trainer.kill()
    trainer.wait()


def _cause(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
