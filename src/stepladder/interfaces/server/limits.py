"""How much one request may ask of the server, and the reading of JSON within it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from stepladder.interfaces.server.errors import invalid, validation_error

MEBIBYTE = 1024**2
_FORM_BYTES = MEBIBYTE  # the fields beside a file, and the lines between them

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. `idle_seconds`: the longest silence of a client that still has to send something."""

    json_bytes: int = 8 * MEBIBYTE
    json_depth: int = 64
    file_bytes: int = 512 * MEBIBYTE
    part_bytes: int = 64 * MEBIBYTE
    project_bytes: int = 20 * 1024 * MEBIBYTE
    idle_seconds: float = 30.0
    requests_at_once: int = 512
    chats_waiting: int = 256
    jobs_open: int = 1_000

    def body_bytes(self, method: str, path: str) -> int:
        """The longest body of a request, by its path as the router sees it."""
        if method == "POST" and path == "/v1/files":
            return self.file_bytes + _FORM_BYTES
        if method == "POST" and path.startswith("/v1/uploads/") and path.endswith("/parts"):
            return self.part_bytes + _FORM_BYTES
        return self.json_bytes


async def read_body(request: Request, shape: type[Body]) -> Body:
    """The request's JSON object, checked against `shape`.

    Raises:
        ApiError: 400: no JSON, nested deeper than allowed, or not of this shape.
    """
    limits: Limits = request.app.state.limits
    value = parse_json(await request.body(), limits.json_depth)
    if not isinstance(value, dict):
        raise invalid("The request's body is not a JSON object.")
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_context=False, include_input=False)) from None


def parse_json(data: bytes, depth: int) -> Any:
    """JSON without NaN and without nesting beyond `depth`, which would cost every later walk its stack."""
    try:
        value = json.loads(data, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could be neither stored nor sent back
    except (ValueError, RecursionError):
        raise invalid("We could not parse the JSON body of your request.") from None
    if deeper_than(value, depth):
        raise invalid(f"The request's JSON is nested deeper than {depth} levels.")
    return value


def deeper_than(value: Any, depth: int) -> bool:
    """Whether objects and lists nest beyond `depth`; walks level by level, so that no stack is needed."""
    level = [value]
    for _ in range(depth + 1):
        level = (
            [
                item
                for part in level
                if isinstance(part, dict | list)
                for item in (part.values() if isinstance(part, dict) else part)
                if isinstance(item, dict | list)
            ]
            if level
            else []
        )
        if not level:
            return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
