"""Who waits for something new in the store is told when there is; one look at the database serves all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from stepladder.storage.database import Database

LOOK_EVERY_SECONDS = 0.25

Result = TypeVar("Result")


class News:
    """Looks at the database as long as somebody waits. For one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looker = ThreadPoolExecutor(1, "news")  # one thread, whose connection never writes, so it sees all commits
        self._next: asyncio.Future[None] | None = None
        self._looks: dict[Hashable, asyncio.Future[Any]] = {}
        self._looks_until: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def next(self) -> asyncio.Future[None]:
        """Done at the first commit of anybody after this call. Shared by all who wait: never cancel it."""
        loop = asyncio.get_running_loop()
        if self._next is None or self._next.done():
            self._next = loop.create_future()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._look())
        return self._next

    async def once(self, key: Hashable, read: Callable[[], Result]) -> Result:
        """What `read()` finds in the database; called once for all who ask by the same key before the next commit is noticed.

        What is committed meanwhile may be missing from it: whoever needs it waits for `next`, taken before this call.
        """
        changed = self.next()
        if self._looks_until is not changed:
            self._looks, self._looks_until = {}, changed
        if key not in self._looks:
            self._looks[key] = asyncio.get_running_loop().run_in_executor(self._looker, read)
        found: Result = await asyncio.shield(self._looks[key])
        return found

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._looker.shutdown(wait=False)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        before, idle = None, 0  # the first look counts as news: something may have happened before it
        while idle < 100:  # nobody has asked for long: the next one starts it again
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            now = await loop.run_in_executor(self._looker, self._database.changes)
            idle = idle + 1 if self._next is None or self._next.done() else 0
            if now != before and self._next is not None and not self._next.done():
                self._next.set_result(None)
            before = now
