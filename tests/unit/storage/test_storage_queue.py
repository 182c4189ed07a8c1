"""Claims, leases and fencing tokens: who may write, and who only believes so."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from filled_store import messages, put_job, queued, running, save, succeed
from stepladder.domain.jobs import LOCAL_PROJECT, JobError, JobStatus, NewEvent
from stepladder.storage.clock import Clock
from stepladder.storage.queue import Claim, LostClaim, Queue
from stepladder.storage.store import Store


@dataclass
class Hands:
    """The hands of two clocks, set by the test."""

    wall: float = 1_800_000_000.0
    since_boot: float = 5_000.0
    boot: str = "first start"

    def clock(self, skew_seconds: float = 0.0) -> Clock:
        return Clock(lambda: self.wall + skew_seconds, lambda: self.since_boot, self.boot)


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def store(tmp_path, hands):
    with Store(tmp_path / "home", clock=hands.clock()) as store:
        yield store


@pytest.fixture
def queue(store):
    return store.queue()


def writes(store: Store, queue: Queue, claim: Claim):
    """Everything a worker can write."""
    return [
        lambda: queue.heartbeat(claim),
        lambda: queue.check(claim),
        lambda: queue.job(claim),
        lambda: queue.record(claim, [NewEvent("late")], estimated_finish=1),
        lambda: queue.validated(claim),
        lambda: queue.advanced(claim, 10),
        lambda: save(store, queue, claim, 10),
        lambda: succeed(store, queue, claim),
        lambda: queue.fail(claim, JobError("late", "late")),
        lambda: queue.paused(claim),
        lambda: queue.release(claim),
    ]


def refuses_everything(store: Store, queue: Queue, claim: Claim) -> None:
    """No write of this claim changes anything."""
    before = [store.database.read(f"SELECT * FROM {table}") for table in ("jobs", "events", "checkpoints", "models", "files")]
    for write in writes(store, queue, claim):
        with pytest.raises(LostClaim, match=f"Job {claim.job} is no longer this worker's"):
            write()
    after = [store.database.read(f"SELECT * FROM {table}") for table in ("jobs", "events", "checkpoints", "models", "files")]
    assert before == after
    assert store.sweep() == 0


def test_a_job_goes_from_validation_to_success(store, queue):
    job, claim = running(store, queue)
    queue.record(claim, [NewEvent("Step 1/2", type="metrics", data={"step": 1}, key="step 1")], resolved={"n_epochs": 2})
    save(store, queue, claim, 2)
    done = succeed(store, queue, claim)
    assert done == store.jobs(LOCAL_PROJECT).get(job.id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == (JobStatus.SUCCEEDED, "ft:tiny", 7)
    assert done.resolved == {"n_epochs": 2}
    assert [point.model for point in store.jobs(LOCAL_PROJECT).checkpoints(job.id)] == ["ft:tiny"]
    assert {model.name for model in store.models(LOCAL_PROJECT).list()} == {"ft:tiny", "ft:tiny:ckpt-step-2"}
    (result,) = done.result_files
    file = store.files(LOCAL_PROJECT).get(result)
    assert file is not None
    assert (file.filename, file.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert messages(store, job) == [
        f"Created fine-tuning job: {job.id}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/2",
        "Checkpoint created at step 2 with Snapshot ID: ft:tiny:ckpt-step-2",
        "New fine-tuned model created: ft:tiny",
        "The job has successfully completed",
    ]


def test_the_oldest_job_comes_first_and_each_only_once(store, queue):
    jobs = [queued(store, queue) for _ in range(3)]
    claims = [queue.claim("worker", validating=False) for _ in range(4)]
    assert [claim and claim.job for claim in claims] == [*(job.id for job in jobs), None]


def test_a_job_that_is_not_validated_is_no_work_for_trainers(store, queue):
    put_job(store)
    assert queue.claim("trainer", validating=False) is None
    assert queue.claim("validator", validating=True) is not None
    assert queue.claim("validator", validating=True) is None


def test_a_job_whose_worker_is_silent_is_taken_over_and_the_first_worker_writes_nothing(store, queue, hands):
    job, zombie = running(store, queue)
    hands.since_boot += 59
    assert queue.claim("other", validating=False) is None
    hands.since_boot += 2
    heir = queue.claim("other", validating=False)
    assert heir is not None
    assert (heir.job, heir.token) == (job.id, zombie.token + 1)
    refuses_everything(store, queue, zombie)
    assert succeed(store, queue, heir).status is JobStatus.SUCCEEDED
    refuses_everything(store, queue, zombie)
    refuses_everything(store, queue, heir)


def test_a_heartbeat_keeps_the_job(store, queue, hands):
    _, claim = running(store, queue)
    for _ in range(20):
        hands.since_boot += 50
        assert queue.heartbeat(claim) is False
        assert queue.claim("other", validating=False) is None


@pytest.mark.parametrize("jump_seconds", [3600.0, -3600.0, 10 * 365 * 86400.0])
def test_setting_the_wall_clock_neither_ends_a_lease_nor_keeps_one(store, queue, hands, jump_seconds):
    _, claim = running(store, queue)
    hands.wall += jump_seconds
    assert queue.claim("other", validating=False) is None
    queue.heartbeat(claim)
    hands.since_boot += 61
    assert queue.claim("other", validating=False) is not None


@pytest.mark.parametrize("skew_seconds", [600.0, -600.0])
def test_workers_whose_clocks_disagree_share_no_job(store, queue, hands, skew_seconds):
    running(store, queue)
    with Store(store.folder, clock=hands.clock(skew_seconds)) as other:
        assert other.queue().claim("other", validating=False) is None
        hands.since_boot += 61
        assert other.queue().claim("other", validating=False) is not None
        assert queue.claim("worker", validating=False) is None


def test_a_restart_of_the_machine_ends_every_lease(store, queue, hands):
    running(store, queue)
    hands.since_boot, hands.boot = 3.0, "second start"
    with Store(store.folder, clock=hands.clock()) as after:
        assert after.queue().claim("worker", validating=False) is not None


def test_a_restart_shows_in_the_clock_where_the_system_names_no_starts(tmp_path):
    hands = Hands(boot="")
    with Store(tmp_path, clock=hands.clock()) as before:
        running(before, before.queue())
    hands.since_boot = 3.0
    with Store(tmp_path, clock=hands.clock()) as after:
        assert after.queue().claim("worker", validating=False) is not None


def test_a_cancelled_job_is_lost_to_its_worker(store, queue):
    job, claim = running(store, queue)
    assert store.jobs(LOCAL_PROJECT).cancel(job.id).status is JobStatus.CANCELLED
    refuses_everything(store, queue, claim)
    assert queue.claim("other", validating=False) is None


def test_a_cancelled_validation_is_lost_too(store, queue):
    job = put_job(store)
    claim = queue.claim("validator", validating=True)
    assert claim is not None
    store.jobs(LOCAL_PROJECT).cancel(job.id)
    refuses_everything(store, queue, claim)


def test_a_pause_is_told_with_the_heartbeat_and_kept_until_somebody_resumes(store, queue):
    job, claim = running(store, queue)
    jobs = store.jobs(LOCAL_PROJECT)
    assert jobs.pause(job.id).pausing
    assert queue.heartbeat(claim) is True
    assert queue.check(claim) is True
    queue.paused(claim)
    paused = jobs.get(job.id)
    assert paused is not None
    assert (paused.status, paused.pausing) == (JobStatus.PAUSED, False)
    assert queue.claim("other", validating=False) is None
    refuses_everything(store, queue, claim)
    assert jobs.resume(job.id).status is JobStatus.QUEUED
    assert queue.claim("other", validating=False) is not None


def test_a_pause_waits_for_no_worker_that_is_gone(store, queue, hands):
    job, _ = running(store, queue)
    store.jobs(LOCAL_PROJECT).pause(job.id)
    hands.since_boot += 61
    assert queue.claim("other", validating=False) is None
    known = store.jobs(LOCAL_PROJECT).get(job.id)
    assert known is not None
    assert known.status is JobStatus.PAUSED


def test_a_pause_taken_back_in_time_stops_nothing(store, queue):
    job, claim = running(store, queue)
    store.jobs(LOCAL_PROJECT).pause(job.id)
    assert store.jobs(LOCAL_PROJECT).resume(job.id).status is JobStatus.RUNNING
    assert queue.heartbeat(claim) is False


def test_a_job_paused_before_its_validation_is_validated_when_it_goes_on(store, queue):
    job = put_job(store)
    claim = queue.claim("validator", validating=True)
    assert claim is not None
    assert store.jobs(LOCAL_PROJECT).pause(job.id).status is JobStatus.PAUSED
    refuses_everything(store, queue, claim)
    assert store.jobs(LOCAL_PROJECT).resume(job.id).status is JobStatus.VALIDATING
    assert queue.claim("validator", validating=True) is not None


def test_a_job_that_crashes_without_coming_forward_fails_with_advice(store, hands):
    queue = store.queue(most_attempts=3)
    job, claim = running(store, queue)
    for _ in range(2):
        queue.release(claim, crashed=True)
        found = queue.claim("worker", validating=False)
        assert found is not None
        claim = found
    hands.since_boot += 61  # the third time the worker dies with it
    assert queue.claim("worker", validating=False) is None
    failed = store.jobs(LOCAL_PROJECT).get(job.id)
    assert failed is not None
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "too_many_crashes"
    assert "3 times in a row" in failed.error.message
    assert "Try a smaller model" in failed.error.message


def test_a_job_that_comes_forward_may_be_interrupted_for_ever(store):
    queue = store.queue(most_attempts=2)
    _, claim = running(store, queue)
    for step in range(1, 12):
        queue.advanced(claim, step)
        queue.release(claim, crashed=True)
        found = queue.claim("worker", validating=False)
        assert found is not None
        claim = found


def test_a_worker_that_leaves_in_order_counts_as_no_crash(store):
    queue = store.queue(most_attempts=2)
    _, claim = running(store, queue)
    for _ in range(10):
        queue.release(claim)
        found = queue.claim("worker", validating=False)
        assert found is not None
        claim = found


def test_a_failed_job_says_why(store, queue):
    job = put_job(store)
    claim = queue.claim("validator", validating=True)
    assert claim is not None
    queue.fail(claim, JobError("invalid_file_format", "Line 3 is no JSON.", "training_file"), [NewEvent("first")])
    failed = store.jobs(LOCAL_PROJECT).get(job.id)
    assert failed is not None
    assert failed.error == JobError("invalid_file_format", "Line 3 is no JSON.", "training_file")
    assert failed.finished_at is not None
    assert messages(store, job)[-2:] == ["first", "The job failed: Line 3 is no JSON."]


def race(store: Store, queue: Queue, claim: Claim) -> list[str]:
    """A cancel and a success at the same moment; what each came to."""
    outcomes: list[str] = []
    ready = threading.Barrier(2)

    def cancel() -> None:
        ready.wait()
        try:
            outcomes.append(store.jobs(LOCAL_PROJECT).cancel(claim.job).status)
        except Exception:
            outcomes.append("refused")

    def finish() -> None:
        ready.wait()
        try:
            outcomes.append(succeed(store, queue, claim, model=f"ft:{claim.job}").status)
        except LostClaim:
            outcomes.append("refused")

    threads = [threading.Thread(target=act) for act in (cancel, finish)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("races", [30, pytest.param(1000, marks=pytest.mark.long)])
def test_of_a_cancel_and_a_success_at_once_exactly_one_holds(store, queue, races):
    for _ in range(races):
        job, claim = running(store, queue)
        outcomes = race(store, queue, claim)
        assert sorted(outcomes, key=lambda outcome: outcome == "refused")[1] == "refused"
        known = store.jobs(LOCAL_PROJECT).get(job.id)
        assert known is not None
        assert known.status in outcomes
        assert (known.fine_tuned_model is not None) == (known.status is JobStatus.SUCCEEDED)
        last = messages(store, job)[-1]
        assert last == {
            JobStatus.SUCCEEDED: "The job has successfully completed",
            JobStatus.CANCELLED: "Fine-tuning job cancelled",
        }.get(known.status)


@pytest.mark.parametrize("jobs", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_eight_workers_claim_every_job_exactly_once(tmp_path, jobs):
    with Store(tmp_path / "home") as store:
        with store.database.write() as connection:
            for number in range(jobs):
                connection.execute(
                    "INSERT INTO jobs (id, project, status, request, created_at) VALUES (?, 'proj_local', 'queued', ?, 1)",
                    (f"ftjob-{number}", '{"model": "tiny", "training_file": "f"}'),
                )
        claimed: list[str] = []

        def work(number: int) -> None:
            with Store(store.folder) as own:
                queue = own.queue()
                while True:
                    claim = queue.claim(f"worker {number}", validating=False)
                    if claim is None:
                        return
                    claimed.append(claim.job)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claimed) == sorted(f"ftjob-{number}" for number in range(jobs))
        tokens = store.database.read("SELECT DISTINCT token, attempts FROM jobs")
        assert tokens == [{"token": 1, "attempts": 1}]
