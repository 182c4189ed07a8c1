"""A client that costs little, as it shares the machine with what it measures: HTTP over kept lines, in one thread."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from serving.server import Served
from stepladder.domain.errors import EngineError

PATIENCE_SECONDS = 300.0
KEPT_SECONDS = 2.0
"""A line that was not used for longer is not used again: a server closes lines on which nothing comes."""


@dataclass(frozen=True)
class Ask:
    """One request; `body` is sent as JSON unless it is bytes of the given type."""

    method: str
    path: str
    body: Any = None
    content_type: str = "application/json"

    def as_bytes(self, host: str) -> bytes:
        body = b"" if self.body is None else self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {self.content_type}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Latencies:
    """Seconds from when each request was due to the end of its reply, in rising order; and how many replies said no."""

    seconds: Sequence[float]
    refused: int

    def quantile(self, share: float) -> float:
        """The smallest of the latencies that `share` of the requests did not exceed."""
        return self.seconds[max(0, math.ceil(share * len(self.seconds)) - 1)]


class Client:
    """Asks one server over as many lines as are needed at once."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []  # since when each is free

    async def ask(self, ask: Ask) -> tuple[int, bytes]:
        """Status and body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await self._kept_line() or await self.line()
            writer.write(ask.as_bytes(self._served.host))
            status, headers = await read_head(reader)
            body = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            await hang_up(writer)
        else:
            self._free.append((time.monotonic(), reader, writer))
        return status, body

    async def _kept_line(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The line that was used last, unless that is too long ago."""
        while self._free:
            since, reader, writer = self._free.pop()
            if time.monotonic() - since < KEPT_SECONDS:
                return reader, writer
            await hang_up(writer)
        return None

    async def json(self, ask: Ask) -> Any:
        """The body of a reply that has to be a good one.

        Raises:
            EngineError: It is not.
        """
        status, body = await self.ask(ask)
        if status != 200:
            raise EngineError(f"{ask.method} {ask.path} was answered with {status}: {body[:300]!r}.", "See the server's log.")
        return json.loads(body)

    async def at_rate(self, asks: Sequence[Ask], per_second: float) -> Latencies:
        """Send each request when it is due, however slow the replies are; a server that stalls cannot slow its test down."""
        began = time.perf_counter()
        refused = 0

        async def one(number: int, ask: Ask) -> float:
            nonlocal refused
            due = began + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, _ = await self.ask(ask)
            refused += status != 200
            return time.perf_counter() - due

        seconds = await asyncio.gather(*(one(number, ask) for number, ask in enumerate(asks)))
        return Latencies(sorted(seconds), refused)

    async def line(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new line to the server."""
        return await asyncio.open_connection(self._served.host, self._served.port)

    async def close(self) -> None:
        while self._free:
            await hang_up(self._free.pop()[2])


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    """Status and headers of a reply."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, value in headers.items()}


def upload(name: str, content: bytes) -> Ask:
    """A training file as a form."""
    line = "measured-measured-measured"
    parts = (
        f'--{line}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--{line}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    )
    body = parts.encode() + content + f"\r\n--{line}--\r\n".encode()
    return Ask("POST", "/v1/files", body, f"multipart/form-data; boundary={line}")
