"""The server under measurement: `stepladder serve` in a process of its own, as a user starts it, in a folder that is new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stepladder.domain.errors import EngineError
from stepladder.storage.store import Store

SECONDS_TO_LEAVE = 60.0
MADE_UP = '{"model": "made-up", "training_file": "file-made-up", "metadata": {"desk": "refunds"}}'


@dataclass(frozen=True)
class Served:
    """Where the server listens, and which base model it serves."""

    host: str
    port: int
    model: str


@contextmanager
def serving(folder: Path, model: str) -> Iterator[Served]:
    """A server over `folder`, which may hold jobs already; it is ended, its worker with it, when the block is left.

    Raises:
        EngineError: It did not come up.
    """
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "serve", "--json", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "STEPLADDER_HOME": str(folder)}
    process = subprocess.Popen([*command, "--model", f"measured={model}"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if not said:
            raise EngineError("the server under measurement did not come up.", "Its own words stand above.")
        url = urlsplit(json.loads(said)["url"])
        yield Served(str(url.hostname), int(url.port or 0), "measured")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS_TO_LEAVE)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def fill(folder: Path, jobs: int) -> None:
    """Put so many cancelled jobs, with the events of a short life, into a new store: reads shall have something to find."""
    with Store(folder) as store, store.database.write() as connection:
        connection.executemany(
            "INSERT INTO jobs (id, project, status, request, created_at, finished_at) "
            "VALUES (?, 'proj_local', 'cancelled', ?, 1760000000, 1760000060)",
            ((job_id(number), MADE_UP) for number in range(jobs)),
        )
        connection.executemany(
            "INSERT INTO events (id, project, job, sequence, created_at, level, type, message, data) "
            "VALUES (?, 'proj_local', ?, ?, 1760000000, 'info', 'message', ?, '{}')",
            (
                (f"ftevent-{number:024d}{place}", job_id(number), place, message)
                for number in range(jobs)
                for place, message in enumerate(("Created fine-tuning job", "Fine-tuning job cancelled"), 1)
            ),
        )


def job_id(number: int) -> str:
    return f"ftjob-{number:024d}"
