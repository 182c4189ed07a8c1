"""`stepladder serve` as a newcomer runs it: a process, two variables, an ordinary OpenAI script, and a chat with the result."""

from __future__ import annotations

import base64
import csv
import io
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError, OpenAI
from pydantic import BaseModel

from served_process import SERVER_LOG, run, serving
from tiny_model import build_tiny_model

ROWS = 16
DEADLINE_SECONDS = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def rows_text(count: int = ROWS) -> bytes:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Answer with one word."},
                {"role": "user", "content": f"Where is parcel number {number}?"},
                {"role": "assistant", "content": "delivery" if number % 2 else "refund"},
            ]
        }
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def wait_for(client: OpenAI, job: str, *wanted: str) -> Any:
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in wanted:
            return found
        assert found.status not in ("failed", "succeeded", "cancelled"), found.error
        time.sleep(0.1)
    raise AssertionError(f"the job is still {found.status}")


class Answer(BaseModel):
    word: str


def test_the_whole_life_of_a_job_by_openais_own_client(tmp_path: Path, model: Path) -> None:
    with serving(tmp_path / "home", "--model", model, "--alias", "gpt-4o-mini*=tiny") as server:
        client = server.client()
        training = client.files.create(file=("rows.jsonl", rows_text()), purpose="fine-tune")
        validation = client.files.create(file=("validation.jsonl", rows_text(12)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="gpt-4o-mini-2024-07-18",
            training_file=training.id,
            validation_file=validation.id,
            suffix="desk",
            seed=7,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 40, "batch_size": 1, "lora_rank": 2}},  # type: ignore[typeddict-unknown-key]
            },
        )
        assert (job.status, job.model) == ("validating_files", "tiny")
        wait_for(client, job.id, "running")
        lenient = server.client(strict=False)  # the spec's list of states has no `paused`
        lenient.fine_tuning.jobs.pause(job.id)
        wait_for(lenient, job.id, "paused")
        lenient.fine_tuning.jobs.resume(job.id)
        done = wait_for(lenient, job.id, "succeeded")
        done = client.fine_tuning.jobs.retrieve(done.id)
        assert done.fine_tuned_model == f"ft:tiny:stepladder:desk:{job.id[-8:]}"
        assert done.hyperparameters.n_epochs == 40
        assert (done.trained_tokens or 0) > 0
        assert done.to_dict()["comparison"]

        events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
        told = [event.message for event in events]
        assert any("'gpt-4o-mini-2024-07-18' stands for tiny" in message for message in told)
        assert told[0] == "The job has successfully completed"
        steps = [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]
        assert steps == sorted(steps, reverse=True)
        assert len(steps) == len(set(steps))

        points = client.fine_tuning.jobs.checkpoints.list(job.id).data
        assert 1 <= len(points) <= 3
        table = list(csv.DictReader(io.StringIO(base64.b64decode(client.files.content(done.result_files[0]).read()).decode())))
        assert [int(row["step"]) for row in table] == sorted(steps)

        turns: Any = [
            {"role": "system", "content": "Answer with one word."},
            {"role": "user", "content": "Where is parcel number 3?"},
        ]
        for name in (done.fine_tuned_model, *(point.fine_tuned_model_checkpoint for point in points)):
            whole = client.chat.completions.create(model=name, messages=turns, temperature=0, max_tokens=12)
            chunks = client.chat.completions.create(model=name, messages=turns, temperature=0, max_tokens=12, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        tuned = client.chat.completions.create(model=done.fine_tuned_model, messages=turns, temperature=0, max_tokens=12)
        base = client.chat.completions.create(model="gpt-4o-mini", messages=turns, temperature=0, max_tokens=12)
        assert tuned.system_fingerprint != base.system_fingerprint
        likely = client.chat.completions.create(
            model=done.fine_tuned_model, messages=turns, temperature=0, max_tokens=12, logprobs=True, top_logprobs=1
        )
        tokens = (likely.choices[0].logprobs.content if likely.choices[0].logprobs else None) or []
        assert [token.top_logprobs[0].logprob - token.logprob for token in tokens] == pytest.approx([0] * len(tokens), abs=1e-3)
        held = client.chat.completions.create(
            model=done.fine_tuned_model,
            messages=turns,
            max_tokens=60,
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "answer",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {"word": {"type": "string", "enum": ["refund", "delivery"]}},
                        "required": ["word"],
                        "additionalProperties": False,
                    },
                },
            },
        )
        assert Answer.model_validate_json(held.choices[0].message.content or "").word in ("refund", "delivery")

        assert client.models.delete(done.fine_tuned_model).deleted
        with pytest.raises(NotFoundError):
            client.chat.completions.create(model=done.fine_tuned_model, messages=turns)
        assert client.files.delete(training.id).deleted
    assert server.process.returncode == 0
    logs = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "home").rglob("*.log")}
    assert {SERVER_LOG, "worker.log"} <= logs.keys()
    assert "tokens in" in logs[SERVER_LOG]
    assert not any("parcel" in text or "refund" in text for text in logs.values())


def test_a_server_that_was_stopped_goes_on_with_its_job(tmp_path: Path, model: Path) -> None:
    options: Any = {"n_epochs": 50, "batch_size": 1}
    with serving(tmp_path / "home", "--model", model) as server:
        client = server.client()
        file = client.files.create(file=("rows.jsonl", rows_text()), purpose="fine-tune").id
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file, hyperparameters=options).id
        wait_for(client, job, "running")
    with serving(tmp_path / "home", "--model", model, number=signal.SIGINT) as server:
        assert wait_for(server.client(), job, "succeeded").fine_tuned_model
    assert server.process.returncode == 130


def test_an_address_that_others_can_reach_is_refused_without_a_key_and_served_with_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", home=home)
    assert refused.returncode == 2
    assert "keys create" in refused.stderr
    made = json.loads(run("keys", "create", "--project", "blue", "--name", "laptop", "--json", home=home).stdout)
    listed = run("keys", "list", home=home).stdout
    assert made["id"] in listed
    assert "blue" in listed
    assert made["key"] not in listed
    with serving(home, "--host", "0.0.0.0", "--model", "fake") as server:
        assert server.ready["needs_key"] is True
        assert "fake" in {model.id for model in server.client(made["key"]).models.list()}
        assert json.loads(run("keys", "revoke", made["id"], "--json", home=home).stdout) == {"id": made["id"], "revoked": True}
        with pytest.raises(Exception, match="Incorrect API key"):
            server.client(made["key"]).models.list()
    assert run("keys", "revoke", made["id"], home=home).returncode == 2
    secret = made["key"].rsplit("-", 1)[1].encode()
    assert not any(secret in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_file_says_what_is_served_and_an_option_overrules_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "serve.toml").write_text('models = ["mine=fake"]\nport = 1\n[aliases]\n"gpt-*" = "mine"\n', encoding="utf-8")
    with serving(home) as server:  # on a port of its own choice
        assert (server.ready["models"], server.ready["aliases"]) == (["mine"], {"gpt-*": "mine"})
        turns: Any = [{"role": "user", "content": "hello"}]
        assert server.client().chat.completions.create(model="gpt-4.1", messages=turns).choices[0].message.content == "hello"
    with serving(home, "--model", "fake", "--alias", "o1=fake") as server:
        assert (server.ready["models"], server.ready["aliases"]) == (["fake"], {"o1": "fake"})


def test_two_servers_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with serving(tmp_path / "home", "--model", "fake"):
        second = run("serve", "--model", "fake", "--port", "0", home=tmp_path / "home")
    assert second.returncode == 3
    assert "Another server works in" in second.stderr


def test_a_port_that_is_taken_is_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = run("serve", "--model", "fake", "--port", str(taken.getsockname()[1]), home=tmp_path / "home")
    assert refused.returncode == 2
    assert "Give another --port" in refused.stderr


@pytest.mark.parametrize(
    "arguments", [["--alias", "gpt-4o"], ["--alias", "gpt-4o=nothing"], ["--model", "a b"], ["--runs", "nowhere"]]
)
def test_wishes_that_cannot_be_met_are_refused_at_once(tmp_path: Path, arguments: list[str]) -> None:
    refused = run("serve", "--port", "0", *arguments, home=tmp_path / "home")
    assert refused.returncode == 2
    assert "stepladder:" in refused.stderr
