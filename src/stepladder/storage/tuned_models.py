"""The adapters of a project by the names they answer to, and who else may use them."""

from __future__ import annotations

import builtins
from pathlib import Path

import apsw

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import CheckpointPermission, TunedModel
from stepladder.storage.blobs import Blobs
from stepladder.storage.database import Database
from stepladder.storage.garbage import discard
from stepladder.storage.ids import new_id

COLUMNS = "name, project, job, base, adapter, created_at, step"
PERMISSION_COLUMNS = "id, project, model, granted_to, created_at"


class TunedModels:
    """The tuned models that one project may ask: its own, and checkpoints that other projects let it use."""

    def __init__(self, database: Database, blobs: Blobs, project: str) -> None:
        self._database = database
        self._blobs = blobs
        self.project = project

    def get(self, name: str) -> TunedModel | None:
        """The model of this name, the project's own first."""
        rows = self._database.read(
            f"SELECT {COLUMNS} FROM models WHERE name = :name AND (project = :project OR EXISTS (SELECT 1 FROM permissions "
            "WHERE permissions.project = models.project AND permissions.model = models.name AND granted_to = :project)) "
            "ORDER BY project <> :project, sequence LIMIT 1",
            {"name": name, "project": self.project},
        )
        return TunedModel(**rows[0]) if rows else None

    def list(self) -> builtins.list[TunedModel]:
        """All the project's own, newest first."""
        rows = self._database.read(f"SELECT {COLUMNS} FROM models WHERE project = ? ORDER BY sequence DESC", (self.project,))
        return [TunedModel(**row) for row in rows]

    def folder(self, model: TunedModel) -> Path:
        """Where its PEFT adapter lies."""
        return self._blobs.adapter(model.project, model.adapter)

    def delete(self, name: str) -> bool:
        """Forget one of the project's own models, and its adapter when nothing else has the same. Whether there was one."""
        with self._database.write() as connection:
            adapters = drop_model(connection, self.project, name)
        discard(self._database, self._blobs, self.project, adapters)
        return bool(adapters)

    def permit(self, name: str, projects: builtins.list[str]) -> builtins.list[CheckpointPermission]:
        """Let other projects use a model. Who may already keeps the permission it has.

        Raises:
            UsageError: There is no such model or project.
        """
        with self._database.write() as connection:
            if not _own(connection, self.project, name):
                raise UsageError(f"The model '{name}' does not exist.")
            return [self._permit(connection, name, project) for project in projects]

    def permissions(
        self,
        name: str,
        *,
        granted_to: str | None = None,
        after: str | None = None,
        limit: int = 10,
        newest_first: bool = True,
    ) -> builtins.list[CheckpointPermission]:
        """A page of those who may use a model.

        Raises:
            UsageError: There is no permission `after`.
        """
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        start = None
        if after is not None:
            found = self._database.read("SELECT sequence FROM permissions WHERE project = ? AND id = ?", (self.project, after))
            if not found:
                raise UsageError(f"No such permission: {after}")
            start = found[0]["sequence"]
        rows = self._database.read(
            f"SELECT {PERMISSION_COLUMNS} FROM permissions WHERE project = :project AND model = :model "
            f"AND (:granted IS NULL OR granted_to = :granted) AND (:start IS NULL OR sequence {beyond} :start) "
            f"ORDER BY sequence {order} LIMIT :limit",
            {"project": self.project, "model": name, "granted": granted_to, "start": start, "limit": limit},
        )
        return [CheckpointPermission(**row) for row in rows]

    def forbid(self, name: str, permission: str) -> bool:
        """Take a permission back; whether there was one."""
        with self._database.write() as connection:
            connection.execute(
                "DELETE FROM permissions WHERE project = ? AND model = ? AND id = ?", (self.project, name, permission)
            )
            return connection.changes() > 0

    def _permit(self, connection: apsw.Connection, name: str, granted_to: str) -> CheckpointPermission:
        if not list(connection.execute("SELECT 1 FROM projects WHERE id = ?", (granted_to,))):
            raise UsageError(f"There is no project '{granted_to}'.")
        connection.execute(
            f"INSERT OR IGNORE INTO permissions ({PERMISSION_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
            (new_id("cp_"), self.project, name, granted_to, self._database.now()),
        )
        rows = connection.execute(
            f"SELECT {PERMISSION_COLUMNS} FROM permissions WHERE project = ? AND model = ? AND granted_to = ?",
            (self.project, name, granted_to),
        )
        return CheckpointPermission(**next(rows))


def record_model(connection: apsw.Connection, model: TunedModel) -> None:
    """Enter a model whose adapter is at its place, inside the caller's transaction."""
    connection.execute(
        f"INSERT INTO models ({COLUMNS}) VALUES ({', '.join('?' * 7)})",
        tuple(getattr(model, name) for name in COLUMNS.split(", ")),
    )


def drop_model(connection: apsw.Connection, project: str, name: str) -> list[str]:
    """Forget a model and who may use it, inside the caller's transaction; the adapters to discard behind it."""
    found = list(connection.execute("SELECT adapter FROM models WHERE project = ? AND name = ?", (project, name)))
    connection.execute("DELETE FROM models WHERE project = ? AND name = ?", (project, name))
    connection.execute("DELETE FROM permissions WHERE project = ? AND model = ?", (project, name))
    return [row["adapter"] for row in found]


def _own(connection: apsw.Connection, project: str, name: str) -> bool:
    return bool(list(connection.execute("SELECT 1 FROM models WHERE project = ? AND name = ?", (project, name))))
