"""What all routes share: whose request it is, what they draw on, and how lists are paged."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request

from stepladder.interfaces.server.errors import invalid
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.metrics import Metrics
from stepladder.service.serving.house import House

JsonObject = dict[str, Any]
_LONGEST_NAME = 255


def _project(request: Request) -> str:
    """The project that the guard found the key to be of. A request that has not passed the guard has none."""
    return str(request.state.project)


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


ProjectId = Annotated[str, Depends(_project)]
TheHouse = Annotated[House, Depends(_house)]
TheLimits = Annotated[Limits, Depends(_limits)]
TheMetrics = Annotated[Metrics, Depends(_metrics)]


def page(items: Sequence[JsonObject], limit: int, *, ids: bool = False) -> JsonObject:
    """A list object from up to `limit` + 1 items: one too many says that there are more.

    Args:
        ids: Also name the first and the last item, null when there is none.
    """
    shown = list(items[:limit])
    ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None} if ids else {}
    return {"object": "list", "data": shown, **ends, "has_more": len(items) > limit}


def plain_name(filename: str | None) -> str:
    """What a client called its file, fit to be shown: the last part of a path, without control characters."""
    last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return shown[:_LONGEST_NAME] or "file"


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """At most 16 pairs; keys up to 64 characters, values up to 512.

    Raises:
        ApiError: 400.
    """
    if metadata is None:
        return
    if len(metadata) > 16:
        raise invalid("'metadata' has more than 16 pairs.", "metadata")
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            raise invalid("'metadata' has a key beyond 64 characters or a value beyond 512.", "metadata")
