"""What every test has: a home and answers of its own, so that no test enters its climbs into the index of whoever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def own_answers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads what another one asked: the answers that outlive a climb lie in a folder of its own."""
    folder = tmp_path_factory.mktemp("answers")
    monkeypatch.setenv("STEPLADDER_ANSWERS", str(folder))
    return folder
