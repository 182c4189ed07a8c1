"""`stepladder check` as a user meets it: exit codes, what stands on stdout, what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.starter

WORDS = "tea rain ships bread glass winter clocks paint maps owls salt doors rope ink wool".split()
TOML = 'name = "t"\ninstruction = "Answer."\n[model]\nbase = "fake"\n[data]\nexamples = "rows.jsonl"\n'


def stepladder(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)


def write(folder: Path, extra: str = "") -> None:
    rows = [
        {
            "prompt": f"What goes with {WORDS[n % 15]} and {WORDS[(n * 4 + 3) % 15]} at fair {n * 7}?",
            "completion": WORDS[n * 2 % 15],
        }
        for n in range(40)
    ]
    (folder / "task.toml").write_text(TOML, encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + extra, encoding="utf-8")


def test_data_without_a_blocking_fault_exits_0_and_says_how_many_rows(tmp_path: Path) -> None:
    write(tmp_path)
    done = stepladder("check", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("40 rows")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "task.toml"]


def test_every_broken_row_is_named_the_exit_code_is_3_and_fix_drops_them(tmp_path: Path) -> None:
    write(tmp_path, '{broken\n{"prompt": "What goes with moss at fair 900?", "completion": ""}\n')
    done = stepladder("check", tmp_path, "--fix", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    lines = {one["code"]: [row["line"] for row in one["rows"]] for one in found["findings"]}
    assert (lines["broken-row"], lines["empty"]) == ([41], [42])
    assert found["blocked"] is True
    (copy,) = found["fixed"]
    assert len(Path(copy["path"]).read_text(encoding="utf-8").splitlines()) == 40
    shown = stepladder("check", tmp_path)
    assert "rows.jsonl:41" in shown.stdout
    assert "\x1b[" not in shown.stdout


def test_no_task_exits_3(tmp_path: Path) -> None:
    assert stepladder("check", tmp_path).returncode == 3
