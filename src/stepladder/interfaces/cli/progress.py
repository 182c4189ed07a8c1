"""Progress of long work: a live line with time left on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stepladder.service.figures import visible

SECONDS_BETWEEN_PLAIN_LINES = 15.0
LEARNED = r"⟦[^⟧]*⟧"  # how the trainer marks the tokens it learns in the examples it shows


@dataclass
class Stage:
    """One level of nested work."""

    label: str
    total: int | None
    done: int = 0
    detail: str = ""
    started: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float | None:
        """Time left at the pace so far; None while it cannot be told."""
        if not self.total or not self.done:
            return None
        return (time.monotonic() - self.started) / self.done * max(0, self.total - self.done)

    def text(self) -> str:
        parts = [self.label]
        if self.total:
            parts.append(f"{self.done}/{self.total}")
        if self.detail:
            parts.append(self.detail)
        left = self.seconds_left()
        if left is not None and left >= 1:
            parts.append(f"{duration(left)} left")
        return " ".join(parts)


class TerminalProgress:
    """Nested stages on stderr, so that stdout holds results only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._stages: list[Stage] = []
        self._live: Live | None = None
        self._last_line = time.monotonic()

    def start(self, label: str, total: int | None = None) -> None:
        self._stages.append(Stage(label, total))
        if self.console.is_terminal and self._live is None:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._show()

    def advance(self, count: int = 1, detail: str = "") -> None:
        if self._stages:
            self._stages[-1].done += count
            self._stages[-1].detail = detail
        self._show()

    def finish(self) -> None:
        if self._stages:
            self._stages.pop()
        if not self._stages:
            self.close()

    def note(self, text: str) -> None:
        shown = Text(visible(text))
        shown.highlight_regex(LEARNED, "green")
        self.console.print(shown, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back; also after an error or Ctrl-C."""
        self._stages.clear()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self) -> None:
        line = " > ".join(stage.text() for stage in self._stages)
        if self._live is not None:
            self._live.update(Text(line, style="dim", overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_PLAIN_LINES and line:
            self._last_line = time.monotonic()
            print(f"  {line}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words short enough for a progress line: "45 s", "3 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
