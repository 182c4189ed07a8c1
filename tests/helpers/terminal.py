"""A real pseudo-terminal with the command line in it, and a person who reads the screen and presses keys."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect

SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS = 60


class Screen:
    """`stepladder` in a terminal of 100 columns."""

    def __init__(self, arguments: tuple[str | Path, ...], environment: Mapping[str, str]) -> None:
        command = ["-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
        own = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1", "COLUMNS": "100", **environment}
        for name in ("VISUAL", "EDITOR"):
            if name not in environment:
                own.pop(name, None)
        with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads; the child becomes another program at once
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            self._child: Any = pexpect.spawn(
                sys.executable,
                command,
                env=own,
                encoding="utf-8",
                dimensions=(40, 100),
                timeout=SECONDS,
                # A suite that was started in the background ignores Ctrl-C, and so would its children.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self._child.delaybeforesend = None  # keys are sent when the question stands on the screen, not before
        self.all = ""

    def until(self, pattern: str) -> str:
        """What was shown up to `pattern`, without the sequences that move the cursor."""
        self._child.expect(pattern)
        shown = SEQUENCES.sub("", self._child.before + self._child.after).replace("\r\n", "\n")
        self.all += shown
        return shown

    def press(self, keys: str) -> None:
        self._child.send(keys)

    def kill(self, number: int) -> None:
        self._child.kill(number)
        self._child.wait()

    def hang_up(self) -> None:
        """Close the terminal's window."""
        self._child.close(force=False)

    def end(self) -> int:
        """Wait for the end; the exit code (negative: the signal)."""
        self._child.expect(pexpect.EOF)
        self.all += SEQUENCES.sub("", self._child.before).replace("\r\n", "\n")
        self._child.close()
        return self._child.exitstatus if self._child.exitstatus is not None else -self._child.signalstatus


@contextmanager
def screen(*arguments: str | Path, **environment: str) -> Iterator[Screen]:
    """Start a command; it is ended when the block ends."""
    opened = Screen(arguments, environment)
    try:
        yield opened
    finally:
        opened._child.close(force=True)


def last_question(text: str) -> tuple[str, str]:
    """Head ("12 of 50 · about 3 min left") and body of the last question in what was shown."""
    lines = text.split("\n")
    start = max(index for index, line in enumerate(lines) if "───" in line)
    return lines[start].strip("─ "), "\n".join(lines[start + 1 :])
