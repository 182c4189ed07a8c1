"""`/v1/files`: uploads, lists, content."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from stepladder.domain.jobs import StoredFile
from stepladder.interfaces.server.errors import ApiError, invalid, not_found, too_many
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.multipart import Form, read_form
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheLimits, page, plain_name
from stepladder.service.serving.house import House
from stepladder.storage.blobs import Incoming
from stepladder.storage.stored_files import StoredFiles

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
RESULTS = "fine-tune-results"
CHUNK_BYTES = 3 * 2**18  # a multiple of three: base64 of the parts is base64 of the whole
SHORTEST_LIFE_SECONDS, LONGEST_LIFE_SECONDS = 3_600, 2_592_000

router = APIRouter()


@router.post("/v1/files")
async def create_file(request: Request, project: ProjectId, house: TheHouse, limits: TheLimits) -> JsonObject:
    """Take in a file while it arrives: hashed and written as it comes, never whole in memory."""
    files = house.files(project)
    with house.blobs.receive(project) as incoming:
        sink = Metered(incoming, limits.file_bytes, await run_in_threadpool(room_left, files, limits))
        content_type = request.headers.get("content-type", "")
        form = await read_form(content_type, request.stream(), file_field="file", sink=sink)
        key = request.headers.get("idempotency-key")
        stored = await run_in_threadpool(_keep, files, incoming, form, limits, key)
    return file_object(stored)


def room_left(files: StoredFiles, limits: Limits) -> int:
    """Bytes that the project may still store; what has expired makes room first."""
    files.forget_expired()
    return limits.project_bytes - files.bytes_used()


def _keep(files: StoredFiles, incoming: Incoming, form: Form, limits: Limits, idempotency_key: str | None) -> StoredFile:
    purpose, life = _settings(form)
    incoming.seal()
    if purpose == "fine-tune":
        with incoming.path.open("rb") as file:
            refuse_other_than_jsonl(file, limits)
    refuse_beyond_quota(incoming.bytes, room_left(files, limits))  # others may have come in meanwhile
    return files.add(
        incoming,
        filename=plain_name(form.filename),
        purpose=purpose,
        lifetime_seconds=life,
        idempotency_key=idempotency_key,
    )


@router.get("/v1/files")
def list_files(
    project: ProjectId,
    house: TheHouse,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> JsonObject:
    files = house.files(project)
    if after is not None and files.get(after) is None:
        raise missing_file(after)
    found = files.list(purpose=purpose, after=after, limit=limit + 1, newest_first=order == "desc")
    listed = page([file_object(file) for file in found], limit, ids=True)
    return {**listed, "first_id": listed["first_id"] or "", "last_id": listed["last_id"] or ""}


@router.get("/v1/files/{file_id}")
def retrieve_file(file_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    return file_object(known_file(house, project, file_id))


@router.delete("/v1/files/{file_id}")
def delete_file(file_id: str, project: ProjectId, house: TheHouse) -> JsonObject:
    if not house.files(project).delete(file_id):
        raise missing_file(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.get("/v1/files/{file_id}/content")
def file_content(file_id: str, project: ProjectId, house: TheHouse) -> Response:
    """The bytes; of result files their base64, as OpenAI's own API gives them (unless the server was told to give plain CSV)."""
    files = house.files(project)
    stored = known_file(house, project, file_id)
    encoded = stored.purpose == RESULTS and house.settings.results_as_base64
    length = 4 * ((stored.bytes + 2) // 3) if encoded else stored.bytes
    headers = {"content-length": str(length), "content-disposition": "attachment"}
    return StreamingResponse(_chunks(files, stored, encoded=encoded), media_type="application/octet-stream", headers=headers)


def _chunks(files: StoredFiles, stored: StoredFile, *, encoded: bool) -> Iterator[bytes]:
    with files.open(stored) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield base64.b64encode(chunk) if encoded else chunk


class Metered:
    """A place for bytes that lets in no more than a file may have, and no more than the project has room for."""

    def __init__(self, incoming: Incoming, most: int, room: int) -> None:
        self._incoming, self._most, self._room = incoming, most, room

    def write(self, data: bytes) -> None:
        total = self._incoming.bytes + len(data)
        if total > self._most:
            raise ApiError(413, f"The file is larger than {self._most} bytes.", param="file", code="file_too_large")
        refuse_beyond_quota(total, self._room)
        self._incoming.write(data)


def refuse_beyond_quota(wanted: int, room: int) -> None:
    """Raises ApiError 429 where a project's files would take more bytes than it may have."""
    if wanted > room:
        raise too_many("The project's storage is full. Delete files to make room.", 60, code="storage_quota_exceeded")


def _settings(form: Form) -> tuple[str, int | None]:
    """Purpose and lifetime in seconds."""
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    unknown = next((name for name in form.fields if name not in known), None)
    if unknown is not None:
        raise invalid(f"Unrecognized request argument supplied: {unknown[:64]}", unknown[:64])
    if not form.has_file:
        raise invalid("Missing required parameter: 'file'.", "file", "missing_required_parameter")
    if "purpose" not in form.fields:
        raise invalid("Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter")
    check_purpose(form.fields["purpose"])
    anchor, seconds = form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return form.fields["purpose"], None
    if anchor != "created_at" or seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 12):
        raise invalid("'expires_after' needs the anchor 'created_at' and whole seconds.", "expires_after")
    return form.fields["purpose"], checked_life(int(seconds))


def check_purpose(purpose: str) -> None:
    """Raises ApiError 400 for a purpose that OpenAI's API does not know."""
    if purpose not in PURPOSES:
        raise invalid(f"'{purpose[:64]}' is not one of {list(PURPOSES)} - 'purpose'", "purpose")


def checked_life(seconds: int) -> int:
    """Raises ApiError 400 for a lifetime outside an hour to thirty days."""
    if not SHORTEST_LIFE_SECONDS <= seconds <= LONGEST_LIFE_SECONDS:
        raise invalid(f"'seconds' lies between {SHORTEST_LIFE_SECONDS} and {LONGEST_LIFE_SECONDS}.", "expires_after.seconds")
    return seconds


def refuse_other_than_jsonl(file: IO[bytes], limits: Limits) -> None:
    """Look at the beginning of every line, as OpenAI's API does when the file arrives; what the rows say is checked by the job.

    Raises:
        ApiError: 400: the file is empty or a line is no JSON object.
    """
    number = 0
    for number, line in enumerate(_lines(file, limits.json_bytes), start=1):
        row = _row(line)
        if not isinstance(row, dict):
            raise invalid(
                f"Expected file to have JSONL format, where every line is a JSON dictionary. Line {number} is not a dictionary."
            )
    if number == 0:
        raise invalid("The file is empty.", "file")


def _lines(file: IO[bytes], most: int) -> Iterator[bytes]:
    """Lines that hold something; one longer than `most` bytes is refused before it is in memory."""
    number = 0
    while line := file.readline(most + 1):
        number += 1
        if len(line) > most:
            raise invalid(f"Line {number} of the file is longer than {most} bytes.", "file")
        if line.strip():
            yield line


def _row(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def known_file(house: House, project: str, file_id: str) -> StoredFile:
    """Raises ApiError 404 where the project has no such file."""
    stored = house.files(project).get(file_id)
    if stored is None:
        raise missing_file(file_id)
    return stored


def missing_file(file_id: str) -> ApiError:
    return not_found(f"No such File object: {file_id}", "id")


def file_object(file: StoredFile) -> JsonObject:
    shown: JsonObject = {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
    return shown if file.expires_at is None else {**shown, "expires_at": file.expires_at}
