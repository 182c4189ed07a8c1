"""A budget that outlives the process: one process at a time, and nothing is spent that cannot be written down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepladder import files
from stepladder.domain.errors import BudgetError
from stepladder.service.spending import WorkingPurse


def test_what_was_spent_counts_after_a_restart(tmp_path: Path) -> None:
    ledger = tmp_path / "run.serve.money.jsonl"
    first = WorkingPurse(2.0, ledger)
    first.settle(first.reserve(1.0), 0.75)
    first.reserve(1.0)  # never settled: its process was killed
    first.close()
    with pytest.raises(BudgetError, match=r"1.7500 of 2 USD are spent.*remove run\.serve\.money\.jsonl"):
        WorkingPurse(2.0, ledger).reserve(0.5)


def test_another_process_cannot_spend_from_the_same_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "run.serve.money.jsonl"
    script = (
        "import sys, pathlib; from stepladder.service.spending import WorkingPurse\n"
        "WorkingPurse(2.0, pathlib.Path(sys.argv[1])).reserve(1.0)"
    )

    def reserve_elsewhere() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, str(ledger)], capture_output=True, text=True, check=False, env={**os.environ}
        )

    purse = WorkingPurse(2.0, ledger)
    purse.reserve(0.5)
    assert "another process spends what run.serve.money.jsonl counts" in reserve_elsewhere().stderr
    purse.close()
    assert reserve_elsewhere().returncode == 0
    with pytest.raises(BudgetError, match=r"1.5000 of 2 USD"):
        WorkingPurse(2.0, ledger).reserve(0.6)


def test_a_purse_that_is_never_drawn_on_leaves_no_trace(tmp_path: Path) -> None:
    WorkingPurse(2.0, tmp_path / "run.chat.money.jsonl").close()
    assert not list(tmp_path.iterdir())


def test_where_the_ledger_cannot_be_kept_nothing_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files, "lock", refuse)
    with pytest.raises(BudgetError, match=r"cannot be kept in run\.serve\.money\.jsonl: Operation not permitted"):
        WorkingPurse(2.0, tmp_path / "run.serve.money.jsonl").reserve(1.0)
