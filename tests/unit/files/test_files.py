from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepladder import files


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with files.writing_to(files.FailingDisk(at, errno.ENOSPC)), pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    def replace(content: str) -> None:
        with files.new_folder(tmp_path / "model") as folder:
            files.write_text(folder / "whole", content)

    replace("first")
    with files.writing_to(files.FailingDisk()) as counting:
        replace("second")
    for at in range(1, counting.operations + 1):
        replace("first")
        with files.writing_to(files.FailingDisk(at, errno.EIO)), pytest.raises(OSError, match="Input/output error"):
            replace("second")
        found = (tmp_path / "model" / "whole").read_text(encoding="utf-8")
        assert found == ("second" if at == counting.operations else "first")  # only the last entry was not yet durable
        assert [file.name for file in tmp_path.iterdir()] == ["model"]


KILLED = """
import os, sys
from pathlib import Path
from stepladder import files

class KilledAfterRename(files.Disk):
    left = int(sys.argv[2])

    def rename(self, old, new):
        super().rename(old, new)
        self.left -= 1
        if self.left == 0:
            os._exit(9)

with files.writing_to(KilledAfterRename()), files.new_folder(Path(sys.argv[1])) as folder:
    (folder / "whole").write_text("second", encoding="utf-8")
"""


def replaced_and_killed(path: Path, *, after_rename: int) -> None:
    """A process that replaces the folder `path` and is gone behind one of its renames."""
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), str(after_rename)], check=False).returncode == 9


@pytest.mark.parametrize("name", ["model", "model.v1", "mo[d]el"])
def test_a_kill_between_the_two_renames_of_an_exchange_loses_neither_folder(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.mkdir()
    (target / "whole").write_text("first", encoding="utf-8")
    replaced_and_killed(target, after_rename=1)
    assert not target.exists()
    with pytest.raises(RuntimeError), files.new_folder(target):
        assert (target / "whole").read_text(encoding="utf-8") == "second"  # it was whole when the first one was moved away
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == [name]
    replaced_and_killed(target, after_rename=2)
    files.finish_exchange(target)
    assert (target / "whole").read_text(encoding="utf-8") == "second"


def test_an_old_folder_whose_successor_is_gone_comes_back(tmp_path: Path) -> None:
    target, other = tmp_path / "model", tmp_path / ".model.b.abcd1234.old.tmp"
    files.finish_exchange(tmp_path / "nowhere" / "model")
    target.mkdir()
    other.mkdir()  # of `model.b`: none of ours
    replaced_and_killed(target, after_rename=1)
    (new,) = (path for path in tmp_path.glob(".model.*.tmp") if not path.name.endswith(".old.tmp"))
    shutil.rmtree(new)
    files.finish_exchange(target)
    assert sorted(tmp_path.iterdir()) == [other, target]
    with files.new_folder(target) as folder:
        assert other.is_dir()
        assert folder.is_dir()


def test_a_failing_line_is_torn_and_the_lines_around_it_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.append_line(path, "one")
    with files.writing_to(files.FailingDisk(1, errno.ENOSPC)), pytest.raises(OSError, match="No space"):
        files.append_line(path, "a longer line")
    assert list(files.read_lines(path)) == ["one"]
    files.append_line(path, "three")
    assert [line for line in files.read_lines(path) if line in ("one", "three")] == ["one", "three"]


def test_the_disk_is_the_real_one_again_after_a_failing_one(tmp_path: Path) -> None:
    real = files.disk()
    with pytest.raises(OSError, match="No space"), files.writing_to(files.FailingDisk(1, errno.ENOSPC)):
        files.write_text(tmp_path / "a", "x")
    assert files.disk() is real
    assert files.disk().free_bytes(tmp_path) > 0
    assert files.FailingDisk(free_bytes=7).free_bytes(tmp_path) == 7


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(RuntimeError), files.new_folder(target) as folder:
        (folder / "half").write_text("x", encoding="utf-8")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with files.new_folder(target) as folder:
            (folder / "whole").write_text(content, encoding="utf-8")
        assert (target / "whole").read_text(encoding="utf-8") == content
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_torn_last_line_is_left_out_and_harms_no_later_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.append_line(path, '{"a": 1}')
    with path.open("ab") as file:
        file.write(b'{"torn')
    assert list(files.read_lines(path)) == ['{"a": 1}']
    files.append_line(path, '{"b": 2}')
    assert list(files.read_lines(path))[-1] == '{"b": 2}'
    assert list(files.read_lines(tmp_path / "none")) == []


def test_equal_json_has_one_hash_whatever_its_key_order() -> None:
    assert files.hash_json({"a": 1, "b": [2]}) == files.hash_json(json.loads('{"b": [2], "a": 1}'))
    assert files.hash_json({"a": 1}) != files.hash_json({"a": 2})


def test_a_lock_keeps_a_second_process_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"from stepladder import files; from pathlib import Path\nwith files.lock(Path({str(path)!r})): pass"
    with files.lock(path):
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Locked" in held.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
