"""A store with a job in it, in few words."""

from __future__ import annotations

from pathlib import Path

from stepladder.domain.jobs import LOCAL_PROJECT, Job, JobRequest, StoredFile
from stepladder.storage.queue import Claim, Queue
from stepladder.storage.store import Store


def put_file(store: Store, content: bytes, *, project: str = LOCAL_PROJECT, filename: str = "rows.jsonl") -> StoredFile:
    with store.blobs.receive(project) as incoming:
        incoming.write(content)
        return store.files(project).add(incoming, filename=filename, purpose="fine-tune")


def put_job(store: Store, *, project: str = LOCAL_PROJECT, **request: object) -> Job:
    return store.jobs(project).create(JobRequest(**{"model": "tiny", "training_file": "file-1", **request}))  # type: ignore[arg-type]


def queued(store: Store, queue: Queue, **request: object) -> Job:
    """A job whose files were found good."""
    job = put_job(store, **request)
    claim = queue.claim("validator", validating=True)
    assert claim is not None
    assert claim.job == job.id
    queue.validated(claim)
    return job


def running(store: Store, queue: Queue, **request: object) -> tuple[Job, Claim]:
    """A job in the hands of a worker."""
    job = queued(store, queue, **request)
    claim = queue.claim("worker", validating=False)
    assert claim is not None
    assert claim.job == job.id
    return job, claim


def succeed(store: Store, queue: Queue, claim: Claim, *, model: str = "ft:tiny", weights: bytes = b"weights") -> Job:
    """Finish a job as a worker does."""
    with (
        store.blobs.receive_folder(claim.project, {"adapter.safetensors": weights}) as adapter,
        store.blobs.receive(claim.project) as csv,
    ):
        csv.write(b"step,train_loss\n")
        return queue.succeed(
            claim, model=model, base="tiny", adapter=adapter, step=2, trained_tokens=7, results=[("step_metrics.csv", csv)]
        )


def save(store: Store, queue: Queue, claim: Claim, step: int) -> None:
    """Record a checkpoint as a worker does."""
    with store.blobs.receive_folder(claim.project, {"adapter.safetensors": b"%d" % step}) as adapter:
        queue.checkpoint(
            claim, step=step, model=f"ft:tiny:ckpt-step-{step}", base="tiny", adapter=adapter, metrics={"step": step}
        )


def messages(store: Store, job: Job) -> list[str]:
    return [event.message for event in store.jobs(job.project).events(job.id)]


def contents(folder: Path) -> list[str]:
    """Names of all that is kept below `folder`, what is on its way in left out."""
    return sorted(path.name for kind in ("files", "adapters") for path in folder.glob(f"{kind}/**/*") if path.is_file())
