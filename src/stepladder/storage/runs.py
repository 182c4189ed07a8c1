"""The index of climbs and tunes. The run folders are the truth: whatever it says can be read from them again."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

import apsw

from stepladder.domain.jobs import LOCAL_PROJECT, RunEntry
from stepladder.storage.database import Database

COLUMNS = "project, folder, kind, task, model, status, created_at, finished_at, summary"


class RunIndex:
    """The runs that one project knows of, by folder."""

    def __init__(self, database: Database, project: str = LOCAL_PROJECT) -> None:
        self._database = database
        self.project = project

    def put(self, entry: RunEntry) -> None:
        """Enter a run, in place of what was known of its folder."""
        with self._database.write() as connection:
            _put(connection, entry)

    def list(self, *, limit: int = 1000) -> builtins.list[RunEntry]:
        """Newest first."""
        rows = self._database.read(
            f"SELECT {COLUMNS} FROM runs WHERE project = ? ORDER BY created_at DESC, folder DESC LIMIT ?", (self.project, limit)
        )
        return [RunEntry(**row) for row in rows]

    def replace(self, entries: Sequence[RunEntry]) -> None:
        """Forget everything, and enter these."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM runs WHERE project = ?", (self.project,))
            for entry in entries:
                _put(connection, entry)


def _put(connection: apsw.Connection, entry: RunEntry) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO runs ({COLUMNS}) VALUES ({', '.join('?' * 9)})",
        tuple(getattr(entry, name) for name in COLUMNS.split(", ")),
    )
