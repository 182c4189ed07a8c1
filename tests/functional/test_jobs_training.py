"""One attempt at a job, from its files to its model, with a tiny real model in this process."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from filled_store import messages
from service_jobs import QUICK, STEPS, attempt, chat_rows, create, finish, known, outcome, pair_rows, trainer, weights
from stepladder.domain.jobs import LOCAL_PROJECT, Job, JobError, JobStatus
from stepladder.models.prefix.paths import FusedPath
from stepladder.service.job_attempt import DONE, LEFT, LOST
from stepladder.service.job_watch import Leave
from stepladder.storage.store import Store
from tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden=32)


@pytest.fixture(autouse=True)
def on_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_DTYPE", "float32")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home") as store:
        yield store


def test_a_supervised_job_leaves_a_model_checkpoints_metrics_and_a_table(store: Store, model: Path) -> None:
    job = create(store, model, validation=chat_rows(4, first=50), suffix="parcels", seed=7)
    done = finish(store, job)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.fine_tuned_model == f"ft:{model}:stepladder:parcels:{job.id[-8:]}"
    events = store.jobs(LOCAL_PROJECT).events(job.id)
    metrics = [event for event in events if event.type == "metrics"]
    steps = [event.data["step"] for event in metrics]
    assert steps == list(range(1, len(steps) + 1))
    assert metrics[2].data.keys() == {"step", "total_steps", "train_loss", "valid_loss", "full_valid_loss"}
    assert metrics[0].data.keys() == {"step", "total_steps", "train_loss"}
    assert metrics[0].message.startswith(f"Step 1/{STEPS}: training loss=")
    said = [event.message for event in events]
    assert said[0] == f"Created fine-tuning job: {job.id}"
    assert said[1].startswith(f"Validating training file: {job.request.training_file} and validation file: ")
    assert "Files validated, moving job to queued state" in said
    assert said[-2:] == [f"New fine-tuned model created: {done.fine_tuned_model}", "The job has successfully completed"]
    (checkpoint, *_) = store.jobs(LOCAL_PROJECT).checkpoints(job.id)
    assert checkpoint.metrics.keys() == {"step", "train_loss", "valid_loss", "full_valid_loss"}
    assert len(weights(store, checkpoint.model)) == len(weights(store, done.fine_tuned_model))
    assert_compared(store, done)
    assert done.resolved["n_epochs"] == 3
    assert done.resolved["batch_size"] == 4
    assert done.resolved["lora_rank"] == 2
    assert done.resolved["learning_rate_multiplier"] > 0
    assert done.trained_tokens is not None
    assert done.trained_tokens > 0
    rows = table(store, done.result_files[0])
    assert [row["step"] for row in rows] == [str(step) for step in steps]
    assert all(len(row["train_loss"].partition(".")[2]) == 5 for row in rows)
    assert [bool(row["valid_loss"]) for row in rows] == [step % 3 == 0 for step in steps]


def assert_compared(store: Store, done: Job) -> None:
    """The comparison is in the job, in an event and in a result file, and is the same in all."""
    assert done.comparison is not None
    assert done.comparison["grader"] == "labels"
    assert done.comparison["rows"] == 4
    assert done.comparison["few_shot"]["examples"] == 4
    for name in ("untuned", "few_shot", "tuned"):
        found = done.comparison[name]
        assert 0 <= found["low"] <= found["score"] <= found["high"] <= 1
    assert done.comparison["gain_over_untuned"]["score"] == pytest.approx(
        done.comparison["tuned"]["score"] - done.comparison["untuned"]["score"]
    )
    events = store.jobs(LOCAL_PROJECT).events(done.id)
    (event,) = [event for event in events if "comparison" in event.data]
    assert event.data["comparison"] == done.comparison
    assert event.message.startswith("Compared on 4 validation rows (labels): untuned ")
    file = store.files(LOCAL_PROJECT).get(done.result_files[1])
    assert file is not None
    with store.files(LOCAL_PROJECT).open(file) as content:
        assert json.load(content) == done.comparison


def table(store: Store, id: str) -> list[dict[str, str]]:
    file = store.files(LOCAL_PROJECT).get(id)
    assert file is not None
    with store.files(LOCAL_PROJECT).open(file) as content:
        text = content.read().decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_a_job_that_runs_out_of_memory_says_so_and_the_next_one_runs(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, following = create(store, model), create(store, model)
    with monkeypatch.context() as patched:
        patched.setattr(FusedPath, "backward_loss", no_memory)
        failed = finish(store, job)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "out_of_memory"
    assert "lower [rungs.lora] rank" in failed.error.message
    done = finish(store, following)
    assert done.status is JobStatus.SUCCEEDED, done.error


def no_memory(*arguments: object, **options: object) -> float:
    """What torch raises on a CPU whose memory is used up."""
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def test_without_a_validation_file_every_epoch_is_run_and_the_last_three_are_kept(store: Store, model: Path) -> None:
    job = create(store, model, hyperparameters={**QUICK, "n_epochs": 5})
    done = finish(store, job)
    assert done.status is JobStatus.SUCCEEDED, done.error
    checkpoints = store.jobs(LOCAL_PROJECT).checkpoints(job.id)
    assert [checkpoint.step for checkpoint in checkpoints] == [15, 12, 9]
    assert done.fine_tuned_model is not None
    assert checkpoints[0].model == done.fine_tuned_model  # the newest checkpoint is the model itself
    assert weights(store, f"{done.fine_tuned_model}:ckpt-step-15") == weights(store, done.fine_tuned_model)
    assert weights(store, checkpoints[1].model) != weights(store, done.fine_tuned_model)


def test_a_job_goes_on_from_an_earlier_model(store: Store, model: Path) -> None:
    first = finish(store, create(store, model))
    second = finish(store, create(store, model, start=first.fine_tuned_model))
    assert second.status is JobStatus.SUCCEEDED, second.error
    losses = [
        next(event.data["train_loss"] for event in store.jobs(LOCAL_PROJECT).events(job.id) if event.type == "metrics")
        for job in (first, second)
    ]
    assert losses[1] < losses[0]


def test_a_job_from_a_model_that_is_gone_fails_and_says_so(store: Store, model: Path) -> None:
    job = finish(store, create(store, model, start="ft:gone"))
    assert job.error == JobError("model_not_found", "The model 'ft:gone' does not exist any more.", "model")


def test_preferences_are_learned_after_the_preferred_answers(store: Store, model: Path) -> None:
    job = create(store, model, pair_rows(), method="dpo", hyperparameters={"n_epochs": 1, "batch_size": 4, "beta": 0.3})
    done = finish(store, job)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.resolved["beta"] == 0.3
    said = messages(store, job)
    assert said.index("Now learning the preferences") < next(i for i, text in enumerate(said) if text.startswith("Step 1/3"))
    assert sum(text.startswith("Step ") for text in said) == 3


def test_reinforcement_is_accepted_and_fails_with_a_clear_error(store: Store, model: Path) -> None:
    job = finish(store, create(store, model, method="reinforcement", grader={"type": "string_check"}))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("method_not_supported", "method")
    assert "Use method supervised" in job.error.message


def failed_validation(store: Store, model: Path, rows: list[dict[str, object]], **request: object) -> JobError:
    job = create(store, model, rows, **request)
    assert attempt(store, validating=True) == DONE
    ended = known(store, job)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert attempt(store, validating=False) is None
    return ended.error


def test_files_that_cannot_be_used_fail_with_openais_codes(store: Store, model: Path) -> None:
    few = failed_validation(store, model, chat_rows(7))
    assert few == JobError(
        "invalid_n_examples", "Training file has 7 example(s), but must have at least 10 examples", "training_file"
    )
    broken = [*chat_rows(10), {"messages": [{"role": "user", "content": "and?"}]}]
    format_error = failed_validation(store, model, broken)
    assert (format_error.code, format_error.param) == ("invalid_file_format", "training_file")
    assert "Line 11: the last message is of the user" in format_error.message
    other = failed_validation(store, model, chat_rows(), validation=[{"question": "a", "answer": 1, "more": 2}])
    assert (other.code, other.param) == ("invalid_file_format", "validation_file")
    assert "choose method dpo" in failed_validation(store, model, pair_rows()).message
    assert 'method dpo needs "input"' in failed_validation(store, model, chat_rows(), method="dpo").message


def test_a_file_that_is_gone_before_the_job_runs_fails_it(store: Store, model: Path) -> None:
    job = create(store, model)
    attempt(store, validating=True)
    with store.database.write() as connection:  # nobody can delete it: the job is not over
        connection.execute("DELETE FROM files WHERE id = ?", (job.request.training_file,))
    attempt(store, validating=False)
    error = known(store, job).error
    assert error == JobError("file_not_found", f"The file {job.request.training_file} does not exist any more.", "training_file")


def test_what_the_data_checks_find_is_told_and_stops_nothing(store: Store, model: Path) -> None:
    rows = [*chat_rows(), chat_rows()[0]]
    job = create(store, model, rows)
    attempt(store, validating=True)
    found = [event for event in store.jobs(LOCAL_PROJECT).events(job.id) if event.message.startswith("Data check duplicate:")]
    assert len(found) == 1
    assert found[0].level == "warn"
    assert found[0].data["lines"] == [["training_file.jsonl", 13]]
    assert known(store, job).status is JobStatus.QUEUED


def test_the_real_model_behind_an_alias_is_named(store: Store, model: Path) -> None:
    job = create(store, model, requested_model="gpt-4o-mini-2024-07-18")
    assert f"'gpt-4o-mini-2024-07-18' is trained here as '{model}'" in messages(store, job)[1]


class LeaveAt(Leave):
    """Leaves when it is asked for the `at`-th time, which is once before the training and once after each event."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def raise_if_told(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 2, 5, 9, 13])
def test_a_job_left_and_taken_up_again_ends_as_if_it_never_had_been(
    store: Store, model: Path, tmp_path: Path, at: int, uninterrupted: dict[str, object]
) -> None:
    job = create(store, model, validation=chat_rows(4, first=50), seed=3)
    attempt(store, validating=True)
    queue = store.queue()
    claim = queue.claim("first", validating=False)
    assert claim is not None
    assert trainer(store, claim, LeaveAt(at)).work() == LEFT
    queue.release(claim)
    assert attempt(store, validating=False) == DONE
    assert outcome(store, known(store, job).id) == uninterrupted


@pytest.fixture(scope="module")
def uninterrupted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    with pytest.MonkeyPatch.context() as patch, Store(tmp_path_factory.mktemp("whole")) as store:
        patch.setenv("STEPLADDER_DTYPE", "float32")
        job = create(store, model, validation=chat_rows(4, first=50), seed=3)
        finish(store, job)
        yield outcome(store, job.id)


def test_an_attempt_that_lost_its_job_writes_nothing_more(store: Store, model: Path) -> None:
    job = create(store, model)
    attempt(store, validating=True)
    claim = store.queue().claim("test", validating=False)
    assert claim is not None
    store.jobs(LOCAL_PROJECT).cancel(job.id)
    before = messages(store, job)
    assert trainer(store, claim).work() == LOST
    assert messages(store, job) == before
    assert store.models(LOCAL_PROJECT).list() == []
