"""Files and jobs for a fine-tuning service over a tiny model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filled_store import put_file
from stepladder.domain.jobs import LOCAL_PROJECT, Job, JobRequest
from stepladder.interfaces.worker.trainer import COMMAND
from stepladder.service.job_attempt import TrainerOptions
from stepladder.service.job_training import Trainer
from stepladder.service.job_watch import Leave
from stepladder.service.job_worker import Worker, WorkerOptions
from stepladder.storage.queue import Claim
from stepladder.storage.store import Store

QUICK = {"n_epochs": 3, "batch_size": 4, "lora_rank": 2, "learning_rate": 5e-3}
ROWS = 12
STEPS = 9  # of QUICK on ROWS rows
OPTIONS = WorkerOptions(TrainerOptions("cpu", save_every_seconds=0.0), lease_seconds=4.0, most_attempts=1000)


def chat_rows(count: int = ROWS, *, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "Answer with one word."},
                {"role": "user", "content": f"Where is parcel number {first + number}?"},
                {"role": "assistant", "content": "delivery" if number % 2 else "refund"},
            ]
        }
        for number in range(count)
    ]


def pair_rows(count: int = ROWS) -> list[dict[str, Any]]:
    return [
        {
            "input": {"messages": row["messages"][:2]},
            "preferred_output": [row["messages"][2]],
            "non_preferred_output": [{"role": "assistant", "content": "I do not know."}],
        }
        for row in chat_rows(count)
    ]


def rows_text(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(store: Store, rows: list[dict[str, Any]]) -> str:
    return put_file(store, rows_text(rows)).id


def create(store: Store, model: Path, rows: list[dict[str, Any]] | None = None, **request: Any) -> Job:
    """A job over `rows`; `validation` rows are uploaded too."""
    if (validation := request.pop("validation", None)) is not None:
        request["validation_file"] = upload(store, validation)
    given = {"hyperparameters": QUICK, "training_file": upload(store, rows or chat_rows()), **request}
    return store.jobs(LOCAL_PROJECT).create(JobRequest(model=str(model), **given))


def attempt(store: Store, *, validating: bool, leave: Leave | None = None) -> int | None:
    """One attempt at whichever job waits, in this process; None when none does."""
    queue = store.queue()
    claim = queue.claim("test", validating=validating)
    if claim is None:
        return None
    return trainer(store, claim, leave).work()


def trainer(store: Store, claim: Claim, leave: Leave | None = None) -> Trainer:
    place = store.workplace(claim.project, claim.job) / str(claim.token)
    place.mkdir(parents=True)
    return Trainer(store, store.queue(), claim, place, TrainerOptions("cpu", 0.0), leave or Leave())


def finish(store: Store, job: Job) -> Job:
    """Validate and train in this process; the job as it ended."""
    assert attempt(store, validating=True) == 0
    attempt(store, validating=False)
    return known(store, job)


def known(store: Store, job: Job) -> Job:
    found = store.jobs(job.project).get(job.id)
    assert found is not None
    return found


def weights(store: Store, name: str) -> bytes:
    """The adapter's weights under a model name."""
    model = store.models(LOCAL_PROJECT).get(name)
    assert model is not None
    return (store.models(LOCAL_PROJECT).folder(model) / "adapter_model.safetensors").read_bytes()


def outcome(store: Store, id: str) -> dict[str, Any]:
    """Everything about a job that must not depend on how often it was interrupted."""
    job = store.jobs(LOCAL_PROJECT).get(id)
    assert job is not None
    assert job.fine_tuned_model is not None, job
    file = store.files(LOCAL_PROJECT).get(job.result_files[0])
    assert file is not None
    told = [event for event in store.jobs(LOCAL_PROJECT).events(id) if event.type == "metrics"]
    return {
        "status": job.status,
        "weights": weights(store, job.fine_tuned_model).hex(),
        "checkpoints": [
            (point.step, json.dumps(dict(point.metrics)), weights(store, point.model).hex())
            for point in store.jobs(LOCAL_PROJECT).checkpoints(id)
        ],
        "metrics": sorted((event.data["step"], event.message, json.dumps(dict(event.data))) for event in told),
        "table": file.sha256,
        "tokens": job.trained_tokens,
        "resolved": dict(job.resolved),
    }


def build_worker(store: Store) -> Worker:
    return Worker(store, COMMAND, OPTIONS)


def wait_until(holds: Callable[[], bool], *, seconds: float = 600.0) -> float:
    """Wait for a condition; how long it took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"it does not hold after {seconds:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - started
