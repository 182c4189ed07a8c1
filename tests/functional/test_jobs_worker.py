"""The worker and its trainers as processes: cancelled, paused, stopped in order, and held up past their lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
import pytest

from filled_store import messages
from killed_jobs import children, trainers
from service_jobs import OPTIONS, QUICK, attempt, build_worker, create, known, outcome, wait_until
from stepladder.domain.jobs import LOCAL_PROJECT, Job, JobStatus
from stepladder.service.job_worker import Worker, WorkerOptions
from stepladder.service.worker_process import WorkerProcess
from stepladder.storage.store import Store
from tiny_model import build_tiny_model

pytestmark = pytest.mark.timeout(3600)  # a process loads torch first, which takes long on a busy machine
LONG = {**QUICK, "n_epochs": 50, "batch_size": 1}  # 600 steps, each of them saved: minutes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden=32)


@pytest.fixture(autouse=True)
def as_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_DTYPE", "float32")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home") as store:
        yield store


@contextmanager
def working(store: Store) -> Iterator[Worker]:
    """A worker in a thread; its trainers are processes."""
    worker = build_worker(store)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


@contextmanager
def worker_process(store: Store) -> Iterator[WorkerProcess]:
    process = WorkerProcess(store.folder, OPTIONS)
    process.ensure()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGCONT)
        process.stop()


def status(store: Store, job: Job) -> JobStatus:
    return known(store, job).status


def stepped(store: Store, job: Job) -> bool:
    return any(text.startswith("Step ") for text in messages(store, job))


def test_a_training_is_cancelled_paused_and_resumed_while_others_are_validated(store: Store, model: Path) -> None:
    jobs = store.jobs(LOCAL_PROJECT)
    with working(store):
        long = create(store, model, hyperparameters=LONG)
        wait_until(lambda: stepped(store, long))
        other = create(store, model)
        wait_until(lambda: status(store, other) is JobStatus.QUEUED)  # although one is training
        assert status(store, long) is JobStatus.RUNNING
        assert known(store, long).estimated_finish is not None

        jobs.pause(other.id)
        wait_until(lambda: len(trainers(os.getpid())) == 1)  # the validation's process is over
        (trainer,) = trainers(os.getpid())
        assert jobs.cancel(long.id).status is JobStatus.CANCELLED
        assert wait_until(lambda: trainer not in trainers(os.getpid())) < 2.0
        told = len(messages(store, long))

        assert jobs.resume(other.id).status is JobStatus.QUEUED
        wait_until(lambda: status(store, other) is JobStatus.SUCCEEDED)
        assert len(messages(store, long)) == told
        assert store.models(LOCAL_PROJECT).list()[0].job == other.id
        wait_until(lambda: not list((store.folder / "work").glob("*/*")))


def test_a_paused_training_goes_on_where_it_was_and_ends_the_same(store: Store, model: Path, tmp_path: Path) -> None:
    jobs = store.jobs(LOCAL_PROJECT)
    slow = {**QUICK, "n_epochs": 25}
    with working(store):
        whole = create(store, model, hyperparameters=slow, seed=1)
        wait_until(lambda: status(store, whole) is JobStatus.SUCCEEDED)
        job = create(store, model, hyperparameters=slow, seed=1)
        wait_until(lambda: stepped(store, job))
        assert jobs.pause(job.id).pausing
        wait_until(lambda: status(store, job) is JobStatus.PAUSED)
        wait_until(lambda: trainers(os.getpid()) == [])
        jobs.resume(job.id)
        wait_until(lambda: status(store, job) is JobStatus.SUCCEEDED)
    alike = {"weights", "table", "tokens", "resolved"}
    first, second = (outcome(store, each.id) for each in (whole, job))
    assert {name: first[name] for name in alike} == {name: second[name] for name in alike}
    assert [text for text in messages(store, job) if "pause" in text or "resume" in text] == [
        "Fine-tuning job paused",
        "Fine-tuning job resumed",
    ]


def test_a_worker_that_is_told_to_end_saves_its_training_and_puts_it_back(store: Store, model: Path) -> None:
    job = create(store, model, hyperparameters=LONG)
    with worker_process(store) as worker:
        assert not worker.ensure()
        wait_until(lambda: stepped(store, job))
        pid = worker.pid
        worker.stop()
    assert pid not in children(os.getpid())
    ended = known(store, job)
    assert (ended.status, ended.attempts) == (JobStatus.QUEUED, 0)
    (place,) = (store.folder / "work" / LOCAL_PROJECT / job.id).glob("*/adapter.checkpoints")
    assert list(place.glob("*/step-*"))


def test_a_second_signal_ends_a_worker_at_once(store: Store, model: Path) -> None:
    create(store, model)
    with worker_process(store) as worker:
        pid = worker.pid or 0
        wait_until(lambda: len(trainers(pid)) == 1)
        (trainer,) = trainers(pid)
        os.kill(trainer, signal.SIGSTOP)  # one that does not leave when it is told to
        try:
            os.kill(pid, signal.SIGTERM)
            time.sleep(1.0)
            assert pid in children(os.getpid())  # it gives its trainer time to save
            os.kill(pid, signal.SIGTERM)
            assert wait_until(lambda: pid not in children(os.getpid())) < 2.0
        finally:
            os.kill(trainer, signal.SIGKILL)


def test_a_worker_held_up_past_its_lease_writes_nothing_when_it_wakes(store: Store, model: Path) -> None:
    job = create(store, model, hyperparameters=LONG)
    with worker_process(store) as zombie:
        wait_until(lambda: stepped(store, job))
        stopped = [zombie.pid or 0, *trainers(zombie.pid or 0)]
        assert len(stopped) == 2
        freeze(store, stopped)
        first = known(store, job).token
        heir = store.queue(lease_seconds=600.0)
        claims = []

        def taken_over() -> bool:
            claim = heir.claim("heir", validating=False)
            claims.extend([claim] if claim else [])
            return claim is not None

        assert wait_until(taken_over) < OPTIONS.lease_seconds + 15
        before = store.database.read("SELECT * FROM jobs"), messages(store, job), store.jobs(LOCAL_PROJECT).checkpoints(job.id)
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        wait_until(lambda: trainers(zombie.pid or 0) == [])  # its trainer has left
        after = store.database.read("SELECT * FROM jobs"), messages(store, job), store.jobs(LOCAL_PROJECT).checkpoints(job.id)
        assert before == after
        assert claims[0].token == first + 1
        heir.check(claims[0])  # and it is still the heir's


def freeze(store: Store, processes: Sequence[int]) -> None:
    """Stop processes between their writes: one that is stopped inside a write holds every other writer up."""

    def stopped_outside_a_write() -> bool:
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        probe = apsw.Connection(str(store.database.path))
        probe.set_busy_timeout(1000)
        try:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
        except apsw.BusyError:
            for process in processes:
                os.kill(process, signal.SIGCONT)
            return False
        finally:
            probe.close()
        return True

    wait_until(stopped_outside_a_write)


def test_a_trainer_that_dies_every_time_fails_its_job_and_not_the_worker(store: Store, model: Path) -> None:
    loud = "import os, sys; sys.stdout.write('x' * 2**20); sys.stdout.flush(); os._exit(3)"  # more than a pipe takes
    broken = [sys.executable, "-c", loud]
    job = create(store, model)
    attempt(store, validating=True)
    worker = Worker(store, broken, WorkerOptions(OPTIONS.trainer, 4.0, 3))
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_until(lambda: status(store, job) is JobStatus.FAILED)
    worker.stop()
    thread.join()
    error = known(store, job).error
    assert error is not None
    assert error.code == "too_many_crashes"
    told = [text for text in messages(store, job) if "stopped without a word (exit code 3)" in text]
    assert len(told) == 3


def test_a_worker_leaves_when_its_server_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from stepladder.service.worker_process import WorkerProcess; "
        "worker = WorkerProcess(Path(sys.argv[1])); worker.ensure(); print(worker.pid, flush=True); sys.stdin.read()"
    )
    with Store(tmp_path / "home"):
        server = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "home")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        server.kill()
        server.communicate()
        wait_until(lambda: not Path(f"/proc/{worker}").exists() or "(python) Z" in Path(f"/proc/{worker}/stat").read_text())
