from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_answers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads what another one asked: the answers that outlive a climb lie in a folder of its own."""
    folder = tmp_path_factory.mktemp("answers")
    monkeypatch.setenv("STEPLADDER_ANSWERS", str(folder))
    return folder
