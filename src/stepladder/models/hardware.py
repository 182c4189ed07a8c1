"""What this machine has: device, number format, memory, processors. torch is imported only when asked about."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stepladder.domain.errors import MissingExtra, UsageError
from stepladder.files import write_text
from stepladder.models.catalog import cache_folder

DTYPE_VARIABLE = "STEPLADDER_DTYPE"
DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = ("float32", "bfloat16", "float16")

# Below this the gain is not worth the eight bits that bf16 keeps of a number.
_WORTHWHILE_SPEEDUP = 1.2


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine in a few words. Memory in bytes, None where the system does not say."""

    device: str
    dtype: str
    cpu: str
    cpus: int
    memory_available_bytes: int | None
    accelerator: str = ""


def probe(device: str = "auto") -> Hardware:
    """What a model would run on here.

    Raises:
        UsageError: The device asked for is not there.
    """
    chosen = choose_device(device)
    return Hardware(
        device=chosen,
        dtype=choose_dtype(chosen),
        cpu=cpu_model(),
        cpus=cpu_count(),
        memory_available_bytes=memory_available_bytes(),
        accelerator=_accelerator_name(chosen),
    )


def choose_device(asked: str = "auto") -> str:
    """ "cuda", "mps" or "cpu"; "auto" takes the first of these that is there.

    Raises:
        UsageError: The name is unknown, or the device is not there.
        MissingExtra: torch is not installed.
    """
    if asked not in DEVICES:
        raise UsageError(f"'{asked}' is no device.", f"Choose one of: {', '.join(DEVICES)}.")
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("train", "torch") from error
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(device for device, present in there.items() if present)
    if not there[asked]:
        raise UsageError(f"This machine has no '{asked}' that torch can use.", "Leave --device out, or check the driver.")
    return asked


def choose_dtype(device: str, asked: str | None = None) -> str:
    """The number format a model is held in: `asked`, else `STEPLADDER_DTYPE`, else bf16 where it is faster, else fp32.

    Raises:
        UsageError: The name is unknown.
    """
    import torch

    wanted = asked or os.environ.get(DTYPE_VARIABLE)
    if wanted:
        if wanted not in DTYPES:
            raise UsageError(f"'{wanted}' is no number format.", f"Choose one of: {', '.join(DTYPES)}.")
        return wanted
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu" and bf16_speedup() >= _WORTHWHILE_SPEEDUP:
        return "bfloat16"
    return "float32"


def bf16_speedup(measure: Callable[[], float] | None = None) -> float:
    """How many times faster this processor multiplies bf16 than fp32. Measured once for a processor and a torch version."""
    import torch

    path = cache_folder() / "machine.json"
    key = f"{cpu_model()} | torch {torch.__version__} | {cpu_count()} cpus"
    known = _read_numbers(path)
    if key not in known:
        known[key] = (measure or _measure_bf16_speedup)()
        write_text(path, json.dumps(known, indent=2) + "\n")
    return known[key]


def _measure_bf16_speedup() -> float:
    import torch

    def seconds(dtype: torch.dtype) -> float:
        # the shapes of a small model's widest layer, a few hundred tokens at once
        states = torch.ones(256, 1024, dtype=dtype)
        weights = torch.ones(1024, 4096, dtype=dtype)
        states @ weights  # the first call also prepares the kernel
        best = float("inf")
        for _ in range(7):
            start = time.perf_counter()
            states @ weights
            best = min(best, time.perf_counter() - start)
        return best

    with torch.inference_mode():
        return round(seconds(torch.float32) / seconds(torch.bfloat16), 3)


def cpu_count() -> int:
    """Processors this process may use, container limits included; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_words(Path("/sys/fs/cgroup/cpu.max"))
    if len(quota) == 2 and quota[0].isdigit():
        allowed = min(allowed, -(-int(quota[0]) // int(quota[1])))
    return max(1, allowed)


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def memory_available_bytes() -> int | None:
    """Memory that can be taken now without swapping, container limits included; None where the system does not say."""
    free = [amount for amount in (_system_memory(), _container_memory()) if amount is not None]
    return min(free) if free else None


def memory_total_bytes(device: str = "cpu") -> int | None:
    """Memory of a GPU, else of this machine, container limits included; None where the system does not say."""
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties().total_memory)
    limit = _read_words(Path("/sys/fs/cgroup/memory.max"))
    amounts = [_system_memory("MemTotal"), int(limit[0]) if limit and limit[0].isdigit() else None]
    return min((amount for amount in amounts if amount is not None), default=None)


def _system_memory(entry: str = "MemAvailable") -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container_memory() -> int | None:
    limit = _read_words(Path("/sys/fs/cgroup/memory.max"))
    used = _read_words(Path("/sys/fs/cgroup/memory.current"))
    if limit and used and limit[0].isdigit() and used[0].isdigit():
        return max(0, int(limit[0]) - int(used[0]))
    return None


def _accelerator_name(device: str) -> str:
    if device != "cuda":
        return ""
    import torch

    return torch.cuda.get_device_name()


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _read_numbers(path: Path) -> dict[str, float]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in record.items() if isinstance(value, float)} if isinstance(record, dict) else {}
