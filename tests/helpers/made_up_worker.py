"""A worker that trains nothing: it validates every job of a store and leaves a model behind, as soon as it sees one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stepladder.domain.jobs import JobError, NewEvent
from stepladder.storage.store import Store

TOKENS = 1_000


def work_once(store: Store, *, base: str = "fake", fault: JobError | None = None) -> str | None:
    """See one waiting job through to its end, or fail it with `fault`; the name of its model."""
    queue = store.queue()
    claim = queue.claim("made-up", validating=True)
    if claim is not None:
        if fault is not None:
            queue.fail(claim, fault)
            return None
        queue.validated(claim)
    claim = queue.claim("made-up", validating=False)
    if claim is None:
        return None
    queue.record(claim, [NewEvent("Fine-tuning job started")])
    model = f"ft:{base}:here::{claim.job[-8:]}"
    content = {"adapter_model.safetensors": claim.job.encode()}
    with store.blobs.receive_folder(claim.project, content) as adapter, store.blobs.receive(claim.project) as csv:
        csv.write(b"step,train_loss\n")
        results = [("step_metrics.csv", csv)]
        queue.succeed(claim, model=model, base=base, adapter=adapter, step=2, trained_tokens=TOKENS, results=results)
    return model


@contextmanager
def working(store: Store, *, base: str = "fake") -> Iterator[None]:
    """Work in a thread for the length of the block."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.02):
            work_once(store, base=base)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
