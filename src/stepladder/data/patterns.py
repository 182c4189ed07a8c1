"""Patterns of users against whole texts, matched in linear time or where a runaway pattern can be stopped."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

_WORKER = Path(__file__).with_name("pattern_worker.py")
_START_SECONDS = 30.0
_GIVE_UP_AFTER = 3


class NotMatched(Exception):
    """Nobody can say whether a pattern matches a text; the message says why."""


class Pattern:
    """Whether a pattern matches a whole text.

    It means what Python's `re` makes of it. `re` can need ages for some patterns and cannot be interrupted, so: where re2 is
    installed and would say the same, it matches, in time linear in the text. Elsewhere (look-around, back references, texts
    beyond ASCII, re2 not installed) `re` runs in one reused child process: over `timeout_seconds` it is killed, and after
    three such texts the pattern is given up, so that a runaway pattern costs seconds, not seconds a text.
    """

    def __init__(self, pattern: str, *, timeout_seconds: float = 2.0) -> None:
        self._pattern = pattern
        self._linear = linear_matcher(pattern)
        self._timeout_seconds = timeout_seconds
        self._matcher: _Matcher | None = None
        self._timeouts = 0
        self._turn = threading.Lock()

    def matches(self, text: str) -> bool:
        """Raises `NotMatched` where the pattern runs over its time, or its process fails."""
        if self._linear is not None and _means_the_same(text):
            return self._linear(text)
        with self._turn:
            return self._matches_apart(text)

    def _matches_apart(self, text: str) -> bool:
        if self._timeouts >= _GIVE_UP_AFTER:
            raise NotMatched(f"the pattern was given up: it ran over {self._timeout_seconds:g} s on {_GIVE_UP_AFTER} answers")
        try:
            if self._matcher is None:
                self._matcher = _Matcher()
            return self._matcher.matches(self._pattern, text, self._timeout_seconds)
        except queue.Empty:
            self._timeouts += 1
            self._stop()
            raise NotMatched(f"the pattern ran over {self._timeout_seconds:g} s") from None
        except OSError as error:
            self._stop()
            raise NotMatched(f"the matching process failed: {error}") from error

    def _stop(self) -> None:
        if self._matcher is not None:
            self._matcher.close()
        self._matcher = None


def linear_matcher(pattern: str) -> Callable[[str], bool] | None:
    """re2's match of a whole ASCII text; None where re2 is missing, or might read the pattern in another way than `re`."""
    if not pattern.isascii() or not _READ_ALIKE.fullmatch(pattern):
        return None
    try:
        import re2
    except ModuleNotFoundError:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error:
        return None
    return lambda text: compiled.fullmatch(text) is not None


def _means_the_same(text: str) -> bool:
    """Whether `\\d`, `\\w`, `\\s`, `\\b` and letter case mean the same to `re` and to re2 in this text."""
    return text.isascii() and not _SPACES_OF_RE.search(text)


_CLASS_ESCAPE = r"\\(?:[dDwWsSntrf]|[^\w\s])"
_READ_ALIKE = re.compile(
    r"(?:[^\\\[({]|\\[bA]|" + _CLASS_ESCAPE + r"|\{(?!,|0\d|\d+,0\d)|\((?!\?)|\(\?:|\(\?P<\w+>|\(\?[ims]+\)"
    r"|\[\^?(?!\])(?:(?!--|&&|~~|\|\|)[^\\\[\]]|" + _CLASS_ESCAPE + r")+\])*",
    re.ASCII,
)
"""Patterns made of nothing but what `re` and re2 read in the same way; what re2 does not know at all it refuses itself."""
_SPACES_OF_RE = re.compile(r"[\x0b\x1c-\x1f]")
"""White space to `re`, not to re2."""


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
