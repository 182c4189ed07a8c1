"""kill -9 at random over server, worker and trainer: no job is lost, done twice or stuck, and each ends with the same bytes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from killed_jobs import Chaos
from service_jobs import outcome
from stepladder.domain.jobs import LOCAL_PROJECT, JobStatus
from stepladder.storage.store import Store
from tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden=32)


@pytest.fixture(autouse=True)
def as_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_DTYPE", "float32")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def uninterrupted(model: Path, tmp_path: Path) -> tuple[dict[str, object], float]:
    """What a job comes to, and how many seconds it takes from the start of the server."""
    started = time.monotonic()
    Chaos(tmp_path / "whole", model, 0, random.Random(0), jobs=1).run(seconds=1200)
    seconds = time.monotonic() - started
    with Store(tmp_path / "whole") as store:
        (job,) = store.jobs(LOCAL_PROJECT).list()
        return outcome(store, job.id), seconds


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.timeout(7200)
def test_no_kill_loses_doubles_or_changes_a_job(
    tmp_path: Path, model: Path, kills: int, uninterrupted: tuple[dict[str, object], float]
) -> None:
    expected, seconds = uninterrupted
    chaos = Chaos(tmp_path / "home", model, kills, random.Random(kills), longest_wait_seconds=0.8 * seconds)
    chaos.run(seconds=60.0 + 3 * seconds * kills)
    assert sum(chaos.struck.values()) == kills
    with Store(tmp_path / "home") as store:
        jobs = store.jobs(LOCAL_PROJECT).list(limit=1000)
        assert len(jobs) == chaos.jobs  # none lost, none created twice
        for job in jobs:
            assert job.status is JobStatus.SUCCEEDED, (job, chaos.struck)
            found = outcome(store, job.id)
            differing = [name for name, value in expected.items() if found[name] != value]
            assert differing == []
            events = store.jobs(LOCAL_PROJECT).events(job.id)
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            assert sum(event.message == "The job has successfully completed" for event in events) == 1
        assert len(store.files(LOCAL_PROJECT).list(purpose="fine-tune")) == chaos.jobs
        assert store.database.faults() == []
        store.sweep()
        assert store.sweep() == 0
        assert list((store.folder / "work").glob("*/*")) == []
