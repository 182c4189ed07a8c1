"""Writers and readers on one store, each with a connection of its own: `FOLDER SECONDS PROCESSES WRITERS READERS`.

Prints one line of JSON: how often each kind came through, and every error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from stepladder.domain.jobs import LOCAL_PROJECT, JobRequest
from stepladder.storage.store import Store


def load(folder: Path, seconds: float, processes: int, writers: int, readers: int) -> dict[str, object]:
    """Run `processes` of this script, which share the writers and readers; their outcomes together."""
    command = [sys.executable, __file__, str(folder), str(seconds), "1", str(writers // processes), str(readers // processes)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    outcomes = [json.loads(process.communicate()[0]) for process in running]
    errors = [error for outcome in outcomes for error in outcome["errors"]]
    written, read = (sum(outcome[kind] for outcome in outcomes) for kind in ("written", "read"))
    return {"written": written, "read": read, "errors": errors}


def _share(folder: Path, seconds: float, writers: int, readers: int) -> dict[str, object]:
    """This process's share: every thread opens the store anew."""
    errors: list[str] = []
    counts = {"written": 0, "read": 0}
    turn = threading.Lock()
    until = time.monotonic() + seconds

    def work(kind: str) -> None:
        own = 0
        try:
            with Store(folder) as store:
                jobs = store.jobs(LOCAL_PROJECT)
                while time.monotonic() < until:
                    if kind == "written":
                        jobs.create(JobRequest("tiny", "file-1"))
                    else:
                        for job in jobs.list(limit=3):
                            jobs.events(job.id)
                    own += 1
                    time.sleep(0.002)
        except Exception as error:
            errors.append(f"{kind}: {type(error).__name__}: {error}")
        with turn:
            counts[kind] += own

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ["written"] * writers + ["read"] * readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {**counts, "errors": errors}


if __name__ == "__main__":
    place, *numbers = sys.argv[1:]
    print(json.dumps(_share(Path(place), float(numbers[0]), int(numbers[2]), int(numbers[3]))))
