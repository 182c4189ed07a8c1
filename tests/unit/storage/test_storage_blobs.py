from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from filled_store import contents, put_file, queued, running, save, succeed
from stepladder import files
from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.storage.store import Store

KILLED_IN_BETWEEN = """
import os, sys
from pathlib import Path
from stepladder.storage.store import Store
store = Store(Path(sys.argv[1]))
with store.blobs.receive("proj_local") as incoming:
    incoming.write(b"half of a file")
    if sys.argv[2] == "renamed":
        store.blobs.keep(incoming)
    os._exit(9)
"""


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "home") as store:
        yield store


def test_a_file_is_kept_by_its_content_and_read_back(store):
    first, second = put_file(store, b"one\n"), put_file(store, b"one\n", filename="other.jsonl")
    assert first.id != second.id
    assert first.sha256 == second.sha256 == files.hash_bytes(b"one\n")
    with store.files(LOCAL_PROJECT).open(second) as file:
        assert file.read() == b"one\n"
    assert contents(store.folder) == [first.sha256]


def test_bytes_go_with_the_last_file_that_has_them(store):
    first, second = put_file(store, b"one\n"), put_file(store, b"one\n")
    assert store.files(LOCAL_PROJECT).delete(first.id)
    assert store.files(LOCAL_PROJECT).get(first.id) is None
    with store.files(LOCAL_PROJECT).open(second) as file:
        assert file.read() == b"one\n"
    assert store.files(LOCAL_PROJECT).delete(second.id)
    assert contents(store.folder) == []
    assert not store.files(LOCAL_PROJECT).delete(second.id)


def test_a_file_name_is_never_a_path(store):
    file = put_file(store, b"x", filename="../../../etc/passwd\x00")
    assert file.filename == "../../../etc/passwd\x00"
    assert contents(store.folder) == [file.sha256]


def test_projects_and_digests_that_could_leave_the_folder_are_refused(store):
    for project in ("..", "proj_", "proj_a/../b", "proj_%2e", ""):
        with pytest.raises(UsageError, match="is no project id"):
            store.blobs.path(project, "0" * 64)
    for digest in ("..", "0" * 63, "0" * 64 + "/..", "A" * 64):
        with pytest.raises(UsageError, match="is no sha256"):
            store.blobs.adapter(LOCAL_PROJECT, digest)


def test_an_upload_that_breaks_off_leaves_nothing(store):
    with pytest.raises(ConnectionError), store.blobs.receive(LOCAL_PROJECT) as incoming:
        incoming.write(b"half")
        raise ConnectionError
    assert contents(store.folder) == []
    assert list(store.folder.glob("incoming/*/[!.]*")) == []


def test_a_large_upload_is_written_as_it_comes(store):
    with store.blobs.receive(LOCAL_PROJECT) as incoming:
        for _ in range(100):
            incoming.write(b"x" * 1000)
        file = store.files(LOCAL_PROJECT).add(incoming, filename="large.jsonl", purpose="fine-tune")
    assert file.bytes == 100_000
    assert file.sha256 == files.hash_bytes(b"x" * 100_000)


def test_at_every_touch_of_a_failing_disk_the_row_and_its_file_are_both_there_or_neither(tmp_path):
    with Store(tmp_path / "count") as store, files.writing_to(files.FailingDisk()) as counting:
        put_file(store, b"rows")
    assert counting.operations >= 5
    for at in range(1, counting.operations + 1):
        with Store(tmp_path / str(at)) as store:
            with pytest.raises(OSError, match="No space left"), files.writing_to(files.FailingDisk(at, errno.ENOSPC)):
                put_file(store, b"rows")
            assert store.files(LOCAL_PROJECT).list() == []
            store.sweep()
            assert contents(store.folder) == []
            put_file(store, b"rows")  # and it works again when there is room
            assert len(contents(store.folder)) == 1


@pytest.mark.parametrize("moment", ["written", "renamed"])
def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path, moment):
    with Store(tmp_path) as store:
        kept = put_file(store, b"kept")
        killed = subprocess.run([sys.executable, "-c", KILLED_IN_BETWEEN, str(tmp_path), moment], check=False)
        assert killed.returncode == 9
        with store.blobs.receive(LOCAL_PROJECT) as incoming:
            incoming.write(b"on its way")
            assert store.sweep() == 1
            coming = store.files(LOCAL_PROJECT).add(incoming, filename="b", purpose="fine-tune")
        assert contents(store.folder) == sorted([kept.sha256, coming.sha256])
        assert store.sweep() == 0


def test_a_row_that_is_named_survives_every_sweep(store):
    queue = store.queue()
    _, claim = running(store, queue)
    save(store, queue, claim, 1)
    succeed(store, queue, claim)
    assert store.sweep() == 0
    for model in store.models(LOCAL_PROJECT).list():
        assert [path.name for path in store.models(LOCAL_PROJECT).folder(model).iterdir()] == ["adapter.safetensors"]


def test_only_the_newest_three_checkpoints_of_a_job_are_kept(store):
    queue = store.queue()
    job, claim = running(store, queue)
    for step in (10, 20, 30, 40, 50):
        save(store, queue, claim, step)
    save(store, queue, claim, 20)  # a resumed attempt comes by an old one again
    assert [point.step for point in store.jobs(LOCAL_PROJECT).checkpoints(job.id)] == [50, 40, 30]
    assert [model.step for model in store.models(LOCAL_PROJECT).list()] == [50, 40, 30]
    assert len(list(store.folder.glob("adapters/*/*"))) == 3


def test_a_deleted_model_takes_its_adapter_along_unless_another_has_the_same(store):
    queue = store.queue()
    for name in ("ft:one", "ft:two"):
        queued(store, queue)
        claim = queue.claim("worker", validating=False)
        assert claim is not None
        succeed(store, queue, claim, model=name)
    models = store.models(LOCAL_PROJECT)
    kept = models.get("ft:two")
    assert kept is not None
    assert models.delete("ft:one")
    assert (models.folder(kept) / "adapter.safetensors").is_file()
    assert models.delete("ft:two")
    assert not models.folder(kept).exists()
    assert models.get("ft:two") is None
    assert not models.delete("ft:two")
