"""Answers kept from climb to climb, found by all that decided them: weights, adapter, prompt, decoding, number format, versions.

One small file an answer. Files appear whole and vanish whole, so several processes may use the folder at once; each carries
the hash of its own content, so a broken one is noticed and asked for anew.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Engine, Prompt, Reading
from stepladder.engines.cache import Journal, RecordedEngine
from stepladder.files import Locked, hash_bytes, hash_json, lock

BLOCK_BYTES = 4096
"""What a small file takes on most disks, however small it is."""
PARTS = 256
"""Folders inside the folder, by the first two digits of a key."""
TRIMMED_TO = 0.8
SERVED_FORMAT = 2
"""Raise it when what the name of a served model stands for changes: in 1 a provider's name stood for any server."""
STALE_SECONDS = 3600.0
"""Temporary files older than this belong to killed processes."""


class AnswerStore:
    """The folder of answers, or none at all (`folder` None: nothing is found, nothing is kept).

    Attributes:
        read_back, asked, broken: Answers that were found, answers that had to be asked for, entries that were damaged.
    """

    def __init__(self, folder: Path | None, most_bytes: int = 0) -> None:
        self.folder = folder
        self.read_back = 0
        self.asked = 0
        self.broken = 0
        self._most_bytes = most_bytes
        self._written_bytes = 0
        self._looked = False

    def find(self, key: str) -> dict[str, Any] | None:
        """The entry of a key; None when there is none, or when it is damaged (then it is removed, if it can be)."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            digest, _, content = path.read_bytes().partition(b"\n")
        except OSError:
            return None
        entry = _checked(digest, content, key)
        if entry is None:
            self.broken += 1
            _remove(path)
            return None
        with suppress(OSError):  # another process may just have removed it
            os.utime(path)  # what was used longest ago goes first
        return entry

    def keep(self, key: str, entry: Mapping[str, Any]) -> None:
        """Write an entry, and now and then make room. A full disk costs the entry, not the climb.

        Room is made where the first entry finds the folder crowded, since many processes may write little each, and whenever a
        sixteenth of the bound was written.
        """
        if self.folder is None:
            return
        content = json.dumps(dict(entry), ensure_ascii=True).encode()
        path = self._path(key)
        try:
            _write(path, hash_bytes(content).encode() + b"\n" + content)
        except OSError:
            return
        self._written_bytes += _on_disk(len(content))
        first, self._looked = not self._looked, True
        if self._written_bytes * 16 >= self._most_bytes or (first and self._is_crowded(path.parent)):
            self._written_bytes = 0
            self.trim()

    def _is_crowded(self, part: Path) -> bool:
        """Whether the folder seems to be past its bound, by one of its parts: keys are hashes, so each holds about as much."""
        try:
            with os.scandir(part) as files:
                return sum(_on_disk(file.stat().st_size) for file in files) * PARTS > self._most_bytes
        except OSError:  # another process may just have removed a file
            return True

    def trim(self) -> None:
        """Remove what was used longest ago until four fifths of the bound are left; nothing below the bound."""
        if self.folder is None or not self.folder.is_dir():
            return
        try:
            with lock(self.folder / ".lock"):
                self._trim()
        except (Locked, OSError):
            return  # another process is at it, or the folder is somebody else's

    def _trim(self) -> None:
        assert self.folder is not None
        entries = []
        for path in self.folder.glob("??/*"):
            try:
                state = path.stat()
            except OSError:
                continue
            if path.suffix == ".tmp":
                if time.time() - state.st_mtime > STALE_SECONDS:
                    _remove(path)
                continue
            entries.append((state.st_mtime, _on_disk(state.st_size), path))
        total = sum(size for _, size, _ in entries)
        if total <= self._most_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= TRIMMED_TO * self._most_bytes:
                break
            if _remove(path):
                total -= size

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / key[2:]


class CachedEngine(RecordedEngine):
    """`engine`, with every answer kept in `store`.

    Args:
        manner: How the engine is asked, where that matters beyond the words: "alone" for one prompt at a time.
    """

    def __init__(self, engine: Engine, store: AnswerStore, *, manner: str = "") -> None:
        super().__init__(engine, Path(os.devnull))
        self._store = store
        self._manner = manner
        self._stored = store.folder is not None and _is_known(engine)
        self._reading = _reading_of(engine)
        self._setting = setting_of(engine)

    def _read(self) -> None:
        """Nothing beforehand: entries are read when they are asked for."""

    def _speaker(self, adapter: Path | None) -> str:
        served = [SERVED_FORMAT] if self.identity.served else []
        return hash_json([super()._speaker(adapter), self._manner, self._setting, *served])

    def _asked(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Token ids where the engine tells them, else the turns."""
        return super()._asked(prompts) if self._reading is None else list(self._reading.prompt_ids(prompts))

    def _recall(self, keys: Sequence[str]) -> None:
        for key in dict.fromkeys(keys):
            if key in self._generations or key in self._scores:
                continue
            entry = self._store.find(key) if self._stored else None
            if entry is None:
                self._store.asked += 1
            elif "generation" in entry:
                self._generations[key] = Generation(**entry["generation"])
                self._store.read_back += 1
            else:
                self._scores[key] = CompletionScore(**entry["score"])
                self._store.read_back += 1

    def _journal(self) -> AbstractContextManager[Journal]:
        return self._keeping()

    @contextmanager
    def _keeping(self) -> Iterator[Journal]:
        yield _Keeper(self._store if self._stored else AnswerStore(None))


class _Keeper:
    def __init__(self, store: AnswerStore) -> None:
        self._store = store

    def add(self, entry: Mapping[str, Any]) -> None:
        self._store.keep(str(entry["key"]), entry)


def setting_of(engine: object) -> dict[str, Any]:
    """What the engine's answers depend on besides identity, prompt and decoding, where it says so."""
    reading = _reading_of(engine)
    return {} if reading is None else dict(reading.setting)


def _reading_of(engine: object) -> Reading | None:
    """The engine itself, under whatever wraps it, where it says what its model reads."""
    while not isinstance(engine, Reading):
        if not hasattr(engine, "engine"):
            return None
        engine = engine.engine
    return engine


def _is_known(engine: Engine) -> bool:
    """Whether the same name stands for the same weights tomorrow: by their hash, or by a provider's word.

    Behind a server's URL anything may be served the next day; a provider's name that leads to such a server begins with it.
    """
    identity = engine.identity
    return bool(identity.base_sha256) or (identity.served and identity.name.startswith(("openai:", "anthropic:")))


def _checked(digest: bytes, content: bytes, key: str) -> dict[str, Any] | None:
    """The entry in a file's content, if it is whole, is the one that was asked for, and holds an answer."""
    if hash_bytes(content).encode() != digest:
        return None
    try:
        entry = json.loads(content)
        if entry["key"] != key:
            return None
        Generation(**entry["generation"]) if "generation" in entry else CompletionScore(**entry["score"])
    except (ValueError, TypeError, KeyError):
        return None
    return dict(entry)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, but without waiting for the disk: what a power cut spoils is noticed when it is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remove(path: Path) -> bool:
    """Whether it is gone; a folder that is shared read-only keeps what it holds, and that ends no climb."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        return True
    return False


def _on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
