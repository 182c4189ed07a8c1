"""How many calls go to one server at once: one more now and then while it answers, half as many when it pushes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stepladder.engines.failures import CallFailure

LONGEST_ASKED_SECONDS = 120.0
"""A server that wants more patience than this is not waited for."""
LONGEST_REST_SECONDS = 3600.0
"""A server is asked again after this, whatever it said."""


class Pace:
    """Additive increase, multiplicative decrease, between 1 and `most` calls at once. Shared by the threads of one engine.

    Attributes:
        slowest: The fewest calls at once that it came to.
        refusals: How often the server pushed back.

    Source:
        Chiu & Jain (1989), Analysis of the increase and decrease algorithms for congestion avoidance, Computer Networks 17.
    """

    def __init__(self, most: int) -> None:
        self.slowest = most
        self.refusals = 0
        self._most = most
        self._limit = float(most)
        self._under_way = 0
        self._not_before = 0.0  # of `time.monotonic`
        self._slowed = 0.0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many calls may be under way now."""
        return int(self._limit)

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Wait for a place among the calls under way, and hold it; gives the moment it began (of `time.monotonic`).

        Raises:
            CallFailure: The server wants to be left alone for longer than a call waits ("resting").
        """
        with self._changed:
            while self._under_way >= self.limit or time.monotonic() < self._not_before:
                pause = self._not_before - time.monotonic()
                if pause > LONGEST_ASKED_SECONDS:
                    raise resting(pause)
                self._changed.wait(pause if pause > 0 else None)
            self._under_way += 1
        try:
            yield time.monotonic()
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def answered(self) -> None:
        """A call was answered: about one more at once for every round of answers."""
        with self._changed:
            self._limit = min(self._most, self._limit + 1.0 / self._limit)
            self._changed.notify_all()

    def pushed_back(self, began: float, pause_seconds: float) -> None:
        """A call that began at `began` was turned away: nobody calls before the pause is over, and then half as many.

        Calls that were under way together are turned away together; that is one sign, not many.
        """
        with self._changed:
            self.refusals += 1
            if began >= self._slowed:
                self._limit = max(1.0, self._limit / 2)
                self._slowed = time.monotonic()
                self.slowest = min(self.slowest, self.limit)
            self._not_before = max(self._not_before, time.monotonic() + min(pause_seconds, LONGEST_REST_SECONDS))
            self._changed.notify_all()


def resting(seconds: float) -> CallFailure:
    """What a call ends in that the server wants to wait for longer than calls do."""
    words = f"asks for no calls for another {seconds:,.0f} seconds, and none waits longer than {LONGEST_ASKED_SECONDS:g}"
    return CallFailure("resting", words)
