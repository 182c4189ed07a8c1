"""Answers heard while they are written: from the thread that asks the models to the connection that reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from stepladder.interfaces.server.answers import stopped_at

Result = TypeVar("Result")


class Listening:
    """The pieces of several answers in the order in which they are written.

    `begun` is set with the first one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        self.begun = asyncio.Event()

    def listener(self, index: int) -> Callable[[str], None]:
        """What hears an answer, on any thread."""

        def hear(piece: str) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._take, index, piece)

        return hear

    def _take(self, index: int, piece: str) -> None:
        self.begun.set()
        self._heard.put_nowait((index, piece))

    def _end(self, index: int, _: asyncio.Future[Result]) -> None:
        self._heard.put_nowait((index, None))

    async def pieces(self, futures: Sequence[asyncio.Future[Result]]) -> AsyncIterator[tuple[int, str | None]]:
        """Each answer's pieces by its place, and None where it is done, until all are."""
        for index, future in enumerate(futures):
            # A future is told its result behind the last piece, so that this comes behind it too.
            future.add_done_callback(partial(self._end, index))
        left = len(futures)
        while left:
            index, piece = await self._heard.get()
            left -= piece is None
            yield index, piece


class UpToStop:
    """What of a text may be shown while it grows: nothing from a stop sequence on, nor what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._text = ""
        self.shown = ""

    def add(self, piece: str) -> str:
        """What can be shown now and could not before."""
        self._text += piece
        until = min(
            len(stopped_at(self._text, self._stops)[0]), *(self._kept_back(stop) for stop in self._stops), len(self._text)
        )
        new = self._text[len(self.shown) : until]
        self.shown += new
        return new

    def rest(self, text: str) -> str:
        """What is left to show of the finished answer."""
        return text.removeprefix(self.shown) if text.startswith(self.shown) else ""

    def _kept_back(self, stop: str) -> int:
        """Where the text ends in what may be the beginning of `stop`; its length where it does not."""
        longest = next((size for size in range(len(stop) - 1, 0, -1) if self._text.endswith(stop[:size])), 0)
        return len(self._text) - longest
