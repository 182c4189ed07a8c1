"""Two clocks: one that people read and may set, and one that only runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which start of the machine this is; empty where the system does not say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the store takes its times from.

    Leases are counted on `since_boot`, which all processes of a machine share and nobody can set: setting the wall clock
    neither ends a lease early nor keeps one alive.
    """

    wall: Callable[[], float] = time.time
    since_boot: Callable[[], float] = time.monotonic
    boot: str = field(default_factory=boot_id)

    def now(self) -> int:
        """Whole Unix seconds, for showing."""
        return int(self.wall())
