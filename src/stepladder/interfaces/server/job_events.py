"""A job's events: as a list, and as a stream that leaves no gap when it is taken up again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from stepladder.domain.jobs import Job, JobEvent
from stepladder.interfaces.server.errors import invalid
from stepladder.interfaces.server.shared import JsonObject
from stepladder.service.serving.house import House

EVENTS_AT_ONCE = 200
LONGEST_WAIT_SECONDS = 15.0
PING_SECONDS = 15


def wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


def event_stream(house: House, job: Job, request: Request) -> Response:
    """Server-sent events whose ids are the events' numbers in their job, from 1 without a gap.

    A client that was cut off names the last one it has seen in `Last-Event-ID` (browsers do so by themselves) and gets the next.

    Raises:
        ApiError: 400: `Last-Event-ID` is no such number.
    """
    seen = request.headers.get("last-event-id", "0").strip()
    if not (seen.isascii() and seen.isdigit() and len(seen) < 16):
        raise invalid("'Last-Event-ID' is the number of an event.", "Last-Event-ID")
    return EventSourceResponse(_events(house, job, int(seen)), ping=PING_SECONDS, sep="\n")


async def _events(house: House, job: Job, seen: int) -> AsyncIterator[bytes]:
    """Events as they come, until the job is over and all are told."""
    while True:
        changed = house.news.next()
        look = await house.news.once((job.project, job.id, seen), partial(_look, house, job, seen))
        if look.text:
            yield look.text
        seen = look.last
        if look.more:
            continue
        if look.over:
            yield ServerSentEvent(data="[DONE]", sep="\n").encode()
            return
        await asyncio.wait([changed], timeout=LONGEST_WAIT_SECONDS)


@dataclass(frozen=True, slots=True)
class _Look:
    """What follows an event, as it is sent to everybody who has heard that far; `last` is the number of its last event."""

    text: bytes
    last: int
    more: bool
    over: bool


def _look(house: House, job: Job, seen: int) -> _Look:
    jobs = house.jobs(job.project)
    state = jobs.get(job.id)  # before the events: what ends a job is written with its last event
    events = jobs.events(job.id, after=seen, limit=EVENTS_AT_ONCE)
    lines = [
        ServerSentEvent(json.dumps(event_object(event), ensure_ascii=False), id=str(event.sequence), sep="\n") for event in events
    ]
    return _Look(
        text=b"".join(line.encode() for line in lines),
        last=events[-1].sequence if events else seen,
        more=len(events) == EVENTS_AT_ONCE,
        over=state is None or state.status.final,
    )


def event_object(event: JobEvent) -> JsonObject:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": dict(event.data),
    }
