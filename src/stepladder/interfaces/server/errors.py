"""Whatever goes wrong leaves as OpenAI's JSON envelope with the status its clients act upon."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from stepladder.domain.errors import StepladderError
from stepladder.interfaces.exit_codes import http_status

log = logging.getLogger("stepladder.server")

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An answer that says no. Never 409 or 5xx for a permanent refusal: OpenAI's clients try those again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = {} if retry_after_seconds is None else {"retry-after": str(retry_after_seconds)}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be served as it is, whoever sends it again."""
    return ApiError(400, message, param=param, code=code)


def not_found(message: str, param: str | None, code: str | None = None) -> ApiError:
    return ApiError(404, message, param=param, code=code)


def too_many(message: str, retry_after_seconds: int, *, code: str = "rate_limit_exceeded") -> ApiError:
    return ApiError(429, message, type="rate_limit_error", code=code, retry_after_seconds=retry_after_seconds)


def envelope(message: str, *, type: str = INVALID, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; all four keys are always there."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def response_of(error: ApiError) -> JSONResponse:
    body = envelope(error.message, type=error.type, code=error.code, param=error.param)
    return JSONResponse(body, error.status, headers=error.headers)


OUR_FAULT = JSONResponse(envelope("The server had an error of its own; its log says where.", type="server_error"), 500)


def log_fault(where: str, error: BaseException) -> None:
    """Note an error of our own: its kind and place. A message could hold a user's text, so it stays out."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame is not None else ""
    log.error("%s: an error of ours: %s%s", where, type(error).__name__, place)
    log.debug("details", exc_info=error)


def as_api_error(error: StepladderError) -> ApiError:
    """An error of the rooms below, which already says where, what and what to do."""
    status = http_status(error)
    kind = "insufficient_quota" if status == 429 else "server_error" if status >= 500 else INVALID
    return ApiError(status, str(error), type=kind)


def add_handlers(app: FastAPI) -> None:
    """No framework answer is left: unknown routes, wrong methods and malformed parameters speak OpenAI's shape too."""

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return response_of(error)

    async def on_our_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StepladderError)
        return response_of(as_api_error(error))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code in (404, 405):
            path = request.scope["path"]
            return response_of(ApiError(404, f"Invalid URL ({request.method} {path})"))
        return response_of(ApiError(error.status_code, str(error.detail)))

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response_of(validation_error(error.errors()))

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        return OUR_FAULT  # starlette raises the error again behind it; the guard logs it

    app.add_exception_handler(Exception, on_anything)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(StepladderError, on_our_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)


def validation_error(faults: Any) -> ApiError:
    """The first fault pydantic found, by the name of its field; what was sent is not repeated."""
    fault: Mapping[str, Any] = faults[0]
    where = [str(part) for part in fault["loc"] if part not in ("body", "query", "path")]
    param = ".".join(where) or None
    if fault["type"] == "extra_forbidden":
        return invalid(f"Unrecognized request argument supplied: {param}", param)
    if fault["type"] == "missing":
        return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    message = str(fault["msg"]).removeprefix("Value error, ")
    return invalid(f"Invalid '{param}': {message}." if param else f"{message}.", param, "invalid_value")
