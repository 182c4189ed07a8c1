"""`/v1/fine_tuning/jobs`: making jobs, watching them, stopping them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import Job, JobCheckpoint, JobRequest, NewEvent
from stepladder.interfaces.server.answers import unknown_model
from stepladder.interfaces.server.errors import ApiError, invalid, not_found, too_many
from stepladder.interfaces.server.job_events import event_object, event_stream, wants_stream
from stepladder.interfaces.server.job_request import CreateJob
from stepladder.interfaces.server.limits import Limits, read_body
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheLimits, check_metadata, page
from stepladder.service.serving.house import House
from stepladder.service.serving.names import UnknownModel

_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)

router = APIRouter()
JOBS = "/v1/fine_tuning/jobs"


@router.post(JOBS)
async def create_job(request: Request, project: ProjectId, house: TheHouse, limits: TheLimits) -> JsonObject:
    """Put a job into the queue. Its files are validated later: a fault in them fails the job, not this request."""
    asked = await read_body(request, CreateJob)
    check_metadata(asked.metadata)
    return await run_in_threadpool(_create, house, project, asked, limits, request.headers.get("idempotency-key"))


def _create(house: House, project: str, asked: CreateJob, limits: Limits, idempotency_key: str | None) -> JsonObject:
    try:
        base, tuned = house.names.base_of(project, asked.model)
    except UnknownModel as error:
        raise unknown_model(error) from None
    wanted = asked.request(base, None if tuned is None else tuned.name)
    _check_file(house, project, asked.training_file, "training_file")
    if asked.validation_file is not None:
        _check_file(house, project, asked.validation_file, "validation_file")
    if house.open_jobs(project) >= limits.jobs_open:
        raise too_many(f"The project has its maximum of {limits.jobs_open} fine-tuning jobs that are not finished.", 60)
    job = house.jobs(project).create(wanted, idempotency_key=idempotency_key)
    house.note(job, _remarks(wanted, base.name))
    return job_object(house, job)


def _remarks(wanted: JobRequest, base: str) -> list[NewEvent]:
    """What is done otherwise than a reader of the request might think."""
    events = []
    if wanted.start is None and wanted.requested_model != base:
        events.append(
            NewEvent(f"'{wanted.requested_model}' stands for {base} on this server: that is the model trained", key="alias")
        )
    if wanted.integrations:
        events.append(
            NewEvent(
                "Nothing is sent to wandb: metrics are in this job's events and result files", level="warn", key="integrations"
            )
        )
    return events


@router.get(JOBS)
def list_jobs(
    request: Request,
    project: ProjectId,
    house: TheHouse,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after: str | None = None,
) -> JsonObject:
    metadata = {pair[1]: value for key, value in request.query_params.items() if (pair := _METADATA.fullmatch(key))}
    without = request.query_params.get("metadata") == "null"
    try:
        found = house.jobs(project).list(after=after, limit=limit + 1, metadata=metadata or None, without_metadata=without)
    except UsageError:
        raise missing_job(str(after)) from None
    return page([job_object(house, job) for job in found], limit)


@router.get(JOBS + "/{job_id}")
def retrieve_job(job_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    return job_object(house, _known(house, project, job_id))


@router.post(JOBS + "/{job_id}/cancel")
def cancel_job(job_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    return _changed(house, project, job_id, "cancel")


@router.post(JOBS + "/{job_id}/pause")
def pause_job(job_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    return _changed(house, project, job_id, "pause")


@router.post(JOBS + "/{job_id}/resume")
def resume_job(job_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    return _changed(house, project, job_id, "resume")


@router.get(JOBS + "/{job_id}/events")
async def list_events(
    job_id: str,
    request: Request,
    project: ProjectId,
    house: TheHouse,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after: str | None = None,
    stream: bool = False,
) -> Response:
    """Newest first. As a stream (`stream=true`, or `Accept: text/event-stream`): oldest first, and on to the job's end."""
    job = await run_in_threadpool(_known, house, project, job_id)
    if stream or wants_stream(request):
        return event_stream(house, job, request)
    return JSONResponse(await run_in_threadpool(_events, house, project, job_id, limit, after))


def _events(house: House, project: str, job_id: str, limit: int, after: str | None) -> JsonObject:
    jobs = house.jobs(project)
    last = None if after is None else jobs.event(job_id, after)
    if after is not None and last is None:
        raise not_found(f"No such event: {after}", "after")
    found = jobs.events(job_id, before=None if last is None else last.sequence, limit=limit + 1, newest_first=True)
    return page([event_object(event) for event in found], limit)


@router.get(JOBS + "/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    project: ProjectId,
    house: TheHouse,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    after: str | None = None,
) -> JsonObject:
    _known(house, project, job_id)
    try:
        found = house.jobs(project).checkpoints(job_id, after=after, limit=limit + 1)
    except UsageError as error:
        raise not_found(str(error), "after") from None
    return page([_checkpoint_object(checkpoint) for checkpoint in found], limit, ids=True)


def _changed(house: House, project: str, job_id: str, wish: str) -> JsonObject:
    _known(house, project, job_id)
    try:
        changed: Job = getattr(house.jobs(project), wish)(job_id)
    except UsageError as error:
        raise invalid(str(error), "fine_tune_id") from None
    return job_object(house, changed)


def _known(house: House, project: str, job_id: str) -> Job:
    job = house.jobs(project).get(job_id)
    if job is None:
        raise missing_job(job_id)
    return job


def missing_job(job_id: str) -> ApiError:
    return not_found(f"Could not find fine tune: {job_id}", "fine_tune_id", "fine_tune_not_found")


def _check_file(house: House, project: str, file_id: str, param: str) -> None:
    file = house.files(project).get(file_id)
    if file is None:
        raise invalid(f"invalid {param}: {file_id}", param)
    if file.purpose != "fine-tune":
        raise invalid(f"The file {file_id} has the purpose '{file.purpose}'; a job needs 'fine-tune'.", param)


def job_object(house: House, job: Job) -> JsonObject:
    """OpenAI's job, and beside its keys: `comparison`, the name that was asked for, and whether a pause is on its way."""
    request = job.request
    hyperparameters = {**request.hyperparameters, **job.resolved}
    method: dict[str, Any] = {"hyperparameters": hyperparameters}
    if request.grader is not None:
        method["grader"] = dict(request.grader)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "error": None if job.error is None else _error(job),
        "fine_tuned_model": job.fine_tuned_model,
        "finished_at": job.finished_at,
        "hyperparameters": {
            key: hyperparameters.get(key, "auto") for key in ("n_epochs", "batch_size", "learning_rate_multiplier")
        },
        "model": request.start or request.public_model or house.names.bases.name_of(request.model),
        "organization_id": house.settings.organization,
        "result_files": list(job.result_files),
        "status": job.status.value,
        "trained_tokens": job.trained_tokens,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "seed": request.seed,
        "estimated_finish": job.estimated_finish,
        "integrations": [dict(one) for one in request.integrations],
        "metadata": None if request.metadata is None else dict(request.metadata),
        "method": {"type": request.method, request.method: method},
        "user_provided_suffix": request.suffix,
        "requested_model": request.requested_model,
        "pausing": job.pausing,
        "comparison": None if job.comparison is None else dict(job.comparison),
    }


def _error(job: Job) -> JsonObject:
    assert job.error is not None
    return {"code": job.error.code, "message": job.error.message, "param": job.error.param}


def _checkpoint_object(checkpoint: JobCheckpoint) -> JsonObject:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": checkpoint.job,
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **checkpoint.metrics},
    }
