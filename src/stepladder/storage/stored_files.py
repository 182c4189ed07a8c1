"""Files that a project uploaded or that its jobs left behind, and uploads in parts."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import IO

import apsw

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import StoredFile, Upload, UploadPart
from stepladder.storage.blobs import Blobs, Incoming
from stepladder.storage.database import Database, Row
from stepladder.storage.garbage import discard
from stepladder.storage.ids import new_id

COLUMNS = "id, project, filename, purpose, bytes, sha256, created_at, expires_at"
UPLOAD_COLUMNS = "id, project, filename, purpose, bytes, mime_type, status, created_at, expires_at, file, file_lifetime_seconds"
PART_COLUMNS = "id, project, upload, bytes, sha256, created_at"
UPLOAD_SECONDS = 3600
CHUNK_BYTES = 2**20

_UNFINISHED = "status NOT IN ('succeeded', 'failed', 'cancelled')"
_AMONG_ITS_FILES = "IN (json_extract(request, '$.training_file'), json_extract(request, '$.validation_file'))"
_EXPIRED_FILES = (
    "project = :project AND expires_at <= :now AND NOT EXISTS "
    f"(SELECT 1 FROM jobs WHERE jobs.project = :project AND {_UNFINISHED} AND files.id {_AMONG_ITS_FILES})"
)
_LATE = "project = :project AND status = 'pending' AND expires_at <= :now"


class StoredFiles:
    """The files of one project. An expired file is as good as deleted, except to an unfinished job that names it."""

    def __init__(self, database: Database, blobs: Blobs, project: str) -> None:
        self._database = database
        self._blobs = blobs
        self.project = project

    def add(
        self,
        incoming: Incoming,
        *,
        filename: str,
        purpose: str,
        lifetime_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> StoredFile:
        """Record what came in (through `Blobs.receive`). The same idempotency key gives the same file again."""
        incoming.seal()
        with self._database.write() as connection:
            if idempotency_key is not None:
                known = list(
                    connection.execute(
                        f"SELECT {COLUMNS} FROM files WHERE project = ? AND idempotency_key = ?", (self.project, idempotency_key)
                    )
                )
                if known:
                    return StoredFile(**known[0])
            return record_file(
                connection,
                self._database,
                self._blobs,
                incoming,
                filename=filename,
                purpose=purpose,
                lifetime_seconds=lifetime_seconds,
                idempotency_key=idempotency_key,
            )

    def get(self, file: str) -> StoredFile | None:
        rows = self._database.read(
            f"SELECT {COLUMNS} FROM files WHERE project = ? AND id = ? AND (expires_at IS NULL OR expires_at > ?)",
            (self.project, file, self._database.now()),
        )
        return StoredFile(**rows[0]) if rows else None

    def list(
        self, *, purpose: str | None = None, after: str | None = None, limit: int = 10_000, newest_first: bool = True
    ) -> builtins.list[StoredFile]:
        """A page of files, behind the file `after`.

        Raises:
            UsageError: There is no file `after`.
        """
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        rows = self._database.read(
            f"SELECT {COLUMNS} FROM files WHERE project = :project AND (:purpose IS NULL OR purpose = :purpose) "
            f"AND (expires_at IS NULL OR expires_at > :now) AND (:after IS NULL OR sequence {beyond} :after) "
            f"ORDER BY sequence {order} LIMIT :limit",
            {
                "project": self.project,
                "purpose": purpose,
                "now": self._database.now(),
                "after": self._sequence(after),
                "limit": limit,
            },
        )
        return [StoredFile(**row) for row in rows]

    def open(self, file: StoredFile) -> IO[bytes]:
        """The content, for reading. A file deleted meanwhile can still be read to its end."""
        return self._blobs.path(self.project, file.sha256).open("rb")

    def held(self, file: str) -> StoredFile | None:
        """As `get`, for the job that was given the file before it expired."""
        rows = self._database.read(f"SELECT {COLUMNS} FROM files WHERE project = ? AND id = ?", (self.project, file))
        return StoredFile(**rows[0]) if rows else None

    def delete(self, file: str) -> bool:
        """Forget a file; its bytes go when nothing else of the project has the same. Whether there was one.

        Raises:
            UsageError: A job that is not over needs it: it could not be resumed, nor begin anew after a crash.
        """
        with self._database.write() as connection:
            sql = f"SELECT id FROM jobs WHERE project = ? AND {_UNFINISHED} AND ? {_AMONG_ITS_FILES}"
            jobs = list(connection.execute(sql, (self.project, file)))
            if jobs:
                raise UsageError(f"{file} is a file of the job {jobs[0]['id']}, which is not over.", "Cancel the job first.")
            found = list(connection.execute("SELECT sha256 FROM files WHERE project = ? AND id = ?", (self.project, file)))
            connection.execute("DELETE FROM files WHERE project = ? AND id = ?", (self.project, file))
        discard(self._database, self._blobs, self.project, [row["sha256"] for row in found])
        return bool(found)

    def forget_expired(self) -> None:
        """Remove what has expired: files that no unfinished job names, and the parts of uploads nobody completed in time."""
        at = {"project": self.project, "now": self._database.now()}
        if not self._database.read(
            f"SELECT 1 FROM files WHERE {_EXPIRED_FILES} UNION ALL SELECT 1 FROM uploads WHERE {_LATE}", at
        ):
            return
        with self._database.write() as connection:
            gone = list(connection.execute(f"DELETE FROM files WHERE {_EXPIRED_FILES} RETURNING sha256", at))
            connection.execute(f"UPDATE uploads SET status = 'expired' WHERE {_LATE}", at)
            gone += connection.execute(
                "DELETE FROM upload_parts WHERE project = :project AND upload IN "
                "(SELECT id FROM uploads WHERE project = :project AND status = 'expired') RETURNING sha256",
                at,
            )
        discard(self._database, self._blobs, self.project, [row["sha256"] for row in gone])

    def bytes_used(self) -> int:
        """Bytes of all files and of the parts of open uploads, for quotas; equal contents count each time."""
        rows = self._database.read(
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM files WHERE project = :project) + "
            "(SELECT coalesce(sum(bytes), 0) FROM upload_parts WHERE project = :project) AS used",
            {"project": self.project},
        )
        return int(rows[0]["used"])

    def create_upload(
        self, *, filename: str, purpose: str, bytes: int, mime_type: str, file_lifetime_seconds: int | None = None
    ) -> Upload:
        """An upload in parts, open for an hour."""
        now = self._database.now()
        made = Upload(
            new_id("upload_"),
            self.project,
            filename,
            purpose,
            bytes,
            mime_type,
            "pending",
            now,
            now + UPLOAD_SECONDS,
            None,
            file_lifetime_seconds,
        )
        with self._database.write() as connection:
            connection.execute(
                f"INSERT INTO uploads ({UPLOAD_COLUMNS}) VALUES ({', '.join('?' * 11)})",
                tuple(getattr(made, name) for name in UPLOAD_COLUMNS.split(", ")),
            )
        return made

    def get_upload(self, upload: str) -> Upload | None:
        """An upload; one that nobody completed in time is `expired`."""
        rows = self._database.read(f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE project = ? AND id = ?", (self.project, upload))
        return _upload(rows[0], self._database.now()) if rows else None

    def add_part(self, upload: str, incoming: Incoming) -> UploadPart:
        """Record a part.

        Raises:
            UsageError: There is no such upload, or it is no longer open.
        """
        incoming.seal()
        part = UploadPart(new_id("part_"), self.project, upload, incoming.bytes, incoming.sha256, self._database.now())
        with self._database.write() as connection:
            self._pending(connection, upload)
            self._blobs.keep(incoming)
            connection.execute(
                f"INSERT INTO upload_parts ({PART_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                (part.id, part.project, part.upload, part.bytes, part.sha256, part.created_at),
            )
        return part

    def parts(self, upload: str) -> builtins.list[UploadPart]:
        """The parts of an upload as they came."""
        rows = self._database.read(
            f"SELECT {PART_COLUMNS} FROM upload_parts WHERE project = ? AND upload = ? ORDER BY rowid",
            (self.project, upload),
        )
        return [UploadPart(**row) for row in rows]

    def join_parts(self, parts: Sequence[UploadPart], into: Incoming) -> None:
        """Write the contents of `parts` one behind the other."""
        for part in parts:
            with self._blobs.path(self.project, part.sha256).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    into.write(chunk)

    def complete_upload(self, upload: str, whole: Incoming) -> Upload:
        """Turn an upload into the file `whole` (see `join_parts`); its parts go.

        Raises:
            UsageError: It is no longer open, or `whole` has not the announced size.
        """
        whole.seal()
        with self._database.write() as connection:
            pending = self._pending(connection, upload)
            if whole.bytes != pending.bytes:
                raise UsageError(f"The parts have {whole.bytes} bytes together; {pending.bytes} were announced.")
            file = record_file(
                connection,
                self._database,
                self._blobs,
                whole,
                filename=pending.filename,
                purpose=pending.purpose,
                lifetime_seconds=pending.file_lifetime_seconds,
            )
            connection.execute(
                "UPDATE uploads SET status = 'completed', file = ? WHERE project = ? AND id = ?", (file.id, self.project, upload)
            )
            parts = self._drop_parts(connection, upload)
        discard(self._database, self._blobs, self.project, parts)
        return self._known_upload(upload)

    def cancel_upload(self, upload: str) -> Upload:
        """Give up an upload; its parts go.

        Raises:
            UsageError: There is no such upload, or it is no longer open.
        """
        with self._database.write() as connection:
            self._pending(connection, upload)
            connection.execute("UPDATE uploads SET status = 'cancelled' WHERE project = ? AND id = ?", (self.project, upload))
            parts = self._drop_parts(connection, upload)
        discard(self._database, self._blobs, self.project, parts)
        return self._known_upload(upload)

    def _sequence(self, file: str | None) -> int | None:
        if file is None:
            return None
        rows = self._database.read("SELECT sequence FROM files WHERE project = ? AND id = ?", (self.project, file))
        if not rows:
            raise UsageError(f"No such File object: {file}")
        return int(rows[0]["sequence"])

    def _known_upload(self, upload: str) -> Upload:
        found = self.get_upload(upload)
        assert found is not None
        return found

    def _pending(self, connection: apsw.Connection, upload: str) -> Upload:
        rows = list(
            connection.execute(f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE project = ? AND id = ?", (self.project, upload))
        )
        if not rows:
            raise UsageError(f"No such Upload object: {upload}")
        found = _upload(rows[0], self._database.now())
        if found.status != "pending":
            raise UsageError(f"Upload {upload} is {found.status}.", "Create a new one.")
        return found

    def _drop_parts(self, connection: apsw.Connection, upload: str) -> builtins.list[str]:
        parts = list(
            connection.execute("SELECT sha256 FROM upload_parts WHERE project = ? AND upload = ?", (self.project, upload))
        )
        connection.execute("DELETE FROM upload_parts WHERE project = ? AND upload = ?", (self.project, upload))
        return [part["sha256"] for part in parts]


def record_file(
    connection: apsw.Connection,
    database: Database,
    blobs: Blobs,
    incoming: Incoming,
    *,
    filename: str,
    purpose: str,
    lifetime_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> StoredFile:
    """Put a sealed file at its place and enter it, inside the caller's transaction."""
    now = database.now()
    expires = None if lifetime_seconds is None else now + lifetime_seconds
    made = StoredFile(new_id("file-"), incoming.project, filename, purpose, incoming.bytes, incoming.sha256, now, expires)
    blobs.keep(incoming)
    connection.execute(
        f"INSERT INTO files ({COLUMNS}, idempotency_key) VALUES ({', '.join('?' * 9)})",
        (*(getattr(made, name) for name in COLUMNS.split(", ")), idempotency_key),
    )
    return made


def _upload(row: Row, now: int) -> Upload:
    late = row["status"] == "pending" and row["expires_at"] <= now
    return Upload(**{**row, "status": "expired" if late else row["status"]})
