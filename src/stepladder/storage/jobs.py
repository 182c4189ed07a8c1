"""The jobs of one project as its users see them. Workers write through `storage.queue`."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping

import apsw

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import Job, JobCheckpoint, JobError, JobEvent, JobRequest, JobStatus, NewEvent
from stepladder.storage.database import Database, Row
from stepladder.storage.ids import new_id
from stepladder.storage.records import from_json, to_json

CHECKPOINT_COLUMNS = "id, project, job, step, model, created_at, metrics"
EVENT_COLUMNS = "id, project, job, sequence, created_at, level, type, message, data"


class Jobs:
    """The fine-tuning jobs of one project, their events and checkpoints. Another project's are not there."""

    def __init__(self, database: Database, project: str) -> None:
        self._database = database
        self.project = project

    def create(self, request: JobRequest, *, idempotency_key: str | None = None) -> Job:
        """A new job in state `validating_files`. The same idempotency key gives the same job again."""
        with self._database.write() as connection:
            if idempotency_key is not None:
                known = list(
                    connection.execute(
                        "SELECT * FROM jobs WHERE project = ? AND idempotency_key = ?", (self.project, idempotency_key)
                    )
                )
                if known:
                    return job_of(known[0])
            job = new_id("ftjob-")
            connection.execute(
                "INSERT INTO jobs (id, project, status, request, idempotency_key, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    job,
                    self.project,
                    JobStatus.VALIDATING,
                    json.dumps(to_json(request), ensure_ascii=False),
                    idempotency_key,
                    self._database.now(),
                ),
            )
            told = [NewEvent(f"Created fine-tuning job: {job}")]
            if request.requested_model not in ("", request.model, request.start):
                told.append(NewEvent(f"'{request.requested_model}' is trained here as '{request.model}'"))
            append_events(connection, self._database, self.project, job, told)
            return job_of(read_job(connection, self.project, job))

    def get(self, job: str) -> Job | None:
        rows = self._database.read("SELECT * FROM jobs WHERE project = ? AND id = ?", (self.project, job))
        return job_of(rows[0]) if rows else None

    def list(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
    ) -> builtins.list[Job]:
        """A page of jobs, newest first, behind the job `after`.

        Args:
            metadata: Only jobs whose metadata hold all these pairs.
            without_metadata: Only jobs without any.
        Raises:
            UsageError: There is no job `after`.
        """
        start = None
        if after is not None:
            found = self.get(after)
            if found is None:
                raise UsageError(f"Could not find fine tune: {after}")
            start = found.sequence
        wanted = "".join(
            " AND EXISTS (SELECT 1 FROM json_each(request, '$.metadata') AS pair "
            f"WHERE pair.key = :key{number} AND pair.value = :value{number})"
            for number in range(len(metadata or {}))
        )
        pairs = {
            name: text
            for number, pair in enumerate((metadata or {}).items())
            for name, text in zip((f"key{number}", f"value{number}"), pair, strict=True)
        }
        bare = " AND json_extract(request, '$.metadata') IS NULL" if without_metadata else ""
        rows = self._database.read(
            f"SELECT * FROM jobs WHERE project = :project AND (:start IS NULL OR sequence < :start){wanted}{bare} "
            "ORDER BY sequence DESC LIMIT :limit",
            {"project": self.project, "start": start, "limit": limit, **pairs},
        )
        return [job_of(row) for row in rows]

    def cancel(self, job: str) -> Job:
        """End a job. Its worker notices within a second, and writes nothing more from this moment on.

        Raises:
            UsageError: There is no such job, or it is over already.
        """
        with self._database.write() as connection:
            self._not_final(connection, job, "cancelled")
            connection.execute(
                "UPDATE jobs SET status = 'cancelled', finished_at = ?, estimated_finish = NULL, pausing = 0 "
                "WHERE project = ? AND id = ?",
                (self._database.now(), self.project, job),
            )
            append_events(connection, self._database, self.project, job, [NewEvent("Fine-tuning job cancelled", level="warn")])
            return job_of(read_job(connection, self.project, job))

    def pause(self, job: str) -> Job:
        """Let a job wait. One that runs goes on until its worker has saved a checkpoint, and is `pausing` meanwhile.

        Raises:
            UsageError: There is no such job, or it is over already.
        """
        with self._database.write() as connection:
            known = self._not_final(connection, job, "paused")
            if known.status is JobStatus.RUNNING:
                connection.execute("UPDATE jobs SET pausing = 1 WHERE project = ? AND id = ?", (self.project, job))
            elif known.status is not JobStatus.PAUSED:
                connection.execute(
                    "UPDATE jobs SET status = 'paused', lease_until = NULL WHERE project = ? AND id = ?", (self.project, job)
                )
                append_events(connection, self._database, self.project, job, [NewEvent("Fine-tuning job paused")])
            return job_of(read_job(connection, self.project, job))

    def resume(self, job: str) -> Job:
        """Let a paused job go on where it was; one that is `pausing` simply runs on.

        Raises:
            UsageError: There is no such job, or it is neither paused nor pausing.
        """
        with self._database.write() as connection:
            known = self._not_final(connection, job, "resumed")
            if known.status is not JobStatus.PAUSED and not known.pausing:
                raise UsageError(f"Fine-tuning job {job} is not paused; its status is {known.status}.")
            connection.execute(
                "UPDATE jobs SET pausing = 0, attempts = 0, status = CASE WHEN status <> 'paused' THEN status "
                "WHEN validated THEN 'queued' ELSE 'validating_files' END WHERE project = ? AND id = ?",
                (self.project, job),
            )
            append_events(connection, self._database, self.project, job, [NewEvent("Fine-tuning job resumed")])
            return job_of(read_job(connection, self.project, job))

    def events(
        self, job: str, *, after: int = 0, before: int | None = None, limit: int = 1000, newest_first: bool = False
    ) -> builtins.list[JobEvent]:
        """Events with `after` < sequence < `before`: read again with the last sequence seen, and none is missed or repeated."""
        order = "DESC" if newest_first else "ASC"
        rows = self._database.read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE project = :project AND job = :job AND sequence > :after "
            f"AND (:before IS NULL OR sequence < :before) ORDER BY sequence {order} LIMIT :limit",
            {"project": self.project, "job": job, "after": after, "before": before, "limit": limit},
        )
        return [JobEvent(**{**row, "data": json.loads(row["data"])}) for row in rows]

    def event(self, job: str, event: str) -> JobEvent | None:
        """The event of this id, which a page `after` it begins behind."""
        rows = self._database.read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE project = ? AND job = ? AND id = ?", (self.project, job, event)
        )
        return JobEvent(**{**rows[0], "data": json.loads(rows[0]["data"])}) if rows else None

    def checkpoints(self, job: str, *, after: str | None = None, limit: int = 10) -> builtins.list[JobCheckpoint]:
        """A page of checkpoints, the latest step first, behind the checkpoint `after`.

        Raises:
            UsageError: There is no checkpoint `after`.
        """
        start = None
        if after is not None:
            found = self._database.read(
                "SELECT step FROM checkpoints WHERE project = ? AND job = ? AND id = ?", (self.project, job, after)
            )
            if not found:
                raise UsageError(f"No such checkpoint: {after}")
            start = found[0]["step"]
        rows = self._database.read(
            f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE project = :project AND job = :job "
            "AND (:start IS NULL OR step < :start) ORDER BY step DESC LIMIT :limit",
            {"project": self.project, "job": job, "start": start, "limit": limit},
        )
        return [JobCheckpoint(**{**row, "metrics": json.loads(row["metrics"])}) for row in rows]

    def count(self, *statuses: JobStatus) -> int:
        """How many jobs the project has, in these states or in any."""
        rows = self._database.read(
            "SELECT count(*) AS jobs FROM jobs WHERE project = ? AND (? OR status IN (SELECT value FROM json_each(?)))",
            (self.project, int(not statuses), json.dumps(statuses)),
        )
        return int(rows[0]["jobs"])

    def _not_final(self, connection: apsw.Connection, job: str, wish: str) -> Job:
        rows = list(connection.execute("SELECT * FROM jobs WHERE project = ? AND id = ?", (self.project, job)))
        if not rows:
            raise UsageError(f"Could not find fine tune: {job}")
        known = job_of(rows[0])
        if known.status.final:
            raise UsageError(f"Fine-tuning job {job} cannot be {wish}: its status is {known.status}.")
        return known


def read_job(connection: apsw.Connection, project: str, job: str) -> Row:
    """The row of a job that is known to be there, as it is inside the caller's transaction."""
    row: Row = next(connection.execute("SELECT * FROM jobs WHERE project = ? AND id = ?", (project, job)))
    return row


def job_of(row: Row) -> Job:
    """A row of `jobs` as a record."""
    return Job(
        id=row["id"],
        project=row["project"],
        sequence=row["sequence"],
        status=JobStatus(row["status"]),
        request=from_json(JobRequest, json.loads(row["request"])),
        created_at=row["created_at"],
        token=row["token"],
        attempts=row["attempts"],
        pausing=bool(row["pausing"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        estimated_finish=row["estimated_finish"],
        resolved=json.loads(row["resolved"]),
        fine_tuned_model=row["fine_tuned_model"],
        trained_tokens=row["trained_tokens"],
        result_files=tuple(json.loads(row["result_files"])),
        error=None if row["error"] is None else JobError(**json.loads(row["error"])),
        comparison=None if row["comparison"] is None else json.loads(row["comparison"]),
    )


def append_events(
    connection: apsw.Connection, database: Database, project: str, job: str, events: builtins.list[NewEvent]
) -> None:
    """Add events behind those of the job, inside the caller's transaction; one whose key is there already is left out."""
    number = read_job(connection, project, job)["events"]
    for event in events:
        connection.execute(
            f"INSERT INTO events ({EVENT_COLUMNS}, key) VALUES ({', '.join('?' * 10)}) ON CONFLICT (job, key) DO NOTHING",
            (
                new_id("ftevent-"),
                project,
                job,
                number + 1,
                database.now(),
                event.level,
                event.type,
                event.message,
                json.dumps(dict(event.data), ensure_ascii=False),
                event.key,
            ),
        )
        number += connection.changes()
    connection.execute("UPDATE jobs SET events = ? WHERE project = ? AND id = ?", (number, project, job))
