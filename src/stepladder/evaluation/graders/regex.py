"""Answers that must follow a pattern, matched where a runaway pattern can be stopped."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded

_WORKER = Path(__file__).with_name("regex_worker.py")
_START_SECONDS = 30.0
_GIVE_UP_AFTER = 3


class Regex:
    """1 when the pattern matches the whole answer (outer white space removed), else 0. The reference plays no part.

    Python's `re` can need ages for some patterns and cannot be interrupted, so matching happens in one reused child process:
    over `timeout_seconds` it is killed and the row is ungraded. After three such rows the pattern is given up, so that a
    runaway pattern costs seconds, not seconds a row.
    """

    name = "regex"

    def __init__(self, pattern: str, *, timeout_seconds: float = 2.0) -> None:
        self._pattern = pattern
        self._timeout_seconds = timeout_seconds
        self._matcher: _Matcher | None = None
        self._timeouts = 0
        self._turn = threading.Lock()

    def grade(self, example: Example, answer: str) -> Grade:
        with self._turn:
            if self._timeouts >= _GIVE_UP_AFTER:
                return Ungraded(f"the pattern was given up: it ran over {self._timeout_seconds:g} s on {_GIVE_UP_AFTER} answers")
            try:
                if self._matcher is None:
                    self._matcher = _Matcher()
                return Score(float(self._matcher.matches(self._pattern, answer.strip(), self._timeout_seconds)))
            except queue.Empty:
                self._timeouts += 1
                self._stop()
                return Ungraded(f"the pattern ran over {self._timeout_seconds:g} s")
            except OSError as error:
                self._stop()
                return Ungraded(f"the matching process failed: {error}")

    def _stop(self) -> None:
        if self._matcher is not None:
            self._matcher.close()
        self._matcher = None


class _Matcher:
    """The child process; it ends with this object or with the program, whichever comes first."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_collect, args=(self._process, self._answers), daemon=True).start()
        self.close = weakref.finalize(self, _end, self._process)
        self._receive(_START_SECONDS)

    def matches(self, pattern: str, text: str, timeout_seconds: float) -> bool:
        """Raises `queue.Empty` over the time limit, `OSError` when the process has died."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([pattern, text]).encode("ascii") + b"\n")
        self._process.stdin.flush()
        return self._receive(timeout_seconds) == "true"

    def _receive(self, timeout_seconds: float) -> str:
        answer = self._answers.get(timeout=timeout_seconds)
        if not answer:
            raise OSError("it ended")
        return answer.strip()


def _collect(process: subprocess.Popen[bytes], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            answers.put(line.decode("utf-8"))
    answers.put("")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
