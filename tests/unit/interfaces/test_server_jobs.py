"""Fine-tuning jobs as clients see them; the worker's part is played through the queue."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError

from filled_store import save, succeed
from live_server import BASE, LiveServer, fake_house, live_server, put_model
from stepladder.domain.jobs import JobError, NewEvent
from stepladder.interfaces.server.limits import Limits
from stepladder.storage.queue import Claim

ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "service")) as running:
        yield running


def sdk(server: LiveServer, *, strict: bool = True) -> OpenAI:
    return OpenAI(base_url=server.url, api_key="anything", max_retries=0, _strict_response_validation=strict)


def upload(client: OpenAI, purpose: Any = "fine-tune") -> str:
    return client.files.create(file=("rows.jsonl", ROW * 10), purpose=purpose).id


def claim(server: LiveServer, *, validating: bool) -> Claim:
    found = server.house.store.queue().claim("test", validating=validating)
    assert found is not None
    return found


def start(server: LiveServer) -> Claim:
    """Bring the job that waits to where it runs."""
    server.house.store.queue().validated(claim(server, validating=True))
    return claim(server, validating=False)


def test_a_job_is_made_shown_and_listed(server: LiveServer) -> None:
    client = sdk(server)
    file = upload(client)
    made = client.fine_tuning.jobs.create(model=BASE, training_file=file, suffix="mine", seed=7, metadata={"team": "blue"})
    assert (made.status, made.model, made.training_file, made.seed) == ("validating_files", BASE, file, 7)
    assert made.error is None
    assert made.fine_tuned_model is None
    assert made.result_files == []
    assert made.organization_id
    assert made.method is not None
    assert made.method.type == "supervised"
    assert made.hyperparameters.n_epochs == "auto"
    assert client.fine_tuning.jobs.retrieve(made.id) == made
    assert [job.id for job in client.fine_tuning.jobs.list()] == [made.id]


def test_jobs_are_paged_newest_first_and_found_by_their_metadata(server: LiveServer) -> None:
    client = sdk(server)
    file = upload(client)
    jobs = client.fine_tuning.jobs
    made = [jobs.create(model=BASE, training_file=file, metadata={"half": str(number % 2)}).id for number in range(5)]
    bare = jobs.create(model=BASE, training_file=file).id
    assert [job.id for job in jobs.list(limit=2)] == [bare, *made[::-1]]
    assert [job.id for job in jobs.list(metadata={"half": "1"})] == [made[3], made[1]]
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == [bare]
    with pytest.raises(NotFoundError) as error:
        jobs.list(after="ftjob-unknown")
    assert error.value.code == "fine_tune_not_found"


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"type": "supervised"}, {}),
        ({"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}}, {"n_epochs": 2}),
        ({"type": "supervised", "supervised": {"hyperparameters": {"lora_rank": 4}}}, {"lora_rank": 4}),
        ({"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}}, {"beta": 0.2}),
        (
            {
                "type": "reinforcement",
                "reinforcement": {
                    "grader": {
                        "type": "string_check",
                        "name": "same",
                        "input": "{{ sample.output_text }}",
                        "reference": "{{ item.answer }}",
                        "operation": "eq",
                    },
                    "hyperparameters": {"compute_multiplier": 1.0, "eval_samples": 2},
                },
            },
            {"eval_samples": 2},
        ),
    ],
)
def test_every_method_is_taken_and_told_again(server: LiveServer, method: Any, told: dict[str, Any]) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client), method=method)
    assert job.method is not None
    assert job.method.type == method["type"]
    shown = job.to_dict()["method"][method["type"]]["hyperparameters"]  # type: ignore[index]
    assert told.items() <= shown.items()
    (request,) = server.house.jobs("proj_local").list()
    assert request.request.method == method["type"]


def test_the_old_place_for_hyperparameters_still_counts(server: LiveServer) -> None:
    client = sdk(server)
    file = upload(client)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file, hyperparameters={"n_epochs": 3})
    assert job.hyperparameters.n_epochs == 3
    assert client.fine_tuning.jobs.create(model=BASE, training_file=file, hyperparameters={}).hyperparameters.n_epochs == "auto"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"training_file": None}, "training_file"),
        ({"training_file": "file-unknown"}, "training_file"),
        ({"validation_file": "file-unknown"}, "validation_file"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "two words"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"colour": "red"}, "colour"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters"),
        ({"hyperparameters": {"batch_size": "all"}}, "hyperparameters"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters"),
        ({"hyperparameters": {"warmth": 1}}, "hyperparameters"),
        ({"hyperparameters": {"lora_rank": -1}}, "hyperparameters"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}}, "method.dpo.hyperparameters"),
        ({"method": {"type": "guessing"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement.grader"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "x"}}}}, "method.reinforcement.grader"),
        ({"integrations": [{"type": "mlflow"}]}, "integrations"),
    ],
)
def test_a_request_that_cannot_be_followed_is_refused_by_the_name_of_its_field(
    server: LiveServer, change: dict[str, Any], param: str
) -> None:
    file = upload(sdk(server))
    with server.client() as client:
        body = {"model": BASE, "training_file": file, **change}
        reply = client.post("/v1/fine_tuning/jobs", json={key: value for key, value in body.items() if value is not None})
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"] or "").startswith(param), reply.text
    assert server.house.jobs("proj_local").count() == 0


def test_a_file_for_something_else_is_no_training_file(server: LiveServer) -> None:
    client = sdk(server)
    with pytest.raises(BadRequestError, match="user_data"):
        client.fine_tuning.jobs.create(model=BASE, training_file=upload(client, "user_data"))


def test_an_openai_name_without_an_alias_gets_the_line_to_paste(server: LiveServer) -> None:
    client = sdk(server)
    with pytest.raises(NotFoundError) as error:
        client.fine_tuning.jobs.create(model="gpt-4.1-nano-2025-04-14", training_file=upload(client))
    assert "stepladder serve --alias 'gpt-4.1-nano-2025-04-14=fake'" in str(error.value)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(NotFoundError) as error:
        client.fine_tuning.jobs.create(model="no-such-model", training_file=upload(client))
    assert "--alias" not in str(error.value)


def test_an_alias_trains_the_model_it_stands_for_and_the_job_and_an_event_say_so(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini-2024-07-18", training_file=upload(client))
    assert job.model == BASE
    assert job.to_dict()["requested_model"] == "gpt-4o-mini-2024-07-18"
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert any("'gpt-4o-mini-2024-07-18' stands for fake" in message for message in told)


def test_a_tuned_model_can_be_trained_on(server: LiveServer) -> None:
    name = put_model(server.house.store, "proj_local", "ft:fake:org:mine:abcd1234")
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=name, training_file=upload(client))
    assert job.model == name
    (kept,) = server.house.jobs("proj_local").list()
    assert (kept.request.model, kept.request.start) == (BASE, name)


def test_a_job_lives_through_all_its_states(server: LiveServer) -> None:
    client = sdk(server, strict=False)  # the spec's list of states has no `paused`
    jobs, queue = client.fine_tuning.jobs, server.house.store.queue()
    job = jobs.create(model=BASE, training_file=upload(client)).id
    held = start(server)
    assert jobs.retrieve(job).status == "running"
    assert jobs.pause(job).to_dict()["pausing"] is True
    queue.paused(held)
    assert jobs.retrieve(job).status == "paused"
    assert jobs.resume(job).status == "queued"
    held = claim(server, validating=False)
    queue.record(held, [NewEvent("Step 1/3: training loss=0.50", type="metrics", data={"step": 1, "train_loss": 0.5})])
    for step in (1, 2, 3):
        save(server.house.store, queue, held, step)
    succeed(server.house.store, queue, held, model="ft:fake:org::abcd1234")
    strict = sdk(server)
    done = strict.fine_tuning.jobs.retrieve(job)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", "ft:fake:org::abcd1234", 7)
    assert done.finished_at is not None
    assert strict.files.content(done.result_files[0]).read()
    events = list(strict.fine_tuning.jobs.list_events(job, limit=2))
    assert events[0].message == "The job has successfully completed"
    assert events[-1].message.startswith("Created fine-tuning job")
    metrics = next(event for event in events if event.type == "metrics")
    assert metrics.data == {"step": 1, "train_loss": 0.5}
    points = list(strict.fine_tuning.jobs.checkpoints.list(job, limit=1))
    assert [point.step_number for point in points] == [3, 2, 1]
    assert points[0].fine_tuned_model_checkpoint in {model.id for model in strict.models.list()}
    for wish in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(BadRequestError):
            wish(job)


def test_a_failed_job_says_why(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    error = JobError("invalid_n_examples", "Training file has 1 example(s), but must have at least 10 examples", "training_file")
    server.house.store.queue().fail(claim(server, validating=True), error)
    failed = client.fine_tuning.jobs.retrieve(job)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_n_examples", "training_file")


def test_a_job_can_be_cancelled_and_is_then_over(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    assert client.fine_tuning.jobs.cancel(job).status == "cancelled"
    with pytest.raises(BadRequestError) as error:
        client.fine_tuning.jobs.cancel(job)
    assert "cancelled" in str(error.value)


def test_a_project_has_only_so_many_open_jobs(tmp_path: Path) -> None:
    with live_server(fake_house(tmp_path / "service"), limits=Limits(jobs_open=2)) as server:
        client = sdk(server)
        file = upload(client)
        made = [client.fine_tuning.jobs.create(model=BASE, training_file=file).id for _ in range(2)]
        with pytest.raises(RateLimitError) as error:
            client.fine_tuning.jobs.create(model=BASE, training_file=file)
        assert int(error.value.response.headers["retry-after"]) > 0
        client.fine_tuning.jobs.cancel(made[0])
        client.fine_tuning.jobs.create(model=BASE, training_file=file)


def test_the_same_idempotency_key_makes_one_job(server: LiveServer) -> None:
    client = sdk(server)
    file = upload(client)
    header = {"Idempotency-Key": "again"}
    made = {client.fine_tuning.jobs.create(model=BASE, training_file=file, extra_headers=header).id for _ in range(3)}
    assert len(made) == 1


def read_stream(server: LiveServer, job: str, *, last: int | None = None, stop_after: int | None = None) -> list[tuple[int, str]]:
    """Numbers and messages of a stream's events, to its end or for so many."""
    headers = {"accept": "text/event-stream"} | ({} if last is None else {"last-event-id": str(last)})
    found: list[tuple[int, str]] = []
    with server.client() as client, client.stream("GET", f"/v1/fine_tuning/jobs/{job}/events", headers=headers) as reply:
        assert reply.status_code == 200
        number = 0
        for line in reply.iter_lines():
            if line.startswith("id:"):
                number = int(line[3:])
            if line == "data: [DONE]":
                break
            if line.startswith("data:"):
                found.append((number, json.loads(line[5:])["message"]))
            if stop_after is not None and len(found) == stop_after:
                break
    return found


def test_a_stream_of_events_goes_on_without_gap_or_repeat_after_every_break(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    held = start(server)
    queue = server.house.store.queue()

    def write() -> None:
        for number in range(60):
            queue.record(held, [NewEvent(f"step {number}")])
            time.sleep(0.01)
        queue.fail(held, JobError("over", "enough", None))

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[tuple[int, str]] = []
    while not seen or "enough" not in seen[-1][1]:
        seen += read_stream(server, job, last=seen[-1][0] if seen else None, stop_after=17)
    writer.join()
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert [message for _, message in seen if message.startswith("step")] == [f"step {number}" for number in range(60)]
    assert read_stream(server, job, last=len(seen)) == []  # told to the end


def test_a_stream_hears_of_an_event_within_two_seconds(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    before = len(server.house.jobs("proj_local").events(job))
    heard: list[float] = []

    def listen() -> None:
        read_stream(server, job, last=before)
        heard.append(time.monotonic())

    listener = threading.Thread(target=listen)
    listener.start()
    time.sleep(1.0)
    client.fine_tuning.jobs.cancel(job)
    cancelled = time.monotonic()
    listener.join(10)
    assert heard
    assert heard[0] - cancelled < 2.0


def test_many_listeners_hear_the_same_wherever_they_begin(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    held = start(server)
    queue = server.house.store.queue()
    with ThreadPoolExecutor(20) as pool:
        listening = [pool.submit(read_stream, server, job, last=number % 3) for number in range(20)]
        for number in range(300):  # more than are read at once
            queue.record(held, [NewEvent(f"step {number}")])
        queue.fail(held, JobError("over", "enough", None))
        heard = [each.result(30) for each in listening]
    told = [(event.sequence, event.message) for event in server.house.jobs("proj_local").events(job, limit=1000)]
    assert heard == [told[number % 3 :] for number in range(20)]


@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_listeners_that_come_and_go_leave_nothing_behind(server: LiveServer, times: int) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    process = psutil.Process()

    def come_and_go() -> None:
        assert read_stream(server, job, stop_after=1)

    for _ in range(5):
        come_and_go()
    before, threads = process.num_fds(), process.num_threads()
    for _ in range(times):
        come_and_go()
    until = time.monotonic() + 10
    while process.num_fds() > before + 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert process.num_fds() <= before + 2
    assert process.num_threads() <= threads + 8  # of the server's own pool


def test_a_listener_that_does_not_read_holds_nobody_up(server: LiveServer) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    held = start(server)
    queue = server.house.store.queue()
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", server.port))
        line.sendall(f"GET /v1/fine_tuning/jobs/{job}/events?stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        for number in range(20):
            queue.record(held, [NewEvent("x" * 10_000) for _ in range(50)])
            time.sleep(0.02)
            assert client.fine_tuning.jobs.list_events(job, limit=1).data[0].message == "x" * 10_000, number
        other: list[tuple[int, str]] = []
        listener = threading.Thread(target=lambda: other.extend(read_stream(server, job)))
        listener.start()
        client.fine_tuning.jobs.cancel(job)
        listener.join(20)
    assert len(other) > 1000


@pytest.mark.parametrize("last", ["x", "-1", "1" * 30, "é"])
def test_a_stream_cannot_be_taken_up_at_nonsense(server: LiveServer, last: str) -> None:
    client = sdk(server)
    job = client.fine_tuning.jobs.create(model=BASE, training_file=upload(client)).id
    with server.client() as plain:
        headers: Any = {"accept": "text/event-stream", "last-event-id": last.encode()}
        assert plain.get(f"/v1/fine_tuning/jobs/{job}/events", headers=headers).status_code == 400
