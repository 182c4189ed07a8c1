"""What a machine does to a training, by its name: memory or disk used up, and what helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stepladder.domain.errors import DiskError, LackOfMemory
from stepladder.files import disk

OUT_OF_MEMORY_WORDS = ("DefaultCPUAllocator", "out of memory", "not enough memory", "can't allocate memory")
CHECKPOINTS_AT_ONCE = 4
"""Two newest, one with an earlier evaluation, and the one being written."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU, or torch on a GPU says that no memory is left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


@contextmanager
def memory_named(what: str, advice: str) -> Iterator[None]:
    """Turn a lack of memory into an error that says what to change.

    Raises:
        LackOfMemory: The memory was used up in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise LackOfMemory(f"out of memory: {what} needs more than this machine can give ({said}).", advice) from error


@contextmanager
def disk_named(what: str, folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into an error that says what to do.

    Raises:
        DiskError: Something could not be written in the block.
    """
    try:
        yield
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise DiskError(
            f"{what} cannot be written below {folder.parent}: {error.strerror or error}.",
            "What was saved before is whole. Make room on that disk (or repair it) and run the same again: it continues.",
        ) from error


def refuse_full_disk(folder: Path, adapter_bytes: int) -> None:
    """Whether the checkpoints of an adapter and its export will fit, before hours are spent.

    Args:
        folder: Where they will lie; it need not exist.
    Raises:
        DiskError: They will not.
    """
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    needed = adapter_bytes * (3 * CHECKPOINTS_AT_ONCE + 1)  # a checkpoint holds the adapter and two moments of it
    free = disk().free_bytes(standing)
    if free < needed:
        raise DiskError(
            f"the training's checkpoints need {needed / 1e6:,.1f} MB below {folder.parent}; {free / 1e6:,.1f} MB are free.",
            "Make room on that disk, or lower [rungs.lora] rank.",
        )
