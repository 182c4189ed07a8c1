"""The outermost layer: nothing reaches a route unless it came from an allowed place, with a key, within the limits.

It knows no routes, so a route added tomorrow is behind it too. It decides on what the router will see (the decoded path) and
on headers alone, and hands the project of the key to everything below in `scope["state"]`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepladder.domain.jobs import LOCAL_PROJECT, ApiKey
from stepladder.interfaces.server.errors import OUR_FAULT, ApiError, log_fault, response_of, too_many
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.metrics import Metrics
from stepladder.storage.keys import Keys

LOCAL_KEY = ApiKey("local", LOCAL_PROJECT, "this machine", admin=True, created_at=0)
"""Who calls where no key is needed."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Places:
    """Under which names the server may be addressed.

    A page in a browser can send requests to any address it likes (DNS rebinding), but not under a name of its own choice.

    Args:
        names: Host names, lower case, without port.
        any_address: Whether plain IP addresses will do: a rebound name is never one.
    """

    names: frozenset[str] = LOOPBACK_NAMES
    any_address: bool = False

    def allows(self, host: str) -> bool:
        """`host` as in a Host header."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found["six"] or found["name"]
        return name in self.names or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware around the whole application. Everything is refused that is not allowed here.

    Args:
        keys: Without any, every caller is the local project's; `serve` then listens on loopback only.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, places: Places, limits: Limits, metrics: Metrics) -> None:
        self._locked = False
        self._app = app
        self._keys = keys
        self._places = places
        self._limits = limits
        self._metrics = metrics
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:  # websockets: nothing here speaks them
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(send, _identify(), time.perf_counter())
        try:
            headers = Headers(scope=scope)
            self._check_place(headers)
            key = self._key(headers)
            project = key.project
            self._check_size(scope, headers)
            self._enter(project)
        except ApiError as error:
            await response_of(error)(scope, receive, reply.send)
            self._metrics.count_request(scope["method"], reply.status)
            return
        scope.setdefault("state", {})
        scope["state"] = {**scope["state"], "project": project, "admin": key.admin, "request_id": reply.id}
        try:
            await self._app(scope, _Inbox(receive, scope, self._limits).receive, reply.send)
        except Exception as error:
            log_fault(scope["method"], error)
            if not reply.started:
                await OUR_FAULT(scope, receive, reply.send)
        finally:
            self._open[project] -= 1
            self._metrics.count_request(scope["method"], reply.status)

    def _check_place(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._places.allows(hosts[0]):
            raise ApiError(
                403,
                "This server does not answer under that host name. Start it with --allow-host NAME to allow one.",
                code="host",
            )
        origins = headers.getlist("origin")
        if any(origin.partition("://")[2] != hosts[0] or origin == "null" for origin in origins):
            raise ApiError(403, "Requests from pages of another origin are refused.", code="origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ApiError(403, "Requests from pages of another site are refused.", code="origin")

    def _key(self, headers: Headers) -> ApiKey:
        given = headers.getlist("authorization")
        if not self._needs_key():
            return LOCAL_KEY
        scheme, _, secret = (given[0] if len(given) == 1 else "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise ApiError(
                401, "You didn't provide an API key. Send it as `Authorization: Bearer KEY`; `stepladder keys create` makes one."
            )
        key = self._keys.find(secret.strip())
        wanted = headers.get("openai-project")
        if key is None or (wanted is not None and wanted != key.project):
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
        return key

    def _needs_key(self) -> bool:
        """Once there has been a key, the door stays locked, also when the last one is revoked."""
        self._locked = self._locked or bool(self._keys.list())
        return self._locked

    def _check_size(self, scope: Scope, headers: Headers) -> None:
        declared = headers.get("content-length", "0")
        most = self._limits.body_bytes(scope["method"], scope["path"])
        if not declared.isdecimal() or int(declared) > most:
            raise too_large(most)

    def _enter(self, project: str) -> None:
        if self._open[project] >= self._limits.requests_at_once:
            raise too_many(f"More than {self._limits.requests_at_once} requests of this project are open.", 1)
        self._open[project] += 1


def too_large(most: int) -> ApiError:
    return ApiError(413, f"The request's body is larger than {most} bytes.", code="request_too_large")


def _identify() -> str:
    return f"req_{secrets.token_hex(12)}"


class _Inbox:
    """What the client sends: counted, and not waited for without end."""

    def __init__(self, receive: Receive, scope: Scope, limits: Limits) -> None:
        self._receive = receive
        self._most = limits.body_bytes(scope["method"], scope["path"])
        self._idle_seconds = limits.idle_seconds
        self._bytes = 0
        self._more = True

    async def receive(self) -> Message:
        if not self._more:  # what comes now is only the news that the client has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._idle_seconds)
        except TimeoutError:
            raise ApiError(408, "The request's body did not arrive in time.", code="timeout") from None
        self._bytes += len(message.get("body", b""))
        self._more = bool(message.get("more_body", False))
        if self._bytes > self._most:
            raise too_large(self._most)
        return message


class _Reply:
    """What is sent back, with the headers that OpenAI's clients read."""

    def __init__(self, send: Send, id: str, started_at: float) -> None:
        self._send = send
        self._started_at = started_at
        self.id = id
        self.started = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *self._headers(message)]}
        await self._send(message)

    def _headers(self, message: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
        milliseconds = round(1000 * (time.perf_counter() - self._started_at))
        return [
            (b"x-request-id", self.id.encode()),
            (b"openai-version", b"2020-10-01"),
            (b"openai-processing-ms", str(milliseconds).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
