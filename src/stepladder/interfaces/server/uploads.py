"""`/v1/uploads`: large files in parts."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from stepladder.domain.jobs import Upload, UploadPart
from stepladder.interfaces.server.chat_request import Strict
from stepladder.interfaces.server.errors import invalid, not_found
from stepladder.interfaces.server.files import (
    Metered,
    check_purpose,
    checked_life,
    file_object,
    refuse_beyond_quota,
    refuse_other_than_jsonl,
    room_left,
)
from stepladder.interfaces.server.limits import Limits, read_body
from stepladder.interfaces.server.multipart import read_form
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheLimits, plain_name
from stepladder.service.serving.house import House
from stepladder.storage.blobs import Incoming

MOST_BYTES = 8 * 1024**3
MOST_PARTS = 1_000
CHUNK_BYTES = 2**20

router = APIRouter()


class ExpiresAfter(Strict):
    anchor: Literal["created_at"]
    seconds: int


class CreateUpload(Strict):
    filename: str
    purpose: str
    bytes: Annotated[int, Field(ge=1, le=MOST_BYTES)]
    mime_type: Annotated[str, Field(max_length=255)]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Strict):
    part_ids: Annotated[list[str], Field(min_length=1, max_length=MOST_PARTS)]
    md5: str | None = None


@router.post("/v1/uploads")
async def create_upload(request: Request, project: ProjectId, house: TheHouse, limits: TheLimits) -> JsonObject:
    asked = await read_body(request, CreateUpload)
    check_purpose(asked.purpose)
    life = None if asked.expires_after is None else checked_life(asked.expires_after.seconds)
    files = house.files(project)
    refuse_beyond_quota(asked.bytes, await run_in_threadpool(room_left, files, limits))
    made = await run_in_threadpool(
        files.create_upload,
        filename=plain_name(asked.filename),
        purpose=asked.purpose,
        bytes=asked.bytes,
        mime_type=asked.mime_type,
        file_lifetime_seconds=life,
    )
    return _upload_object(house, made)


@router.post("/v1/uploads/{upload_id}/parts")
async def add_part(upload_id: str, request: Request, project: ProjectId, house: TheHouse, limits: TheLimits) -> JsonObject:
    """Take in one part while it arrives. More than was announced is refused before it is stored."""
    upload = _open_upload(house, project, upload_id)
    files = house.files(project)
    parts = files.parts(upload_id)
    if len(parts) >= MOST_PARTS:
        raise invalid(f"An upload has at most {MOST_PARTS} parts.", "data")
    missing = upload.bytes - sum(part.bytes for part in parts)
    with house.blobs.receive(project) as incoming:
        sink = Metered(incoming, min(limits.part_bytes, missing), await run_in_threadpool(room_left, files, limits))
        content_type = request.headers.get("content-type", "")
        form = await read_form(content_type, request.stream(), file_field="data", sink=sink)
        if not form.has_file:
            raise invalid("Missing required parameter: 'data'.", "data", "missing_required_parameter")
        part = await run_in_threadpool(files.add_part, upload_id, incoming)
    return {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": upload_id}


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(upload_id: str, request: Request, project: ProjectId, house: TheHouse, limits: TheLimits) -> JsonObject:
    """Join the parts in the order given. Their bytes must be as many as announced, with the announced MD5 if there is one."""
    asked = await read_body(request, CompleteUpload)
    upload = _open_upload(house, project, upload_id)
    known = {part.id: part for part in house.files(project).parts(upload_id)}
    unknown = next((part for part in asked.part_ids if part not in known), None)
    if unknown is not None or len(set(asked.part_ids)) != len(asked.part_ids):
        raise invalid("'part_ids' must name parts of this upload, each once.", "part_ids")
    parts = [known[part] for part in asked.part_ids]
    done = await run_in_threadpool(_join, house, project, upload, parts, asked.md5, limits)
    return _upload_object(house, done)


@router.post("/v1/uploads/{upload_id}/cancel")
def cancel_upload(upload_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    _open_upload(house, project, upload_id)
    return _upload_object(house, house.files(project).cancel_upload(upload_id))


def _join(house: House, project: str, upload: Upload, parts: list[UploadPart], md5: str | None, limits: Limits) -> Upload:
    files = house.files(project)
    with house.blobs.receive(project) as incoming:
        files.join_parts(parts, incoming)
        incoming.seal()
        if incoming.bytes != upload.bytes:
            raise invalid(f"The parts have {incoming.bytes} bytes together; {upload.bytes} were announced.", "part_ids")
        if md5 is not None and _md5(incoming) != md5.lower():
            raise invalid("The MD5 of the joined parts is another one.", "md5")
        if upload.purpose == "fine-tune":
            with incoming.path.open("rb") as file:
                refuse_other_than_jsonl(file, limits)
        return files.complete_upload(upload.id, incoming)


def _md5(incoming: Incoming) -> str:
    with incoming.path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _open_upload(house: House, project: str, upload_id: str) -> Upload:
    upload = house.files(project).get_upload(upload_id)
    if upload is None:
        raise not_found(f"No such Upload object: {upload_id}", "upload_id")
    if upload.status != "pending":
        raise invalid(f"Upload {upload_id} is {upload.status}.", "upload_id")
    return upload


def _upload_object(house: House, upload: Upload) -> JsonObject:
    file = house.files(upload.project).get(upload.file) if upload.file is not None else None
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": None if file is None else file_object(file),
    }
