"""The tables that say which test holds which promise name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[2] / "docs" / "explanation" / "killed-training.md"


def test_every_test_that_the_page_names_is_one_of_this_room() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", PAGE.read_text(encoding="utf-8")))
    defined = {name for path in HERE.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M)}
    assert len(named) > 30
    assert named - defined == set()


def test_every_planted_fault_stands_on_the_page() -> None:
    """Beside those that find a fault, the file has tests of what is no fault, and of how something is measured."""
    planted = re.findall(r"^def (test_\w+)", (HERE / "test_training_planted_faults.py").read_text("utf-8"), re.M)
    kinds = {name.partition("__")[0] for name in planted if "__" in name}
    page = PAGE.read_text(encoding="utf-8")
    assert [kind for kind in sorted(kinds) if f"`{kind}__" not in page] == []
