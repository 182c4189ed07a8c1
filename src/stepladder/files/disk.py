"""Every touch of the disk that can fail, one call each, so that a test can let any one of them fail as a real disk does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Disk:
    """The disk as it is."""

    def write(self, file: IO[bytes], data: bytes) -> None:
        file.write(data)
        file.flush()

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def free_bytes(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free


class FailingDisk(Disk):
    """A disk whose operation number `at` (from 1) fails once with `code`; a failing write leaves half of its data behind.

    Attributes:
        operations: How many there were; with `at` 0 none fails, which counts them.
    """

    def __init__(self, at: int = 0, code: int = 0, *, free_bytes: int | None = None) -> None:
        self.operations = 0
        self._at, self._code, self._free_bytes = at, code, free_bytes

    def write(self, file: IO[bytes], data: bytes) -> None:
        if self._strikes():
            super().write(file, data[: len(data) // 2])
            raise OSError(self._code, os.strerror(self._code))
        super().write(file, data)

    def sync(self, handle: int) -> None:
        if self._strikes():
            raise OSError(self._code, os.strerror(self._code))
        super().sync(handle)

    def rename(self, old: Path, new: Path) -> None:
        if self._strikes():
            raise OSError(self._code, os.strerror(self._code))
        super().rename(old, new)

    def free_bytes(self, folder: Path) -> int:
        return super().free_bytes(folder) if self._free_bytes is None else self._free_bytes

    def _strikes(self) -> bool:
        self.operations += 1
        return self.operations == self._at


_disk = Disk()


def disk() -> Disk:
    """The disk that this process writes to."""
    return _disk


@contextmanager
def writing_to(other: Disk) -> Iterator[Disk]:
    """Let this process write through `other` for the time of the block."""
    global _disk
    before, _disk = _disk, other
    try:
        yield other
    finally:
        _disk = before
