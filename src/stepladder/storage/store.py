"""The service's folder: one database, the contents it names, and where jobs are worked on."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.storage.blobs import Blobs
from stepladder.storage.clock import Clock
from stepladder.storage.database import Database
from stepladder.storage.garbage import sweep
from stepladder.storage.jobs import Jobs
from stepladder.storage.keys import Keys
from stepladder.storage.queue import LEASE_SECONDS, MOST_ATTEMPTS, Queue
from stepladder.storage.runs import RunIndex
from stepladder.storage.stored_files import StoredFiles
from stepladder.storage.tuned_models import TunedModels

DATABASE = "stepladder.sqlite3"
HOME_VARIABLE = "STEPLADDER_HOME"


def home_folder() -> Path:
    """Where the index of runs and, unless told otherwise, the service keep what they know: `STEPLADDER_HOME`, else the
    system's folder for a user's data."""
    override = os.environ.get(HOME_VARIABLE)
    return Path(override).expanduser() if override else user_data_path("stepladder", appauthor=False)


class Store:
    """Everything the service keeps, under one folder. What belongs to a project is reached through that project's id.

    Safe to use from several threads. Each process opens its own; `sweep` once at the start of the server.
    """

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        """Open the store in `folder`, made when it is not there.

        Raises:
            RunError: The database is damaged, or a newer version wrote it.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.database = Database(folder / DATABASE, clock=clock)
        with self.database.write():  # so that no sweep meets the new place of this process before it is locked
            self.blobs = Blobs(folder)
        self.keys = Keys(self.database)

    def jobs(self, project: str) -> Jobs:
        return Jobs(self.database, project)

    def files(self, project: str) -> StoredFiles:
        return StoredFiles(self.database, self.blobs, project)

    def models(self, project: str) -> TunedModels:
        return TunedModels(self.database, self.blobs, project)

    def runs(self, project: str = LOCAL_PROJECT) -> RunIndex:
        return RunIndex(self.database, project)

    def queue(self, *, lease_seconds: float = LEASE_SECONDS, most_attempts: int = MOST_ATTEMPTS) -> Queue:
        """For workers: jobs of every project."""
        return Queue(self.database, self.blobs, lease_seconds=lease_seconds, most_attempts=most_attempts)

    def workplace(self, project: str, job: str) -> Path:
        """Where a job's attempts are worked on; nothing in it is named by the database."""
        return self.folder / "work" / project / job

    def sweep(self) -> int:
        """Remove what has expired and what no row names any more; how many files and folders the latter was."""
        for row in self.database.read("SELECT id FROM projects"):
            self.files(row["id"]).forget_expired()
        return sweep(self.database, self.blobs)

    def close(self) -> None:
        self.blobs.close()
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
