"""Memory that a training takes again and again stays with the process instead of going back to the system each time."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library
LARGEST_INT = 2**31 - 1
DEFAULT_MMAP_MAX, DEFAULT_TRIM_THRESHOLD = 65_536, 128 * 1024


@contextmanager
def reused_memory() -> Iterator[None]:
    """Inside the block, large blocks that are freed stay ready for the next pass; afterwards the system gets them back.

    By default the C library maps every large tensor anew, and the first touch of each of its pages costs more than the
    arithmetic on it. Elsewhere than on Linux with the GNU C library nothing is changed.
    """
    library = _gnu_c_library()
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        library.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
        library.malloc_trim(0)


def _gnu_c_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
