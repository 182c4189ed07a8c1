"""Files and folders that appear complete or not at all, and line files that survive a kill in mid-line."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepladder.files.disk import disk

OLD = ".old.tmp"
"""Ends the name of a folder that another one is about to replace."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            disk().write(file, data)
            disk().sync(file.fileno())
        temporary.chmod(0o644)
        disk().rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    An existing `path` is replaced as a whole. Leftovers of killed attempts at the same path are removed first, once what a
    killed exchange has left is at its place again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    finish_exchange(path)
    for leftover in _leftovers(path):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    disk().sync(handle.fileno())
        fsync_folder(temporary)
        temporary.chmod(0o755)
        _take_place(temporary, path)
        fsync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; the folder that stood there comes back when that fails."""
    if not path.exists():
        disk().rename(temporary, path)
        return
    old = temporary.with_suffix(OLD)
    disk().rename(path, old)
    try:
        disk().rename(temporary, path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_exchange(path: Path) -> None:
    """End an exchange of the folder `path` that a kill broke off between its two renames, when nothing stood at its place.

    The new folder was whole before the old one was moved away, so it takes the place; where it is gone, the old one comes back.
    """
    if path.exists() or not path.parent.is_dir():
        return
    leftovers = _leftovers(path)
    for old in leftovers:
        if old.name.endswith(OLD):
            new = old.with_name(old.name.removesuffix(OLD) + ".tmp")
            disk().rename(new if new in leftovers else old, path)
            fsync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
            return


def _leftovers(path: Path) -> list[Path]:
    """What attempts at the folder `path` have left beside it; none of a folder with a longer name."""
    named = re.compile(rf"\.{re.escape(path.name)}\.[^.]+(\.old)?\.tmp")
    return sorted(other for other in path.parent.iterdir() if named.fullmatch(other.name) and other.is_dir())


def append_line(path: Path, line: str) -> None:
    """Add one line to a line file, durably. A torn last line of an earlier kill is ended first, so it harms no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        torn = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        disk().write(file, (b"\n" if torn else b"") + line.encode("utf-8") + b"\n")
        disk().sync(file.fileno())


def read_lines(path: Path) -> Iterator[str]:
    """The complete lines of a line file; a last line without its end was torn by a kill and is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield raw[:-1].decode("utf-8", errors="replace")


def fsync_folder(path: Path) -> None:
    """Make renames inside `path` durable, where the system knows how."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        disk().sync(handle)
    finally:
        os.close(handle)
