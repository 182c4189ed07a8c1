from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from stepladder.domain.errors import RunError
from stepladder.storage.database import Database, migrations, refuse_library, refuse_network

KILLED_WHILE_MIGRATING = """
import os, sys
from pathlib import Path
import apsw
from stepladder.storage.database import Database

folder, last = Path(sys.argv[1]), False
number = 0
while not last:
    number += 1
    path = folder / f"{number}.sqlite3"
    child = os.fork()
    if child == 0:
        seen = 0
        def strike(cursor, statement, bindings):
            global seen
            seen += 1
            if seen == number:
                os._exit(9)
            return True
        def hook(connection):
            connection.exec_trace = strike
        apsw.connection_hooks.append(hook)
        Database(path)
        os._exit(0)
    last = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(number)
"""


def test_a_new_database_has_the_newest_schema_and_a_write_ahead_log(tmp_path):
    database = Database(tmp_path / "store.sqlite3")
    assert database.version() == len(migrations())
    assert database.read("PRAGMA journal_mode") == [{"journal_mode": "wal"}]
    assert database.faults() == []
    database.close()


def test_migrations_are_numbered_without_a_gap():
    assert [int(path.name[:4]) for path in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_write_that_fails_leaves_nothing_and_the_next_one_works(tmp_path):
    database = Database(tmp_path / "store.sqlite3")
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute("INSERT INTO projects VALUES ('proj_a', 'a', 1)")
        raise ZeroDivisionError
    with database.write() as connection:
        connection.execute("INSERT INTO projects VALUES ('proj_b', 'b', 1)")
    assert [row["id"] for row in database.read("SELECT id FROM projects ORDER BY id")] == ["proj_b", "proj_local"]
    database.close()


def test_a_reader_sees_the_last_commit_while_another_writes(tmp_path):
    writer, reader = Database(tmp_path / "store.sqlite3"), Database(tmp_path / "store.sqlite3")
    with writer.write() as connection:
        connection.execute("INSERT INTO projects VALUES ('proj_a', 'a', 1)")
        assert len(reader.read("SELECT id FROM projects")) == 1
    before = reader.changes()
    assert len(reader.read("SELECT id FROM projects")) == 2
    with writer.write() as connection:
        connection.execute("DELETE FROM projects WHERE id = 'proj_a'")
    assert reader.changes() != before
    writer.close()
    reader.close()


def test_a_log_that_has_grown_is_emptied_as_soon_as_no_reader_needs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("stepladder.storage.database.WAL_BYTES_KEPT", 100_000)
    monkeypatch.setattr("stepladder.storage.database.SHORTENING_SECONDS", 0.05)
    monkeypatch.setattr("stepladder.storage.database.SHORTENING_PAUSE_SECONDS", 0.0)
    database = Database(tmp_path / "store.sqlite3")
    log = tmp_path / "store.sqlite3-wal"

    def fill(rows: int) -> None:
        for _ in range(rows):
            with database.write() as connection:
                connection.execute("INSERT INTO numbers VALUES (zeroblob(20000))")

    with database.write() as connection:
        connection.execute("CREATE TABLE numbers (n)")
    reader = apsw.Connection(str(database.path))
    rows = reader.execute("SELECT n FROM numbers UNION ALL VALUES (1), (2)")
    next(rows)  # a reader that takes its time
    fill(20)
    assert log.stat().st_size > 400_000
    rows.close()
    fill(1)
    assert log.stat().st_size == 0
    fill(20)
    assert log.stat().st_size <= 200_000
    assert len(database.read("SELECT n FROM numbers")) == 41
    reader.close()
    database.close()


def test_a_thread_that_ends_takes_its_connection_with_it(tmp_path):
    database = Database(tmp_path / "store.sqlite3")
    for _ in range(20):
        thread = threading.Thread(target=database.version)
        thread.start()
        thread.join()
    database.version()
    gc.collect()
    open_files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert sum(name.startswith(str(database.path)) for name in open_files) <= 6  # writer and reader: file, log, shared memory
    database.close()


def test_threads_of_one_process_write_one_after_the_other(tmp_path):
    database = Database(tmp_path / "store.sqlite3")

    def add(number: int) -> None:
        for part in range(20):
            with database.write() as connection:
                connection.execute("INSERT INTO projects VALUES (?, 'x', 1)", (f"proj_{number}x{part}",))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.read("SELECT count(*) AS number FROM projects")[0]["number"] == 161
    database.close()


def test_a_write_inside_a_write_is_a_fault_of_ours_and_said(tmp_path):
    database = Database(tmp_path / "store.sqlite3")
    with pytest.raises(RuntimeError, match="does not nest"), database.write(), database.write():
        pass
    database.close()


def test_a_backup_taken_while_others_write_is_whole_and_stands_alone(tmp_path):
    database = Database(tmp_path / "store.sqlite3")
    done = threading.Event()

    def write_on() -> None:
        number = 0
        while not done.is_set():
            number += 1
            with database.write() as connection:
                connection.execute("INSERT INTO projects VALUES (?, ?, 1)", (f"proj_a{number}", "n" * 2000))
                connection.execute("INSERT INTO projects VALUES (?, ?, 1)", (f"proj_b{number}", "n" * 2000))

    writing = threading.Thread(target=write_on)
    writing.start()
    database.backup(tmp_path / "copy.sqlite3")
    done.set()
    writing.join()
    database.close()
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.sqlite3"]
    copy = Database(tmp_path / "copy.sqlite3")
    assert copy.faults() == []
    assert copy.read("SELECT count(*) AS number FROM projects")[0]["number"] % 2 == 1  # pairs, and this machine's own
    copy.close()


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "store.sqlite3"
    database = Database(path)
    with database.write() as connection:
        connection.execute("INSERT INTO schema_versions VALUES (99, 'later', 1)")
    database.close()
    with pytest.raises(RunError, match=r"newer Stepladder \(schema 99; this one knows \d+\).* Install that version again"):
        Database(path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "store.sqlite3"
    path.write_bytes(b"this is a letter and no database at all. " * 200)
    with pytest.raises(RunError, match=r"is damaged or no database.* Put a backup in its place\."):
        Database(path)


def test_a_library_that_may_lose_commits_is_refused():
    refuse_library("3.51.3")
    refuse_library(apsw.sqlite_lib_version())
    with pytest.raises(RunError, match=r"SQLite 3\.45\.1 can lose commits .* pip install --upgrade apsw"):
        refuse_library("3.45.1")


def test_a_disk_of_another_machine_is_refused(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/home {tmp_path}/with\\040space nfs4 rw 0 0\n")
    refuse_network(tmp_path / "store.sqlite3", mounts)
    refuse_network(tmp_path / "store.sqlite3", tmp_path / "nothing")
    with pytest.raises(RunError, match=r"lies on a network disk \(nfs4\).* Choose a local folder"):
        refuse_network(tmp_path / "with space" / "deep" / "store.sqlite3", mounts)


def test_killed_at_any_statement_a_migration_is_wholly_there_or_not_at_all(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_MIGRATING, str(tmp_path)], capture_output=True, text=True, check=True, env=os.environ
    )
    statements = int(done.stdout)
    assert statements > 30  # every statement of the schema was once the last
    for number in range(1, statements + 1):
        connection = apsw.Connection(str(tmp_path / f"{number}.sqlite3"))
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        connection.close()
        assert tables <= {"schema_versions"} or {"jobs", "runs", "events"} <= tables, number
        database = Database(tmp_path / f"{number}.sqlite3")
        assert database.version() == len(migrations())
        assert database.faults() == []
        database.close()


def test_a_database_moved_with_its_log_still_holds_every_commit(tmp_path):
    database = Database(tmp_path / "store.sqlite3")
    with database.write() as connection:
        connection.execute("INSERT INTO projects VALUES ('proj_a', 'a', 1)")
    other = tmp_path / "other"
    other.mkdir()
    for path in tmp_path.glob("store.sqlite3*"):  # as after a power cut: nobody closed it
        shutil.copy(path, other / path.name)
    database.close()
    copy = Database(Path(other) / "store.sqlite3")
    assert len(copy.read("SELECT id FROM projects")) == 2
    copy.close()
