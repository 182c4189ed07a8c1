"""What a measuring process says about itself: its memory, its order, its answer. Needs nothing but Python and Linux's /proc."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """The most memory this process has held at once (VmHWM)."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_peak(torch: Any) -> dict[str, int]:
    """The most a GPU's memory has held: of tensors, and taken from the device. Nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu_allocated_bytes": torch.cuda.max_memory_allocated(), "gpu_reserved_bytes": torch.cuda.max_memory_reserved()}


def now(torch: Any) -> float:
    """Seconds of a clock, once all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak() -> None:
    """Let the peak start anew at what is held now, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def die_first() -> None:
    """Where memory runs out, it is this process that the system ends, and not somebody else's."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def read_order() -> dict[str, Any]:
    """The order of the parent: the JSON file named on the command line."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    assert isinstance(order, dict)
    return order


def answer(order: dict[str, Any], result: dict[str, Any]) -> None:
    """Leave the result where the parent looks for it."""
    Path(order["answer"]).write_text(json.dumps(result), encoding="utf-8")
