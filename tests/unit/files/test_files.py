from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepladder import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


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
