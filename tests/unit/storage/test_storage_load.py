from __future__ import annotations

import pytest

from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.storage.store import Store
from store_load import load


@pytest.mark.parametrize(("seconds", "processes"), [(3, 2), pytest.param(120, 10, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_fifty_writers_and_fifty_readers_never_find_the_database_locked(tmp_path, seconds, processes):
    with Store(tmp_path) as store:
        outcome = load(tmp_path, seconds, processes, 50, 50)
        assert outcome["errors"] == []
        assert outcome["written"] == store.jobs(LOCAL_PROJECT).count() >= 50
        assert outcome["read"] >= 50  # type: ignore[operator]
        assert store.database.faults() == []
        log = tmp_path / "stepladder.sqlite3-wal"
        assert log.stat().st_size < 64 * 2**20
