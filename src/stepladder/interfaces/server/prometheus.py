"""`/metrics` for Prometheus. It tells of the whole server, so a key is needed for it as for everything else."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from stepladder.domain.jobs import JobStatus
from stepladder.interfaces.server.metrics import Labels, render
from stepladder.interfaces.server.shared import ProjectId, TheHouse, TheMetrics
from stepladder.service.serving.house import House

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter()


@router.get("/metrics")
def prometheus(project: ProjectId, house: TheHouse, metrics: TheMetrics) -> PlainTextResponse:
    """Counts of this process, and the state of the caller's project."""
    counts = ((name, labels, value) for (name, labels), value in metrics.counts().items())
    return PlainTextResponse(render([*counts, *_gauges(house, project)]), media_type=CONTENT_TYPE)


def _gauges(house: House, project: str) -> Iterator[tuple[str, Labels, float]]:
    yield "stepladder_answers_waiting", (), house.asking.waiting
    yield "stepladder_models_loaded", (), len(house.names.bases.loaded)
    for status in JobStatus:
        yield "stepladder_jobs", (("status", status.value),), house.jobs(project).count(status)
    yield "stepladder_stored_bytes", (), house.files(project).bytes_used()
