"""Listening: the socket, and how patient it is with those who connect and say nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from stepladder.domain.errors import UsageError

SILENCE_SECONDS = 20.0
"""The longest time until a connection has sent a whole request head."""
HEAD_BYTES = 64 * 1024
KEEP_ALIVE_SECONDS = 30
FAREWELL_SECONDS = 15


class PatientProtocol(H11Protocol):
    """HTTP by h11. A connection that has nothing to answer and whose next request head does not arrive in time is closed."""

    silence_seconds = SILENCE_SECONDS
    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_a_head()

    def handle_events(self) -> None:
        super().handle_events()
        if not self._idle and self._silence is not None:
            self._silence.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._idle:  # else the next request was waiting already
            self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_a_head(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self.loop.call_later(self.silence_seconds, self._give_up)

    def _give_up(self) -> None:
        if self._idle and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Stops in order at the first Ctrl-C or SIGTERM, and at once at the second. What has to be put away is put away after `run`.

    Attributes:
        say_ready: Called with the address once it listens.
        interrupted: Whether it was a Ctrl-C that ended it.
    """

    say_ready: Callable[[str], None] | None = None
    interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises: UsageError: The address is taken, or not this machine's."""
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn's answer to an address that it cannot have; it has logged the system's words
            raise UsageError(
                f"the server cannot listen on {self.config.host}, port {self.config.port}.",
                "Give another --port (0 takes any that is free), or end the program that has this one.",
            ) from error
        if self.started and self.say_ready is not None:
            self.say_ready(f"http://{_shown(self.config.host)}:{self.port}/v1")

    @property
    def port(self) -> int:
        """The port it listens on, also where the system chose it."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal anew in the end, which would take the time to put things away."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = number == signal.SIGINT
        self.force_exit = self.should_exit
        self.should_exit = True


def _shown(host: str) -> str:
    """An address that a client on this machine can use."""
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def make_server(app: ASGIApp, *, host: str, port: int, silence_seconds: float = SILENCE_SECONDS) -> Server:
    """A server that is ready to run. Nothing a request holds is logged, and nobody's word is taken for where it came from."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=type("Protocol", (PatientProtocol,), {"silence_seconds": silence_seconds}),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FAREWELL_SECONDS,
    )
    return Server(config)
