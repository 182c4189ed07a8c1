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
PACE_SHARE = 0.05
FEW_PARTS = 20
LEARNED = r"⟦[^⟧]*⟧"  # how the trainer marks the tokens it learns in the examples it shows


@dataclass
class Stage:
    """One level of nested work."""

    label: str
    total: int | None
    done: int = 0
    detail: str = ""
    started: float = field(default_factory=lambda: time.monotonic())
    first: tuple[int, float] | None = None  # how much was done at the first word of it, and when that was

    def advance(self, count: int, detail: str) -> None:
        self.done += count
        self.detail = detail
        if self.first is None:
            self.first = self.done, time.monotonic()

    def seconds_left(self) -> float | None:
        """Time left at the pace since the first part was done, for that one loads and warms up, or an earlier run did it.

        None until a twentieth has shown a pace; where there are few parts, the first one's own pace will do till then.
        """
        if not self.total or self.first is None:
            return None
        (before, since), now = self.first, time.monotonic()
        seen = self.done - before
        if seen >= max(1.0, PACE_SHARE * self.total):
            pace = (now - since) / seen
        elif self.total <= FEW_PARTS and self.done:
            pace = (now - self.started) / self.done
        else:
            return None
        return pace * max(0, self.total - self.done)

    def text(self) -> str:
        parts = [self.label]
        if self.total:
            parts.append(f"{self.done}/{self.total}")
        if self.detail:
            parts.append(self.detail)
        left = self.seconds_left()
        if left is not None and left >= 1 and not self.detail.endswith(" left"):  # who does the work may know it better
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
            self._stages[-1].advance(count, detail)
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
