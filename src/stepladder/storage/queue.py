"""The queue as workers see it: a job is claimed under a lease, and whatever its holder writes carries the claim's token.

A worker that was held up past its lease may wake up and write on. Its token is stale by then, so it writes nothing and learns
that it has lost the job. A cancelled job is lost to its worker in the same way.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import apsw

from stepladder.domain.errors import StepladderError
from stepladder.domain.jobs import Job, JobCheckpoint, JobError, JobStatus, NewEvent, StoredFile, TunedModel
from stepladder.storage.blobs import Blobs, Incoming, IncomingFolder
from stepladder.storage.database import Database, Row
from stepladder.storage.garbage import discard
from stepladder.storage.ids import new_id
from stepladder.storage.jobs import append_events, job_of, read_job
from stepladder.storage.stored_files import record_file
from stepladder.storage.tuned_models import drop_model, record_model

LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 15.0
MOST_ATTEMPTS = 5
CHECKPOINTS_KEPT = 3

GAVE_UP = JobError(
    "too_many_crashes",
    "The job's process stopped without a word {attempts} times in a row without coming forward; mostly the machine's memory is "
    "too small for it. Try a smaller model, a smaller batch_size, or shorter examples.",
)


class LostClaim(StepladderError):
    """The job was cancelled, or another worker has it: nothing was written, and the holder has to stop."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in the hands of one worker. `token` is its fencing token."""

    job: str
    project: str
    token: int


class Queue:
    """Claims jobs of all projects, oldest first, and writes what comes of them."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        *,
        lease_seconds: float = LEASE_SECONDS,
        most_attempts: int = MOST_ATTEMPTS,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self.lease_seconds = lease_seconds
        self.most_attempts = most_attempts

    def claim(self, worker: str, *, validating: bool) -> Claim | None:
        """The oldest job that waits to be validated, or else to run; also one whose worker let its lease run out.

        A job that came back too often without coming forward fails here, and one that was to pause is paused.
        """
        waiting = _TO_VALIDATE if validating else _TO_RUN
        clock = self._database.clock
        with self._database.write() as connection:
            while rows := list(connection.execute(waiting, {"boot": clock.boot, "now": clock.since_boot()})):
                if not self._settled(connection, rows[0]):
                    return self._take(connection, rows[0], worker)
        return None

    def heartbeat(self, claim: Claim) -> bool:
        """Renew the lease; whether the job is to pause.

        Raises:
            LostClaim: The job is no longer the caller's.
        """
        with self._holding(claim) as (connection, row):
            self._update(connection, claim, lease_until=self._lease_end())
            return bool(row["pausing"])

    def check(self, claim: Claim) -> bool:
        """As `heartbeat`, without renewing or writing: cheap enough for every step.

        Raises:
            LostClaim: The job is no longer the caller's.
        """
        rows = self._database.read(
            "SELECT token, status, pausing FROM jobs WHERE project = ? AND id = ?", (claim.project, claim.job)
        )
        _refuse_stale(claim, rows)
        return bool(rows[0]["pausing"])

    def job(self, claim: Claim) -> Job:
        """The claimed job as it stands.

        Raises:
            LostClaim: The job is no longer the caller's.
        """
        rows = self._database.read("SELECT * FROM jobs WHERE project = ? AND id = ?", (claim.project, claim.job))
        _refuse_stale(claim, rows)
        return job_of(rows[0])

    def record(self, claim: Claim, events: Sequence[NewEvent], **known: Any) -> None:
        """Add events, and what became known of the job: `resolved`, `estimated_finish`.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, _):
            self._append(connection, claim, events)
            if known:
                values = {name: json.dumps(value) if isinstance(value, Mapping) else value for name, value in known.items()}
                self._update(connection, claim, **values)

    def validated(self, claim: Claim, events: Sequence[NewEvent] = ()) -> None:
        """The files are good: the job is queued, and let go of.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, _):
            self._append(connection, claim, [*events, NewEvent("Files validated, moving job to queued state")])
            self._update(connection, claim, status=JobStatus.QUEUED, validated=1, attempts=0, **_LET_GO)

    def checkpoint(
        self,
        claim: Claim,
        *,
        step: int,
        model: str,
        base: str,
        adapter: IncomingFolder,
        metrics: Mapping[str, float],
        kept: int = CHECKPOINTS_KEPT,
    ) -> None:
        """Record the adapter of `step` under the name `model`, once; of the job's checkpoints the newest `kept` stay.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, _):
            known = connection.execute("SELECT 1 FROM checkpoints WHERE job = ? AND step >= ?", (claim.job, step))
            if list(known):
                return  # recorded by an earlier attempt, and perhaps followed by newer ones
            now = self._database.now()
            self._blobs.keep_folder(adapter)
            record_model(connection, TunedModel(model, claim.project, claim.job, base, adapter.digest, now, step))
            made = JobCheckpoint(new_id("ftckpt_"), claim.project, claim.job, step, model, now, metrics)
            connection.execute(
                "INSERT INTO checkpoints (id, project, job, step, model, created_at, metrics) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (made.id, made.project, made.job, made.step, made.model, made.created_at, json.dumps(dict(metrics))),
            )
            message = f"Checkpoint created at step {step} with Snapshot ID: {model}"
            self._append(connection, claim, [NewEvent(message, data={"step": step}, key=f"checkpoint {step}")])
            dropped = self._prune(connection, claim, kept)
        discard(self._database, self._blobs, claim.project, dropped)

    def advanced(self, claim: Claim, step: int) -> None:
        """The training is saved behind `step`: a job that comes forward may be taken up again as often as it needs.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, row):
            if step > row["progress"]:
                self._update(connection, claim, progress=step, attempts=0)

    def succeed(
        self,
        claim: Claim,
        *,
        model: str,
        base: str,
        adapter: IncomingFolder,
        step: int,
        trained_tokens: int,
        results: Sequence[tuple[str, Incoming]] = (),
        events: Sequence[NewEvent] = (),
        comparison: Mapping[str, Any] | None = None,
    ) -> Job:
        """Everything that a finished job leaves behind, in one commit: its model, result files, last events and state.

        Args:
            step: Of the training that the adapter is; a checkpoint of that step is listed under the name `model` from now on.
            results: File names and contents.
        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        for _, content in results:
            content.seal()
        with self._holding(claim) as (connection, _):
            now = self._database.now()
            self._blobs.keep_folder(adapter)
            record_model(connection, TunedModel(model, claim.project, claim.job, base, adapter.digest, now))
            connection.execute("UPDATE checkpoints SET model = ? WHERE job = ? AND step = ?", (model, claim.job, step))
            stored = [self._result(connection, name, content) for name, content in results]
            done = [NewEvent(f"New fine-tuned model created: {model}"), NewEvent("The job has successfully completed")]
            self._append(connection, claim, [*events, *done])
            self._update(
                connection,
                claim,
                status=JobStatus.SUCCEEDED,
                finished_at=now,
                estimated_finish=None,
                fine_tuned_model=model,
                trained_tokens=trained_tokens,
                result_files=json.dumps([file.id for file in stored]),
                comparison=None if comparison is None else json.dumps(comparison),
                pausing=0,
                **_LET_GO,
            )
            return job_of(read_job(connection, claim.project, claim.job))

    def fail(self, claim: Claim, error: JobError, events: Sequence[NewEvent] = ()) -> None:
        """End the job with a reason.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, row):
            self._fail(connection, row, error, events)

    def paused(self, claim: Claim) -> None:
        """The training is saved and has stopped, as was asked.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, row):
            self._pause(connection, row)

    def release(self, claim: Claim, *, crashed: bool = False) -> None:
        """Put the job back, for whoever comes next; `crashed` counts it as an attempt that failed.

        Raises:
            LostClaim: The job is no longer the caller's; nothing was written.
        """
        with self._holding(claim) as (connection, row):
            back = JobStatus.QUEUED if row["status"] == JobStatus.RUNNING else JobStatus(row["status"])
            attempts = row["attempts"] if crashed else max(0, row["attempts"] - 1)
            self._update(connection, claim, status=back, attempts=attempts, estimated_finish=None, **_LET_GO)

    def _settled(self, connection: apsw.Connection, row: Row) -> bool:
        """Whether a waiting job was only waiting to be paused, or to be given up."""
        if row["pausing"]:
            self._pause(connection, row)
            return True
        if row["attempts"] >= self.most_attempts:
            message = GAVE_UP.message.format(attempts=row["attempts"])
            self._fail(connection, row, JobError(GAVE_UP.code, message), ())
            return True
        return False

    def _take(self, connection: apsw.Connection, row: Row, worker: str) -> Claim:
        claim = Claim(row["id"], row["project"], row["token"] + 1)
        now = self._database.now()
        running = row["status"] != JobStatus.VALIDATING
        if running and row["started_at"] is None:
            self._append(connection, claim, [NewEvent("Fine-tuning job started")])
        elif row["status"] == JobStatus.RUNNING:
            text = "The worker of this job went away; another one goes on from the newest checkpoint"
            self._append(connection, claim, [NewEvent(text, level="warn")])
        self._update(
            connection,
            claim,
            status=JobStatus.RUNNING if running else JobStatus.VALIDATING,
            token=claim.token,
            attempts=row["attempts"] + 1,
            worker=worker,
            lease_until=self._lease_end(),
            lease_boot=self._database.clock.boot,
            lease_seconds=self.lease_seconds,
            started_at=(row["started_at"] or now) if running else None,
        )
        return claim

    def _lease_end(self) -> float:
        return self._database.clock.since_boot() + self.lease_seconds

    def _result(self, connection: apsw.Connection, name: str, content: Incoming) -> StoredFile:
        return record_file(connection, self._database, self._blobs, content, filename=name, purpose="fine-tune-results")

    def _prune(self, connection: apsw.Connection, claim: Claim, kept: int) -> builtins.list[str]:
        """Forget all but the newest checkpoints; their adapters, to be discarded."""
        old = list(
            connection.execute(
                "SELECT id, model FROM checkpoints WHERE job = ? ORDER BY step DESC LIMIT -1 OFFSET ?", (claim.job, kept)
            )
        )
        connection.executemany("DELETE FROM checkpoints WHERE id = ?", [(row["id"],) for row in old])
        return [digest for row in old for digest in drop_model(connection, claim.project, row["model"])]

    def _fail(self, connection: apsw.Connection, row: Row, error: JobError, events: Sequence[NewEvent]) -> None:
        claim = Claim(row["id"], row["project"], row["token"])
        said = error.message if error.message.startswith("The job failed") else f"The job failed: {error.message}"
        self._append(connection, claim, [*events, NewEvent(said, level="error")])
        self._update(
            connection,
            claim,
            status=JobStatus.FAILED,
            finished_at=self._database.now(),
            estimated_finish=None,
            error=json.dumps(asdict(error), ensure_ascii=False),
            pausing=0,
            **_LET_GO,
        )

    def _pause(self, connection: apsw.Connection, row: Row) -> None:
        claim = Claim(row["id"], row["project"], row["token"])
        self._append(connection, claim, [NewEvent("Fine-tuning job paused")])
        self._update(connection, claim, status=JobStatus.PAUSED, pausing=0, attempts=0, estimated_finish=None, **_LET_GO)

    def _append(self, connection: apsw.Connection, claim: Claim, events: Sequence[NewEvent]) -> None:
        append_events(connection, self._database, claim.project, claim.job, [*events])

    def _update(self, connection: apsw.Connection, claim: Claim, **values: Any) -> None:
        names = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(
            f"UPDATE jobs SET {names} WHERE project = :its_project AND id = :its_id",
            {**values, "its_project": claim.project, "its_id": claim.job},
        )

    @contextmanager
    def _holding(self, claim: Claim) -> Iterator[tuple[apsw.Connection, Row]]:
        """A write transaction in which the claim is known to be good, and the job's row."""
        with self._database.write() as connection:
            rows = list(connection.execute("SELECT * FROM jobs WHERE project = ? AND id = ?", (claim.project, claim.job)))
            _refuse_stale(claim, rows)
            yield connection, rows[0]


_LET_GO: Mapping[str, Any] = {"worker": None, "lease_until": None, "lease_boot": None, "lease_seconds": None}
# A lease counts only within the start of the machine it was taken in; one that lasts longer than it can is of an earlier one.
_FREE = (
    "AND (lease_until IS NULL OR lease_boot <> :boot OR lease_until <= :now OR lease_until - :now > lease_seconds) "
    "ORDER BY sequence LIMIT 1"
)
_TO_VALIDATE = f"SELECT * FROM jobs WHERE status = 'validating_files' {_FREE}"
_TO_RUN = f"SELECT * FROM jobs WHERE status IN ('queued', 'running') {_FREE}"


def _refuse_stale(claim: Claim, rows: Sequence[Row]) -> None:
    if not rows or rows[0]["token"] != claim.token or rows[0]["status"] not in (JobStatus.RUNNING, JobStatus.VALIDATING):
        state = rows[0]["status"] if rows else "gone"
        raise LostClaim(f"Job {claim.job} is no longer this worker's (it is {state}).")
