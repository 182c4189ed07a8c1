"""One attempt at one job, in a process of its own: FOLDER PROJECT JOB TOKEN WORKER-PROCESS-ID OPTIONS."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from stepladder.service import wiring
from stepladder.service.job_attempt import TrainerOptions
from stepladder.service.job_training import Trainer, guard
from stepladder.service.job_watch import Leave
from stepladder.storage.queue import Claim
from stepladder.storage.store import Store

COMMAND = (sys.executable, "-m", "stepladder.interfaces.worker.trainer")


def main(arguments: Sequence[str]) -> int:
    """The exit code says what became of it; see `service.job_training`."""
    folder, project, job, token, worker, options = arguments
    wiring.set_threads()
    settings = json.loads(options)
    claim = Claim(job, project, int(token))
    with Store(Path(folder)) as store:
        queue = store.queue(lease_seconds=settings.pop("lease_seconds"))
        place, leave = store.workplace(project, job) / token, Leave()
        guard(queue, claim, place, leave, worker=int(worker))
        return Trainer(store, queue, claim, place, TrainerOptions(**settings), leave).work()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
