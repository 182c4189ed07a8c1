"""Bytes by their content: files and adapter folders, written aside, synced, and renamed before the commit that names them.

A file that no row names is garbage, swept away at the next start; a row that names no file cannot come about. Every path
begins with the project.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from stepladder import files
from stepladder.domain.errors import UsageError

PROJECT = re.compile(r"proj_[A-Za-z0-9]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")


class Incoming:
    """A file on its way in. Write to it, then hand it to what records it."""

    def __init__(self, project: str, path: Path, file: IO[bytes]) -> None:
        self.project = project
        self.path = path
        self.bytes = 0
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        files.disk().write(self._file, data)
        self._hash.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hex."""
        return self._hash.hexdigest()

    def seal(self) -> None:
        """Make what was written durable; idempotent."""
        if not self._file.closed:
            self._file.flush()
            files.disk().sync(self._file.fileno())
            self._file.close()


class IncomingFolder:
    """An adapter folder on its way in."""

    def __init__(self, project: str, path: Path, digest: str) -> None:
        self.project = project
        self.path = path
        self.digest = digest


class Blobs:
    """Files and adapter folders under one folder.

    What is on its way in lies in a place of this process, which its lock shows to be alive. `keep` and `keep_folder` belong
    inside the write transaction that records them, as does `sweep`: so nothing is swept between its rename and its commit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._incoming = folder / "incoming" / secrets.token_hex(8)
        self._incoming.mkdir(parents=True)
        self._open.enter_context(files.lock(self._incoming / ".lock"))

    def close(self) -> None:
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._open.close()

    @contextmanager
    def receive(self, project: str) -> Iterator[Incoming]:
        """A new file to write to; gone at the end of the block unless it was kept."""
        path = self._incoming / secrets.token_hex(8)
        with path.open("xb") as file:
            incoming = Incoming(_checked(project), path, file)
            try:
                yield incoming
            finally:
                file.close()
                path.unlink(missing_ok=True)

    @contextmanager
    def receive_folder(self, project: str, content: Mapping[str, bytes]) -> Iterator[IncomingFolder]:
        """A new folder with the files of `content` by name; gone at the end of the block unless it was kept."""
        path = self._incoming / secrets.token_hex(8)
        path.mkdir()
        try:
            for name, data in content.items():
                if Path(name).name != name:
                    raise ValueError(f"'{name}' is no plain file name")
                with (path / name).open("xb") as file:
                    files.disk().write(file, data)
                    files.disk().sync(file.fileno())
            files.fsync_folder(path)
            yield IncomingFolder(_checked(project), path, folder_digest(content))
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def keep(self, incoming: Incoming) -> None:
        """Put a file at its place. Call it inside the transaction that records it, after `seal`."""
        incoming.seal()
        self._place(incoming.path, self.path(incoming.project, incoming.sha256))

    def keep_folder(self, incoming: IncomingFolder) -> None:
        """Put a folder at its place. Call it inside the transaction that records it."""
        self._place(incoming.path, self.adapter(incoming.project, incoming.digest))

    def path(self, project: str, sha256: str) -> Path:
        """Where the file of this content lies."""
        return self.folder / "files" / _checked(project) / _digest(sha256)[:2] / sha256

    def adapter(self, project: str, digest: str) -> Path:
        """Where the adapter folder of this digest lies."""
        return self.folder / "adapters" / _checked(project) / _digest(digest)

    def remove(self, project: str, digest: str) -> None:
        """Remove the file and the folder of this digest. Call it inside a write transaction, when no row names it."""
        for path in (self.path(project, digest), self.adapter(project, digest)):
            if path.exists():
                _remove(path)

    def sweep(self, named: Callable[[str, str], bool]) -> int:
        """Remove what no row names, and what processes that died had on its way in.

        Call it inside a write transaction.

        Args:
            named: Whether a row names the content of this digest in this project.
        Returns:
            How many files and folders were removed.
        """
        orphans = [
            path
            for path in (*self.folder.glob("files/*/*/*"), *self.folder.glob("adapters/*/*"))
            if not named(path.relative_to(self.folder).parts[1], path.name)
        ]
        for path in orphans:
            _remove(path)
        return len(orphans) + self._sweep_incoming()

    def _sweep_incoming(self) -> int:
        removed = 0
        for place in self.folder.glob("incoming/*"):
            if place == self._incoming:
                continue
            try:
                with files.lock(place / ".lock"):
                    removed += sum(1 for path in place.iterdir() if path.name != ".lock")
                    shutil.rmtree(place, ignore_errors=True)
            except (files.Locked, OSError):
                continue  # its process lives, or has just tidied up itself
        return removed

    def _place(self, source: Path, target: Path) -> None:
        if target.exists():
            return  # the same content; `source` goes when its block ends
        missing = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        files.disk().rename(source, target)
        files.fsync_folder(target.parent)
        for made in missing:
            files.fsync_folder(made.parent)


def folder_digest(content: Mapping[str, bytes]) -> str:
    """One hash for a folder of files: of their names and contents."""
    return files.hash_json({name: files.hash_bytes(data) for name, data in content.items()})


def _remove(path: Path) -> None:
    if path.is_dir():
        trash = path.with_name(f"{path.name}.gone")
        path.rename(trash)  # half a folder never stands under its digest
        shutil.rmtree(trash, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _checked(project: str) -> str:
    if not PROJECT.fullmatch(project):
        raise UsageError(f"'{project}' is no project id.")
    return project


def _digest(value: str) -> str:
    if not DIGEST.fullmatch(value):
        raise UsageError(f"'{value[:80]}' is no sha256.")
    return value
