"""Answers of the server against OpenAI's own description of them; and two thousand odd requests, none of which is our fault."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from filled_store import save, succeed
from live_server import BASE, LiveServer, fake_house, live_server, put_model
from openai_spec import faults
from stepladder.domain.jobs import JobError, NewEvent

ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
GRADER = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}", "reference": "x", "operation": "eq"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
ASKED = [{"role": "user", "content": "hello you"}]
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "service")) as running:
        yield running


def good(reply: httpx2.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_files_and_uploads_have_the_promised_shape(server: LiveServer) -> None:
    with server.client() as client:
        assert faults("ListFilesResponse", good(client.get("/v1/files"))) == []
        made = good(client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", ROW)}))
        assert faults("OpenAIFile", made) == []
        assert faults("ListFilesResponse", good(client.get("/v1/files"))) == []
        asked = {"filename": "a", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain"}
        upload = good(client.post("/v1/uploads", json=asked))
        assert faults("Upload", upload) == []
        part = good(client.post(f"/v1/uploads/{upload['id']}/parts", files={"data": b"abc"}))
        assert faults("UploadPart", part) == []
        done = good(client.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": [part["id"]]}))
        assert faults("Upload", done) == []
        assert faults("DeleteFileResponse", good(client.delete(f"/v1/files/{made['id']}"))) == []


@pytest.mark.parametrize(
    "method",
    [
        None,
        {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
        {"type": "reinforcement", "reinforcement": {"grader": GRADER}},
    ],
)
def test_jobs_have_the_promised_shape_in_every_state(server: LiveServer, method: Any) -> None:
    store, queue = server.house.store, server.house.store.queue()
    with server.client() as client:
        file = good(client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", ROW)}))["id"]
        asked = {"model": BASE, "training_file": file, "metadata": {"a": "b"}, "suffix": None, "seed": None}

        def make() -> str:
            made = good(client.post(JOBS, json={**asked, **({} if method is None else {"method": method})}))
            assert faults("FineTuningJob", made) == []
            return str(made["id"])

        def check(job: str, status: str) -> None:
            shown = good(client.get(f"{JOBS}/{job}"))
            assert shown["status"] == status
            assert faults("FineTuningJob", shown) == []

        job = make()
        check(job, "validating_files")
        claim = queue.claim("test", validating=True)
        assert claim is not None
        queue.validated(claim)
        check(job, "queued")
        claim = queue.claim("test", validating=False)
        assert claim is not None
        check(job, "running")
        queue.record(claim, [NewEvent("Step 1/3", type="metrics", data={"step": 1, "train_loss": 0.5})])
        for step in (1, 2):
            save(store, queue, claim, step)
        succeed(store, queue, claim, model=f"ft:fake:x::{job[-8:]}")
        check(job, "succeeded")
        assert faults("ListFineTuningJobEventsResponse", good(client.get(f"{JOBS}/{job}/events"))) == []
        assert faults("ListFineTuningJobCheckpointsResponse", good(client.get(f"{JOBS}/{job}/checkpoints"))) == []

        job = make()
        good(client.post(f"{JOBS}/{job}/pause"))
        check(job, "paused")
        good(client.post(f"{JOBS}/{job}/resume"))
        claim = queue.claim("test", validating=True)
        assert claim is not None
        queue.fail(claim, JobError("invalid_n_examples", "too few", "training_file"))
        check(job, "failed")
        job = make()
        good(client.post(f"{JOBS}/{job}/cancel"))
        check(job, "cancelled")
        assert faults("ListPaginatedFineTuningJobsResponse", good(client.get(JOBS))) == []


def test_answers_have_the_promised_shape(server: LiveServer) -> None:
    chat, text = "/v1/chat/completions", "/v1/completions"
    with server.client() as client:
        for more in ({}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}, {"tools": [TOOL]}, {"max_tokens": 1}):
            done = good(client.post(chat, json={"model": BASE, "messages": ASKED, **more}))
            assert faults("CreateChatCompletionResponse", done) == []
        for more in ({}, {"stream_options": {"include_usage": True}}):
            with client.stream("POST", chat, json={"model": BASE, "messages": ASKED, "stream": True, **more}) as reply:
                assert reply.headers["content-type"].startswith("text/event-stream")
                lines = [line for line in reply.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            for line in lines[:-1]:
                assert faults("CreateChatCompletionStreamResponse", json.loads(line.removeprefix("data: "))) == []
        for more in ({}, {"logprobs": 2}, {"echo": True}):
            done = good(client.post(text, json={"model": BASE, "prompt": ["ab", "c"], "max_tokens": 2, **more}))
            assert faults("CreateCompletionResponse", done) == []
        embedded = good(client.post("/v1/embeddings", json={"model": "wordllama", "input": ["a", "b"]}))
        assert faults("CreateEmbeddingResponse", embedded) == []


def test_models_graders_permissions_and_refusals_have_the_promised_shape(server: LiveServer) -> None:
    name = put_model(server.house.store, "proj_local", "ft:fake:x::abcd1234:ckpt-step-1", step=1)
    graders, lent = "/v1/fine_tuning/alpha/graders", f"/v1/fine_tuning/checkpoints/{name}/permissions"
    with server.client() as client:
        assert faults("ListModelsResponse", good(client.get("/v1/models"))) == []
        assert faults("Model", good(client.get(f"/v1/models/{name}"))) == []
        assert faults("ValidateGraderResponse", good(client.post(f"{graders}/validate", json={"grader": GRADER}))) == []
        ran = good(client.post(f"{graders}/run", json={"grader": GRADER, "model_sample": "x", "item": {}}))
        assert faults("RunGraderResponse", ran) == []
        made = good(client.post(lent, json={"project_ids": ["proj_local"]}))
        assert faults("ListFineTuningCheckpointPermissionResponse", made) == []
        assert faults("ListFineTuningCheckpointPermissionResponse", good(client.get(lent))) == []
        gone = good(client.delete(f"{lent}/{made['data'][0]['id']}"))
        assert faults("DeleteFineTuningCheckpointPermissionResponse", gone) == []
        assert faults("DeleteModelResponse", good(client.delete(f"/v1/models/{name}"))) == []
        for path in ("/v1/models/none", "/v1/nothing", f"{JOBS}/none", "/v1/files/none", "/v1/files?limit=x"):
            reply = client.get(path)
            assert 400 <= reply.status_code < 500
            assert faults("ErrorResponse", reply.json()) == []


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": BASE, "messages": ASKED, "temperature": 1, "stop": ["x"], "n": 1, "seed": 3}),
    (
        "/v1/chat/completions",
        {
            "model": BASE,
            "messages": [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}, *ASKED],
            "tools": [TOOL],
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    ("/v1/completions", {"model": BASE, "prompt": ["ab", "c"], "max_tokens": 2, "logprobs": 1, "echo": True, "temperature": 0}),
    ("/v1/embeddings", {"model": "wordllama", "input": ["a"], "dimensions": 2, "encoding_format": "base64"}),
    (
        JOBS,
        {
            "model": BASE,
            "training_file": "FILE",
            "suffix": "mine",
            "seed": 1,
            "metadata": {"a": "b"},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "lora_rank": 4}}},
            "integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": ["t"]}}],
        },
    ),
    (
        JOBS,
        {
            "model": BASE,
            "training_file": "FILE",
            "method": {"type": "reinforcement", "reinforcement": {"grader": GRADER, "hyperparameters": {"eval_samples": 1}}},
        },
    ),
    ("/v1/uploads", {"filename": "a", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain"}),
    ("/v1/fine_tuning/alpha/graders/validate", {"grader": GRADER}),
    (
        "/v1/fine_tuning/alpha/graders/run",
        {
            "grader": {"type": "multi", "name": "m", "graders": {"same": GRADER}, "calculate_output": "same * 2"},
            "model_sample": "x",
            "item": {"a": 1},
        },
    ),
    ("/v1/fine_tuning/checkpoints/ft:fake:x::a/permissions", {"project_ids": ["proj_local"]}),
]
JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 5e-324, 2**31, 2**53, 2**63, -(2**63), 10**40, "", " ", "a", "x" * 5000,
    "\x00", "\u202e", "💥", "auto", "null", "../../x", "{{ x }}", "' OR 1=1 --", "%s%n", [], {}, [[]], [None], [1, "a", None],
    {"a": {"b": [1]}}, {"type": "object"}, {"$ref": "#"}, {"type": "text"}, ["a"] * 200, [0] * 50, {"": ""}, {"a" * 70: "b"},
]  # fmt: skip


def paths_in(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value, the value itself left out."""
    items: list[tuple[Any, Any]] = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(*here, key) for key, _ in items] + [path for key, inner in items for path in paths_in(inner, (*here, key))]


def spoil(body: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """One or two places changed, taken away or added to."""
    spoiled = copy.deepcopy(body)
    for _ in range(dice.choice((1, 1, 2))):
        places = paths_in(spoiled)
        if not places:
            spoiled["model"] = copy.deepcopy(dice.choice(JUNK))
            continue
        place = dice.choice(places)
        inside = spoiled
        for key in place[:-1]:
            inside = inside[key]
        change = dice.random()
        if change < 0.75:
            inside[place[-1]] = copy.deepcopy(dice.choice(JUNK))
        elif change < 0.9:
            del inside[place[-1]]
        elif isinstance(inside, dict):
            inside[dice.choice(["colour", "", "model", "__class__", "stream", "top_p", "input"])] = copy.deepcopy(
                dice.choice(JUNK)
            )
    return spoiled


def check_odd_requests(server: LiveServer, cases: int) -> None:
    dice = random.Random(4711)
    put_model(server.house.store, "proj_local", "ft:fake:x::a")
    refused = 0
    with server.client() as client:
        file = good(client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", ROW)}))["id"]
        for number in range(cases):
            path, body = BODIES[number % len(BODIES)]
            if "training_file" in body:
                body = {**body, "training_file": file}
            reply = client.post(path, json=spoil(body, dice))
            assert reply.status_code < 500, (path, number, reply.text)
            if "error" in reply.text[:12]:
                assert faults("ErrorResponse", reply.json()) == []
                refused += 1
        assert cases / 4 < refused < cases  # neither all nor none of them made sense
        for junk in ("x", "%00", "..%2f..", "💥", "a" * 3000, "-1", "a/b/c"):
            for base in ("/v1/files/", f"{JOBS}/", "/v1/models/", "/v1/uploads/", "/v1/fine_tuning/checkpoints/"):
                for method, end in (
                    ("GET", ""),
                    ("DELETE", ""),
                    ("GET", "/events"),
                    ("POST", "/cancel"),
                    ("GET", "/permissions"),
                ):
                    assert client.request(method, base + junk + end).status_code < 500, (method, base, junk, end)
        for query in (
            "limit=-1",
            "limit=1e9",
            "limit=99999999999999999999",
            "after=%00",
            "order=sideways",
            "limit=2&limit=x",
            "metadata[]=x",
        ):
            for path in ("/v1/files", JOBS):
                assert client.get(f"{path}?{query}").status_code < 500, (path, query)


def test_no_odd_request_is_our_fault(server: LiveServer) -> None:
    check_odd_requests(server, 2_000)


@pytest.mark.long
def test_no_odd_request_is_our_fault_in_many_tries(server: LiveServer) -> None:
    check_odd_requests(server, 50_000)
