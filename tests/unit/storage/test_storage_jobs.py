"""Jobs as their users see them: pages, events without a gap, and nothing of other projects."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from filled_store import put_file, put_job, queued, running, save, succeed
from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import LOCAL_PROJECT, JobError, JobRequest, JobStatus, NewEvent
from stepladder.storage.clock import Clock
from stepladder.storage.queue import Claim, LostClaim
from stepladder.storage.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "home") as store:
        yield store


def test_a_request_comes_back_as_it_was_given(store):
    request = JobRequest(
        model="smollm2-135m-instruct",
        training_file="file-1",
        requested_model="gpt-4o-mini-2024-07-18",
        validation_file="file-2",
        start="ft:x",
        suffix="größer",
        seed=42,
        method="dpo",
        hyperparameters={"n_epochs": "auto", "beta": 0.1, "lora_rank": 8},
        integrations=({"type": "wandb", "wandb": {"project": "p"}},),
        metadata={"a": "", "b": "ü"},
    )
    job = store.jobs(LOCAL_PROJECT).create(request)
    assert job.request == request
    assert store.jobs(LOCAL_PROJECT).get(job.id) == job
    assert job.status is JobStatus.VALIDATING


def test_the_same_idempotency_key_gives_the_same_job_and_file(store):
    jobs = store.jobs(LOCAL_PROJECT)
    request = JobRequest("tiny", "file-1")
    first = jobs.create(request, idempotency_key="k")
    assert jobs.create(request, idempotency_key="k") == first
    assert jobs.create(request, idempotency_key="other").id != first.id
    assert jobs.create(request).id != jobs.create(request).id
    files = []
    for _ in range(2):
        with store.blobs.receive(LOCAL_PROJECT) as incoming:
            incoming.write(b"rows")
            files.append(store.files(LOCAL_PROJECT).add(incoming, filename="a", purpose="fine-tune", idempotency_key="k"))
    assert files[0] == files[1]
    other = store.keys.create_project("other").id
    assert store.jobs(other).create(request, idempotency_key="k").id != first.id


def test_pages_of_jobs_are_newest_first_without_gap_or_repeat(store):
    made = [put_job(store).id for _ in range(7)]
    jobs, seen, after = store.jobs(LOCAL_PROJECT), [], None
    while page := jobs.list(after=after, limit=3):
        seen += [job.id for job in page]
        after = seen[-1]
    assert seen == made[::-1]
    with pytest.raises(UsageError, match="Could not find fine tune: ftjob-x"):
        jobs.list(after="ftjob-x")


def test_jobs_are_found_by_their_metadata(store):
    both = put_job(store, metadata={"team": "a", "note": ""})
    one = put_job(store, metadata={"team": "a"})
    bare = put_job(store)
    jobs = store.jobs(LOCAL_PROJECT)
    assert [job.id for job in jobs.list(metadata={"team": "a"})] == [one.id, both.id]
    assert [job.id for job in jobs.list(metadata={"team": "a", "note": ""})] == [both.id]
    assert jobs.list(metadata={"team' OR 1=1 --": "a"}) == []
    assert [job.id for job in jobs.list(without_metadata=True)] == [bare.id]


def test_events_can_be_read_on_from_any_number_without_gap_or_repeat(store):
    queue = store.queue()
    job, claim = running(store, queue)
    for step in range(40):
        queue.record(claim, [NewEvent(f"Step {step}", key=f"step {step}"), NewEvent(f"Step {step}", key=f"step {step}")])
    jobs = store.jobs(LOCAL_PROJECT)
    whole = jobs.events(job.id)
    assert [event.sequence for event in whole] == list(range(1, len(whole) + 1))
    assert [event.message for event in whole[3:]] == [f"Step {step}" for step in range(40)]
    for start in range(len(whole) + 1):
        read, last = [], start
        while page := jobs.events(job.id, after=last, limit=7):
            read += page
            last = page[-1].sequence
        assert read == whole[start:]
    newest = jobs.events(job.id, newest_first=True, limit=5)
    assert newest == whole[::-1][:5]
    known = jobs.event(job.id, newest[-1].id)
    assert known is not None
    assert jobs.events(job.id, newest_first=True, before=known.sequence, limit=5) == whole[::-1][5:10]


def test_events_are_never_changed_or_deleted(store):
    put_job(store)
    for sql in ("UPDATE events SET message = 'other'", "DELETE FROM events"):
        with pytest.raises(apsw.ConstraintError, match="events are never"), store.database.write() as connection:
            connection.execute(sql)


def test_a_finished_job_is_neither_cancelled_nor_paused_nor_resumed(store):
    queue = store.queue()
    job, claim = running(store, queue)
    succeed(store, queue, claim)
    jobs = store.jobs(LOCAL_PROJECT)
    for act, word in ((jobs.cancel, "cancelled"), (jobs.pause, "paused"), (jobs.resume, "resumed")):
        with pytest.raises(UsageError, match=f"cannot be {word}: its status is succeeded"):
            act(job.id)
        with pytest.raises(UsageError, match="Could not find fine tune: ftjob-x"):
            act("ftjob-x")


def test_only_a_paused_job_is_resumed(store):
    job = put_job(store)
    with pytest.raises(UsageError, match="is not paused; its status is validating_files"):
        store.jobs(LOCAL_PROJECT).resume(job.id)


def test_pages_of_checkpoints_begin_with_the_latest_step(store):
    queue = store.queue()
    job, claim = running(store, queue)
    for step in (1, 2, 3):
        save(store, queue, claim, step)
    jobs = store.jobs(LOCAL_PROJECT)
    first = jobs.checkpoints(job.id, limit=2)
    assert [point.step for point in first] == [3, 2]
    assert [point.step for point in jobs.checkpoints(job.id, after=first[-1].id)] == [1]
    with pytest.raises(UsageError, match="No such checkpoint"):
        jobs.checkpoints(job.id, after="ftckpt_x")


def test_a_checkpoint_is_used_by_those_it_was_granted_to(store):
    queue = store.queue()
    _, claim = running(store, queue)
    save(store, queue, claim, 1)
    own, friend, stranger = store.models(LOCAL_PROJECT), *(store.keys.create_project(name).id for name in ("friend", "stranger"))
    (model,) = own.list()
    (granted,) = own.permit(model.name, [friend])
    assert own.permit(model.name, [friend]) == [granted]
    assert store.models(friend).get(model.name) == model
    assert store.models(stranger).get(model.name) is None
    assert store.models(friend).list() == []
    assert own.permissions(model.name) == [granted]
    assert own.permissions(model.name, granted_to=stranger) == []
    assert store.models(friend).permissions(model.name) == []
    with pytest.raises(UsageError, match="does not exist"):
        store.models(friend).permit(model.name, [stranger])
    with pytest.raises(UsageError, match="There is no project"):
        own.permit(model.name, ["proj_none"])
    assert own.forbid(model.name, granted.id)
    assert store.models(friend).get(model.name) is None


def test_an_upload_in_parts_becomes_one_file(store):
    files = store.files(LOCAL_PROJECT)
    upload = files.create_upload(filename="a.jsonl", purpose="fine-tune", bytes=6, mime_type="text/plain")
    parts = []
    for content in (b"one", b"two"):
        with store.blobs.receive(LOCAL_PROJECT) as incoming:
            incoming.write(content)
            parts.append(files.add_part(upload.id, incoming))
    assert files.parts(upload.id) == parts
    assert files.bytes_used() == 6
    with store.blobs.receive(LOCAL_PROJECT) as whole:
        files.join_parts(parts[::-1], whole)
        done = files.complete_upload(upload.id, whole)
    assert done.status == "completed"
    assert done.file is not None
    file = files.get(done.file)
    assert file is not None
    with files.open(file) as content:
        assert content.read() == b"twoone"
    assert files.parts(upload.id) == []
    assert len(list(store.folder.glob("files/*/*/*"))) == 1
    with pytest.raises(UsageError, match="is completed"):
        files.cancel_upload(upload.id)


def test_an_upload_of_another_size_is_refused_and_stays_open(store):
    files = store.files(LOCAL_PROJECT)
    upload = files.create_upload(filename="a", purpose="fine-tune", bytes=6, mime_type="text/plain")
    with store.blobs.receive(LOCAL_PROJECT) as whole:
        whole.write(b"short")
        with pytest.raises(UsageError, match="5 bytes together; 6 were announced"):
            files.complete_upload(upload.id, whole)
    assert files.list() == []
    assert files.cancel_upload(upload.id).status == "cancelled"


def test_an_expired_file_and_an_expired_upload_are_gone(tmp_path):
    now = [1_800_000_000.0]
    with Store(tmp_path, clock=Clock(wall=lambda: now[0])) as store:
        files = store.files(LOCAL_PROJECT)
        with store.blobs.receive(LOCAL_PROJECT) as incoming:
            incoming.write(b"x")
            file = files.add(incoming, filename="a", purpose="fine-tune", lifetime_seconds=3600)
        upload = files.create_upload(filename="a", purpose="fine-tune", bytes=6, mime_type="text/plain")
        assert files.get(file.id) == file
        now[0] += 3601
        assert files.get(file.id) is None
        assert files.list() == []
        late = files.get_upload(upload.id)
        assert late is not None
        assert late.status == "expired"
        with store.blobs.receive(LOCAL_PROJECT) as incoming, pytest.raises(UsageError, match="is expired"):
            files.add_part(upload.id, incoming)


def test_what_has_expired_takes_no_room_and_leaves_the_disk(tmp_path):
    now = [1_800_000_000.0]
    with Store(tmp_path, clock=Clock(wall=lambda: now[0])) as store:
        files = store.files(LOCAL_PROJECT)

        def put(content, **more):
            with store.blobs.receive(LOCAL_PROJECT) as incoming:
                incoming.write(content)
                return files.add(incoming, filename="a", purpose="fine-tune", **more)

        kept, needed = put(b"kept"), put(b"needed", lifetime_seconds=3600)
        gone = put(b"expires", lifetime_seconds=3600)
        upload = files.create_upload(filename="a", purpose="fine-tune", bytes=6, mime_type="text/plain")
        with store.blobs.receive(LOCAL_PROJECT) as incoming:
            incoming.write(b"part")
            part = files.add_part(upload.id, incoming)
        job = store.jobs(LOCAL_PROJECT).create(JobRequest("tiny", needed.id))
        files.forget_expired()
        assert files.bytes_used() == 21
        now[0] += 3601
        files.forget_expired()
        assert files.bytes_used() == len(b"kept") + len(b"needed")
        assert not any(store.blobs.path(LOCAL_PROJECT, one.sha256).exists() for one in (gone, part))
        assert files.held(needed.id) == needed  # its job is not over
        store.jobs(LOCAL_PROJECT).cancel(job.id)
        store.sweep()
        assert files.held(needed.id) is None
        assert [file.id for file in files.list()] == [kept.id]


@pytest.mark.parametrize("kind", ["training_file", "validation_file"])
def test_a_file_is_not_deleted_under_a_job_that_is_not_over(store, kind):
    files, jobs = store.files(LOCAL_PROJECT), store.jobs(LOCAL_PROJECT)
    ids = {}
    for name in ("training_file", "validation_file"):
        with store.blobs.receive(LOCAL_PROJECT) as incoming:
            incoming.write(name.encode())
            ids[name] = files.add(incoming, filename="a", purpose="fine-tune").id
    job = jobs.create(JobRequest("tiny", **ids))
    with pytest.raises(UsageError, match=f"is a file of the job {job.id}, which is not over"):
        files.delete(ids[kind])
    jobs.cancel(job.id)
    assert files.delete(ids[kind])


class Tenants(RuleBasedStateMachine):
    """Three projects do everything they can; none ever sees or changes what is another's."""

    @initialize()
    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self._folder.name))
        self.queue = self.store.queue()
        self.projects = [LOCAL_PROJECT, *(self.store.keys.create_project(name).id for name in "ab")]
        self.files: dict[str, str] = {}
        self.jobs: dict[str, str] = {}
        self.final: dict[str, JobStatus] = {}
        self.claims: list[Claim] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self._folder.cleanup()

    @rule(who=st.integers(0, 2), content=st.sampled_from([b"one", b"two"]))
    def upload(self, who: int, content: bytes) -> None:
        self.files[put_file(self.store, content, project=self.projects[who]).id] = self.projects[who]

    @rule(who=st.integers(0, 2))
    def create(self, who: int) -> None:
        self.jobs[queued_by(self.store, self.projects[who])] = self.projects[who]

    @rule(who=st.integers(0, 2), pick=st.integers(0, 50))
    def delete_file(self, who: int, pick: int) -> None:
        if not self.files:
            return
        file = sorted(self.files)[pick % len(self.files)]
        owned = self.files[file] == self.projects[who]
        assert self.store.files(self.projects[who]).delete(file) == owned
        if owned:
            del self.files[file]

    @rule(who=st.integers(0, 2), pick=st.integers(0, 50), act=st.sampled_from(["cancel", "pause", "resume"]))
    def change(self, who: int, pick: int, act: str) -> None:
        if not self.jobs:
            return
        job = sorted(self.jobs)[pick % len(self.jobs)]
        before = self.store.jobs(self.jobs[job]).get(job)
        try:
            getattr(self.store.jobs(self.projects[who]), act)(job)
            assert self.jobs[job] == self.projects[who]
        except UsageError:
            assert self.store.jobs(self.jobs[job]).get(job) == before

    @rule(validating=st.booleans())
    def claim(self, validating: bool) -> None:
        claim = self.queue.claim("worker", validating=validating)
        if claim is not None:
            assert self.jobs[claim.job] == claim.project
            self.claims.append(claim)

    @rule(pick=st.integers(0, 50), act=st.sampled_from(["validated", "succeed", "fail", "paused", "release", "crash"]))
    def work(self, pick: int, act: str) -> None:
        if not self.claims:
            return
        claim = self.claims[pick % len(self.claims)]
        before = self.store.jobs(claim.project).get(claim.job)
        try:
            if act == "validated":
                self.queue.validated(claim)
            elif act == "succeed":
                succeed(self.store, self.queue, claim, model=f"ft:{claim.job}")
            elif act == "fail":
                self.queue.fail(claim, JobError("server_error", "x"))
            elif act == "paused":
                self.queue.paused(claim)
            else:
                self.queue.release(claim, crashed=act == "crash")
        except LostClaim:
            assert self.store.jobs(claim.project).get(claim.job) == before

    @invariant()
    def each_sees_its_own_and_nothing_ends_twice(self) -> None:
        if not hasattr(self, "store"):
            return
        for project in self.projects:
            assert {file.id for file in self.store.files(project).list(purpose="fine-tune")} == {
                file for file, owner in self.files.items() if owner == project
            }
            jobs = self.store.jobs(project).list(limit=1000)
            assert {job.id for job in jobs} == {job for job, owner in self.jobs.items() if owner == project}
            for job in jobs:
                assert self.final.get(job.id, job.status) is job.status
                if job.status.final:
                    self.final[job.id] = job.status
                events = self.store.jobs(project).events(job.id)
                assert [event.sequence for event in events] == list(range(1, len(events) + 1))
                assert all(not self.store.jobs(other).events(job.id) for other in self.projects if other != project)


def queued_by(store: Store, project: str) -> str:
    return store.jobs(project).create(JobRequest("tiny", "file-1")).id


Tenants.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
test_three_projects_never_see_each_other = Tenants.TestCase


@pytest.mark.long
class TestThreeProjectsForLong(Tenants.TestCase):
    settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_ten_thousand_jobs_are_listed_in_a_moment(store):
    with store.database.write() as connection:
        for number in range(10_000):
            connection.execute(
                "INSERT INTO jobs (id, project, status, request, created_at) VALUES (?, 'proj_local', 'cancelled', ?, 1)",
                (f"ftjob-{number}", '{"model": "tiny", "training_file": "f", "metadata": {"a": "b"}}'),
            )
    started = time.process_time()
    assert len(store.jobs(LOCAL_PROJECT).list(limit=100)) == 100
    assert len(store.jobs(LOCAL_PROJECT).list(limit=100, metadata={"a": "b"})) == 100
    assert store.jobs(LOCAL_PROJECT).count() == 10_000
    assert time.process_time() - started < 0.1


def test_counts_by_state(store):
    queue = store.queue()
    queued(store, queue)
    put_job(store)
    jobs = store.jobs(LOCAL_PROJECT)
    assert jobs.count(JobStatus.QUEUED) == 1
    assert jobs.count(JobStatus.QUEUED, JobStatus.VALIDATING) == 2
