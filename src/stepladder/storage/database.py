"""One SQLite file for many processes: write-ahead log, one writer at a time, schema brought forward at opening.

SQLite comes with the apsw wheel, not from the system, whose version may lose commits when the log is reset.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from stepladder.domain.errors import RunError
from stepladder.files import fsync_folder
from stepladder.storage.clock import Clock

MIGRATIONS = Path(__file__).parent / "migrations"
SAFE_LIBRARY = 3051003  # 3.51.3: the first in which a reset of the log cannot lose commits
BUSY_SECONDS = 30.0
LONGEST_NAP_SECONDS = 0.01
WAL_BYTES_KEPT = 64 * 2**20
SHORTENING_SECONDS = 0.5  # a commit waits so long for others to let it empty the log
SHORTENING_PAUSE_SECONDS = 5.0  # then it is not tried for so long
PAGES_PER_BACKUP_STEP = 256
MOUNTS = Path("/proc/mounts")
NETWORK_DISKS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "ceph", "glusterfs", "lustre"})

Result = TypeVar("Result")
Row = dict[str, Any]


class Database:
    """An open database. Safe to use from several threads; each process opens its own."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        """Open the database at `path`, made and brought to the present schema as needed.

        Raises:
            RunError: It is damaged, a newer version wrote it, or the SQLite library is not to be trusted with it.
        """
        self.path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._shorten_from = 0.0  # of time.monotonic
        self.clock = clock or Clock()
        self._local = threading.local()
        self._readers: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()  # one a thread; its end closes it
        self._turn = threading.RLock()
        refuse_library(apsw.sqlite_lib_version())
        refuse_network(path)
        try:
            self._writer = _patiently(lambda: _connect(path))
            self._migrate()
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise RunError(f"{path} is damaged or no database ({error}).", "Put a backup in its place.") from error

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """A transaction that takes the write lock at its beginning; committed at the end, undone on an error.

        Rows come as dicts. Keep it short: nobody else writes meanwhile.
        """
        with self._turn:
            if self._writer.in_transaction:
                raise RuntimeError("a write transaction does not nest")
            _patiently(lambda: self._writer.execute("BEGIN IMMEDIATE"))
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            self._shorten_log()

    def read(self, sql: str, bindings: tuple[Any, ...] | dict[str, Any] = ()) -> list[Row]:
        """All rows of one query, as they were at one moment; waits for no writer."""
        return _patiently(lambda: list(self._reader().execute(sql, bindings)))

    def changes(self) -> int:
        """A number that differs from the last one seen by this thread when another connection has committed since."""
        return int(self.read("PRAGMA data_version")[0]["data_version"])

    def now(self) -> int:
        """Whole Unix seconds."""
        return self.clock.now()

    def backup(self, target: Path) -> None:
        """Copy the database to `target` while it is used; the copy appears whole or not at all."""
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        with suppress_close(apsw.Connection(str(temporary))) as copy, suppress_close(_connect(self.path)) as source:
            with copy.backup("main", source, "main") as backup:
                while not backup.done:
                    _patiently(lambda: backup.step(PAGES_PER_BACKUP_STEP))
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        temporary.replace(target)
        fsync_folder(target.parent)

    def faults(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; empty when nothing is."""
        rows = self.read("PRAGMA integrity_check") + [
            {"integrity_check": f"foreign key: {row}"} for row in self.read("PRAGMA foreign_key_check")
        ]
        return [str(row["integrity_check"]) for row in rows if row["integrity_check"] != "ok"]

    def version(self) -> int:
        """The newest migration that was applied."""
        return int(self.read("SELECT max(version) AS version FROM schema_versions")[0]["version"])

    def close(self) -> None:
        with self._turn:
            for connection in (*self._readers, self._writer):
                connection.close()

    def _shorten_log(self) -> None:
        """Empty a log that has grown: where some reader is always at work, SQLite alone never begins it anew.

        Waits a moment for the readers; where one of them takes long, a commit some seconds later does it. The commit before it
        holds in any case, so nothing is raised.
        """
        now = time.monotonic()
        if now < self._shorten_from or _size(self._log) <= WAL_BYTES_KEPT:
            return
        self._shorten_from = now + SHORTENING_PAUSE_SECONDS
        self._writer.set_busy_handler(_Nap(SHORTENING_SECONDS))
        try:
            with suppress(apsw.Error):
                list(self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        finally:
            self._writer.set_busy_handler(_Nap(BUSY_SECONDS))

    def _reader(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _connect(self.path)
            with self._turn:
                self._readers.add(connection)
        return connection

    def _migrate(self) -> None:
        known = migrations()
        with self.write() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_versions "
                "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
            )
            newest = next(connection.execute("SELECT coalesce(max(version), 0) AS newest FROM schema_versions"))["newest"]
        if newest > len(known):
            raise RunError(
                f"{self.path} was written by a newer Stepladder (schema {newest}; this one knows {len(known)}).",
                "Install that version again, or use another folder.",
            )
        for version, path in enumerate(known[newest:], newest + 1):
            self._apply(version, path)

    def _apply(self, version: int, path: Path) -> None:
        """One migration, wholly or not at all; another process may have been faster."""
        with self.write() as connection:
            if list(connection.execute("SELECT 1 FROM schema_versions WHERE version = ?", (version,))):
                return
            connection.execute(path.read_text(encoding="utf-8"))
            connection.execute("INSERT INTO schema_versions VALUES (?, ?, ?)", (version, path.stem, self.now()))


def migrations() -> list[Path]:
    """The numbered steps of the schema, oldest first: step n is number n."""
    return sorted(MIGRATIONS.glob("[0-9]*.sql"))


def refuse_library(version: str) -> None:
    """Refuse an SQLite whose log may lose commits.

    Raises:
        RunError: `version` is older than 3.51.3.
    """
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    if major * 1_000_000 + minor * 1_000 + patch < SAFE_LIBRARY:
        raise RunError(f"SQLite {version} can lose commits when its log is reset.", "Run: pip install --upgrade apsw")


def refuse_network(path: Path, mounts: Path = MOUNTS) -> None:
    """Refuse a disk of another machine: the log's memory is not shared across machines, nor are locks to be trusted there.

    Args:
        mounts: What is mounted where, as Linux tells; where there is no such file, nothing is known and nothing refused.
    Raises:
        RunError: `path` lies on one.
    """
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return
    home = path.parent.resolve()
    places = {Path(line[1].replace("\\040", " ")): line[2] for line in lines if len(line) > 2}
    kind = next((places[place] for place in (home, *home.parents) if place in places), "")
    if kind in NETWORK_DISKS:
        raise RunError(f"{home} lies on a network disk ({kind}), where a database is not safe.", "Choose a local folder.")


@contextmanager
def suppress_close(connection: apsw.Connection) -> Iterator[apsw.Connection]:
    """Close the connection at the end of the block, whatever happens in it."""
    try:
        yield connection
    finally:
        connection.close()


def _size(path: Path) -> int:
    """Bytes; 0 where there is no such file (any more)."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_handler(_Nap(BUSY_SECONDS))
    connection.row_trace = _as_dict
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    return connection


def _as_dict(cursor: apsw.Cursor, row: tuple[Any, ...]) -> Row:
    return dict(zip((column[0] for column in cursor.get_description()), row, strict=True))


class _Nap:
    """Short waits of random length while another process writes: waits of equal length would let the same one win again."""

    def __init__(self, longest_seconds: float) -> None:
        self._longest_seconds = longest_seconds
        self._since = 0.0

    def __call__(self, tried: int) -> bool:
        if tried == 0:
            self._since = time.monotonic()
        time.sleep(random.uniform(0.0005, LONGEST_NAP_SECONDS))
        return time.monotonic() - self._since < self._longest_seconds


def _patiently(act: Callable[[], Result]) -> Result:
    """`act`, again when SQLite says busy without asking the connection's busy handler, as it does while it recovers a log."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        with suppress(apsw.BusyError, apsw.LockedError):
            return act()
        if time.monotonic() > until:
            return act()
        time.sleep(random.uniform(0.0005, LONGEST_NAP_SECONDS))
