"""One thread asks all models. What waits for the same one is asked together, so that many callers cost little more than one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from stepladder.domain.errors import EngineError
from stepladder.domain.prediction import Generation
from stepladder.service.serving.question import Asked, Question, Speaker

ROWS_AT_ONCE = 32
"""Questions answered together at most: more would let the next caller wait too long."""

COMPANY_SECONDS = 0.01
"""How long the first question after a silence waits for others: those of callers who ask at once come one by one, and an answer
alone costs nearly as much as several together."""

Result = TypeVar("Result")


class QueueFull(EngineError):
    """More questions wait than the server takes on."""


@dataclass(eq=False)
class _Waiting:
    asked: Asked
    future: Future[Generation] = field(default_factory=Future)


@dataclass(eq=False)
class _Errand:
    """Anything else that has to happen between two batches, as a model must not be touched by two threads."""

    run: Callable[[], None]


class AskingThread:
    """Answers questions in the order they came, with those that can be asked in the same breath.

    Args:
        most_waiting: Questions that may wait; one more is refused.
    """

    def __init__(self, *, most_waiting: int = 256, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self._most_waiting = most_waiting
        self._rows_at_once = rows_at_once
        self._line: deque[_Waiting | _Errand] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="asking", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._line)

    def ask(self, speaker: Speaker, question: Question, on_text: Callable[[str], None] | None = None) -> Future[Generation]:
        """The answer, some time later. Cancelling the future takes a question back that has not been asked yet.

        Args:
            on_text: Called on this thread with each piece of the answer while it is written, by speakers that can tell.

        Raises:
            QueueFull: Too many are waiting.
        """
        waiting = _Waiting(Asked(speaker, question, on_text))
        self._append(waiting)
        return waiting.future

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` on the thread that asks the models, between two batches.

        Raises:
            QueueFull: Too many are waiting.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)

        self._append(_Errand(run))
        return future

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Take no more questions, finish the batch at hand, and let go of the others."""
        with self._changed:
            self._closed = True
            for item in self._line:
                if isinstance(item, _Waiting):
                    item.future.cancel()
            self._line.clear()
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _append(self, item: _Waiting | _Errand) -> None:
        with self._changed:
            if self._closed:
                raise QueueFull("The server is shutting down.", "Ask again in a moment.")
            if len(self._line) >= self._most_waiting:
                raise QueueFull(f"{self._most_waiting} questions are waiting already.", "Ask again in a moment.")
            self._line.append(item)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._line and not self._closed:
                    self._changed.wait_for(lambda: self._closed or self._line)
                    if self._line and isinstance(self._line[0], _Waiting):
                        self._changed.wait_for(self._full, COMPANY_SECONDS)
                if self._closed:
                    return
                first = self._line.popleft()
                batch = self._company(first) if isinstance(first, _Waiting) else []
            if isinstance(first, _Errand):
                first.run()
            else:
                _answer(first.asked.speaker, batch)

    def _full(self) -> bool:
        return self._closed or len(self._line) >= self._rows_at_once

    def _company(self, first: _Waiting) -> list[_Waiting]:
        """The first in line and whoever behind it can be answered with it; the others keep their places."""
        batch, rest = [first], deque[_Waiting | _Errand]()
        for item in self._line:
            alike = isinstance(item, _Waiting) and item.asked.speaker.key == first.asked.speaker.key
            if alike and len(batch) < self._rows_at_once:
                assert isinstance(item, _Waiting)
                batch.append(item)
            else:
                rest.append(item)
        self._line = rest
        return [item for item in batch if item.future.set_running_or_notify_cancel()]


def _answer(speaker: Speaker, batch: list[_Waiting]) -> None:
    """Whatever happens, every future of the batch is settled, and the thread lives on."""

    def settle(index: int, outcome: Generation | BaseException) -> None:
        future = batch[index].future
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    try:
        speaker.answer([item.asked for item in batch], settle)
        missed: BaseException = RuntimeError("a question was left without an answer")
    except BaseException as error:
        missed = error
    for index in range(len(batch)):
        settle(index, missed)
