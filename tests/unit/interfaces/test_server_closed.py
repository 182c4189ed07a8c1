"""The door of the server: nothing is reached without a key, under another name, from another page, or beyond the limits."""

from __future__ import annotations

import json
import random
import socket
import string
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from live_server import BASE, LiveServer, fake_house, live_server, put_model
from stepladder.domain.jobs import JobRequest
from stepladder.interfaces.server.app import build_routes
from stepladder.interfaces.server.guard import Places
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.metrics import Metrics

CANARY = "canary-4711"
MULTIPART = {"files": {"file": ("rows.jsonl", b'{"messages": []}\n')}, "data": {"purpose": "fine-tune"}}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
GRADER = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}", "reference": "x", "operation": "eq"}


@dataclass
class Owner:
    """A project with one of everything, and the key of a stranger's project."""

    key: str
    stranger: str
    file: str
    upload: str
    job: str
    model: str
    permission: str


def furnish(server: LiveServer) -> Owner:
    """Everything the first project owns carries the canary in its name."""
    store = server.house.store
    first, second = store.keys.create_project("first"), store.keys.create_project("second")
    _, key = store.keys.create(first.id, "one", admin=True)
    _, stranger = store.keys.create(second.id, "two", admin=True)
    files = store.files(first.id)
    with store.blobs.receive(first.id) as incoming:
        incoming.write(json.dumps({"messages": [{"role": "user", "content": CANARY}]}).encode())
        file = files.add(incoming, filename=f"{CANARY}.jsonl", purpose="fine-tune").id
    upload = files.create_upload(filename=f"{CANARY}.jsonl", purpose="fine-tune", bytes=9, mime_type="text/plain").id
    request = JobRequest(model=BASE, training_file=file, requested_model=BASE, suffix=CANARY)
    job = store.jobs(first.id).create(request).id
    model = put_model(store, first.id, f"ft:fake:org:{CANARY}:abcd1234:ckpt-step-3", step=3)
    permission = store.models(first.id).permit(model, [first.id])[0].id
    return Owner(key, stranger, file, upload, job, model, permission)


@dataclass(frozen=True)
class Try:
    """A request to one route; `stranger`: what another project's key gets for it."""

    path: str
    options: dict[str, Any]
    stranger: int


def requests_of(owner: Owner) -> dict[tuple[str, str], Try]:
    """One request for every route, each naming what the first project owns. A new route needs a line here."""
    jobs, files, uploads = "/v1/fine_tuning/jobs", "/v1/files", "/v1/uploads"
    checkpoint = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"
    lent = checkpoint.replace("{checkpoint:path}", owner.model)
    graders = "/v1/fine_tuning/alpha/graders"
    job, file, upload = f"{jobs}/{owner.job}", f"{files}/{owner.file}", f"{uploads}/{owner.upload}"
    body: dict[str, Any] = {"json": {"filename": "a.txt", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain"}}
    return {
        ("GET", files): Try(files, {}, 200),
        ("POST", files): Try(files, MULTIPART, 200),
        ("GET", files + "/{file_id}"): Try(file, {}, 404),
        ("DELETE", files + "/{file_id}"): Try(file, {}, 404),
        ("GET", files + "/{file_id}/content"): Try(file + "/content", {}, 404),
        ("POST", uploads): Try(uploads, body, 200),
        ("POST", uploads + "/{upload_id}/parts"): Try(upload + "/parts", {"files": {"data": b"abc"}}, 404),
        ("POST", uploads + "/{upload_id}/complete"): Try(upload + "/complete", {"json": {"part_ids": ["part_1"]}}, 404),
        ("POST", uploads + "/{upload_id}/cancel"): Try(upload + "/cancel", {}, 404),
        ("GET", jobs): Try(jobs, {}, 200),
        ("POST", jobs): Try(jobs, {"json": {"model": BASE, "training_file": owner.file}}, 400),
        ("GET", jobs + "/{job_id}"): Try(job, {}, 404),
        ("POST", jobs + "/{job_id}/cancel"): Try(job + "/cancel", {}, 404),
        ("POST", jobs + "/{job_id}/pause"): Try(job + "/pause", {}, 404),
        ("POST", jobs + "/{job_id}/resume"): Try(job + "/resume", {}, 404),
        ("GET", jobs + "/{job_id}/events"): Try(job + "/events", {}, 404),
        ("GET", jobs + "/{job_id}/checkpoints"): Try(job + "/checkpoints", {}, 404),
        ("GET", checkpoint): Try(lent, {}, 404),
        ("POST", checkpoint): Try(lent, {"json": {"project_ids": ["proj_local"]}}, 404),
        ("DELETE", checkpoint + "/{permission_id}"): Try(f"{lent}/{owner.permission}", {}, 404),
        ("POST", graders + "/validate"): Try(graders + "/validate", {"json": {"grader": GRADER}}, 200),
        ("POST", graders + "/run"): Try(graders + "/run", {"json": {"grader": GRADER, "model_sample": "x"}}, 200),
        ("GET", "/v1/models"): Try("/v1/models", {}, 200),
        ("GET", "/v1/models/{model:path}"): Try(f"/v1/models/{owner.model}", {}, 404),
        ("DELETE", "/v1/models/{model:path}"): Try(f"/v1/models/{owner.model}", {}, 404),
        ("POST", "/v1/chat/completions"): Try("/v1/chat/completions", {"json": {"model": owner.model, **CHAT}}, 404),
        ("POST", "/v1/completions"): Try("/v1/completions", {"json": {"model": owner.model, "prompt": "a"}}, 404),
        ("POST", "/v1/embeddings"): Try("/v1/embeddings", {"json": {"model": "wordllama", "input": "a"}}, 200),
        ("GET", "/metrics"): Try("/metrics", {}, 200),
    }


def every_route(routes: Any) -> Iterator[Any]:
    """Those of included routers too."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else every_route(inner.routes)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "service")) as running:
        yield running


def test_every_route_refuses_whoever_has_no_key_a_wrong_one_or_another_projects(server: LiveServer) -> None:
    owner = furnish(server)
    tries = requests_of(owner)
    routes = every_route(build_routes(server.house, Limits(), Metrics()).routes)
    assert {(method, route.path) for route in routes for method in route.methods} == tries.keys()
    wrong = owner.key[:-1] + ("0" if owner.key[-1] != "0" else "1")
    with server.client() as client:
        for (method, route), one in tries.items():
            for key, status in ((None, 401), (wrong, 401), ("nonsense", 401), (owner.stranger, one.stranger)):
                headers = {} if key is None else {"authorization": f"Bearer {key}"}
                reply = client.request(method, one.path, headers=headers, **one.options)
                assert reply.status_code == status, (method, route, key, reply.text)
                said = reply.text.replace(owner.model, "").replace(owner.file, "")  # a refusal repeats what it was asked for
                assert CANARY not in said
        alive = client.get(f"/v1/fine_tuning/jobs/{owner.job}", headers={"authorization": f"Bearer {owner.key}"})
    assert alive.json()["status"] == "validating_files"  # nobody has touched it


def test_the_owner_is_let_in_everywhere(server: LiveServer) -> None:
    owner = furnish(server)
    with server.client(owner.key) as client:
        for (method, route), one in requests_of(owner).items():
            if method == "GET":
                assert client.get(one.path).status_code == 200, route


def test_an_unknown_path_tells_a_stranger_nothing_and_an_owner_that_it_is_none(server: LiveServer) -> None:
    owner = furnish(server)
    with server.client() as client:
        assert client.get("/v1/nothing").status_code == 401
        reply = client.get("/v1/nothing", headers={"authorization": f"Bearer {owner.key}"})
        assert reply.status_code == 404
        assert reply.json()["error"] == {
            "message": "Invalid URL (GET /v1/nothing)",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        wrong_method = client.put("/v1/files", headers={"authorization": f"Bearer {owner.key}"})
    assert wrong_method.json()["error"]["message"] == "Invalid URL (PUT /v1/files)"


def test_a_key_counts_from_the_next_request_on_and_a_revoked_one_no_more(server: LiveServer) -> None:
    keys = server.house.store.keys
    with server.client() as client:
        assert client.get("/v1/files").status_code == 200  # nobody has made a key: this machine's own user
        key, text = keys.create("proj_local", "one")
        assert client.get("/v1/files").status_code == 401
        assert client.get("/v1/files", headers={"authorization": f"Bearer {text}"}).status_code == 200
        keys.revoke(key.id)
        assert client.get("/v1/files", headers={"authorization": f"Bearer {text}"}).status_code == 401
        assert client.get("/v1/files").status_code == 401  # a door that had a lock stays locked


def test_a_key_does_not_open_another_project_by_naming_it(server: LiveServer) -> None:
    owner = furnish(server)
    with server.client(owner.key) as client:
        assert client.get("/v1/files", headers={"openai-project": "proj_local"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:1"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:80"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "localhost/#@x"}, 403),
        ({"host": "127.0.0.1@evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"host": "192.168.0.7"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost", "origin": "http://localhost"}, 200),
        ({"host": "localhost", "origin": "http://evil.example"}, 403),
        ({"host": "localhost", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "sec-fetch-site": "cross-site"}, 403),
        ({"host": "localhost", "sec-fetch-site": "same-site"}, 403),
        ({"host": "localhost", "sec-fetch-site": "none"}, 200),
    ],
)
def test_only_its_own_names_and_pages_are_answered(server: LiveServer, headers: dict[str, str], status: int) -> None:
    for method in ("GET", "DELETE", "POST"):
        path = "/v1/files" if method == "GET" else "/v1/files/file-x"
        with server.client() as client:
            reply = client.request(method, path, headers=headers)
        assert (reply.status_code == 403) == (status == 403), (method, reply.text)


@pytest.mark.parametrize("spellings", [1_500, pytest.param(10_000, marks=pytest.mark.long)])
def test_no_spelling_of_host_and_path_opens_the_door(server: LiveServer, spellings: int) -> None:
    owner = furnish(server)
    dice = random.Random(7)
    pieces = [
        "/v1/files",
        owner.file,
        "/content",
        "..",
        "%2e%2e",
        "//",
        "%2F",
        "\\",
        "%00",
        ";",
        "?x",
        "#",
        "@",
        "localhost",
        ":",
    ]
    letters = string.ascii_letters + string.digits + "/%.@#?&=:;"
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.settimeout(10)
        for _ in range(spellings):
            noise = "".join(dice.choice(letters) for _ in range(dice.randrange(8)))
            path = "/" + "".join(dice.choice(pieces) for _ in range(dice.randrange(1, 6))) + noise
            path = path.replace("#", "%23")
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            line.sendall(head.encode())
            status, text = read_reply(line)
            assert status == 401, (path, text)


def read_reply(line: socket.socket) -> tuple[int, str]:
    """Status and body of one reply with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = line.recv(65536)
        assert chunk, "the server hung up"
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(row.split(b":")[1]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length"))
    while len(body) < length:
        body += line.recv(65536)
    return int(head.split()[1]), body.decode()


def test_an_address_on_the_network_is_answered_by_number_but_not_by_any_name() -> None:
    places = Places(frozenset({"models.example"}), any_address=True)
    assert places.allows("192.168.0.7:8000")
    assert places.allows("[fe80::1]:8000")
    assert places.allows("models.example")
    assert not places.allows("rebound.example")


@pytest.mark.parametrize("value", ["Basic abc", "Bearer", "bearer\tx", "Bearer ' OR 1=1 --", "Bearer sk-é", "sk-"])
def test_no_spelling_of_a_key_is_an_error_of_ours(server: LiveServer, value: str) -> None:
    furnish(server)
    with server.client() as client:
        reply = client.get("/v1/files", headers={"authorization": value.encode()})  # type: ignore[dict-item]
    assert reply.status_code == 401


def test_bodies_beyond_the_limit_are_refused_also_when_nobody_said_how_long_they_are(tmp_path: Path) -> None:
    limits = Limits(json_bytes=1000)
    with live_server(fake_house(tmp_path / "service"), limits=limits) as server, server.client() as client:
        body = json.dumps({"model": BASE, "messages": [{"role": "user", "content": "x" * 2000}]}).encode()
        assert client.post("/v1/chat/completions", content=body).status_code == 413

        def pieces() -> Iterator[bytes]:
            yield from (body[start : start + 100] for start in range(0, len(body), 100))

        assert client.post("/v1/chat/completions", content=pieces()).status_code == 413


@pytest.mark.parametrize("deep", [65, 1_000, 100_000])
def test_json_that_nests_too_deep_is_refused_and_not_a_fault_of_ours(server: LiveServer, deep: int) -> None:
    body = b'{"model": "fake", "messages": ' + b"[" * deep + b"]" * deep + b"}"
    with server.client() as client:
        reply = client.post("/v1/chat/completions", content=body)
    assert reply.status_code == 400


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"a": NaN}', b'"\\ud800"', b'{"model": "\\ud800"}', b"\xff\xfe", b"9" * 5000]
)
def test_what_is_no_json_object_is_refused_and_not_a_fault_of_ours(server: LiveServer, body: bytes) -> None:
    with server.client() as client:
        for path in ("/v1/chat/completions", "/v1/fine_tuning/jobs", "/v1/embeddings", "/v1/uploads"):
            assert client.post(path, content=body).status_code == 400


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    limits = Limits(idle_seconds=0.3)
    with (
        live_server(fake_house(tmp_path / "service"), limits=limits) as server,
        socket.create_connection(("127.0.0.1", server.port)) as line,
    ):
        line.settimeout(10)
        line.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        status, text = read_reply(line)
    assert status == 408
    assert "in time" in text


def test_a_connection_that_never_finishes_a_head_is_closed_and_a_slow_answer_is_not(tmp_path: Path) -> None:
    house = fake_house(tmp_path / "service")
    with live_server(house, silence_seconds=0.4) as server:
        begun = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
        for before in (b"", begun, begun + b"\r\n"):
            with socket.create_connection(("127.0.0.1", server.port)) as line:
                line.settimeout(5)
                line.sendall(before)
                if before.endswith(b"\r\n\r\n"):
                    assert read_reply(line)[0] == 200
                    line.sendall(b"GET /v1")  # the second head on the line
                with suppress(BrokenPipeError, ConnectionResetError):
                    for _ in range(3):
                        time.sleep(0.1)
                        line.sendall(b"X")  # a letter now and then does not count
                    assert line.recv(1) == b""
        house.asking.call(lambda: time.sleep(1.0))
        with server.client() as client:
            assert client.post("/v1/chat/completions", json={"model": BASE, **CHAT}).status_code == 200


def test_too_many_questions_at_once_are_put_off_with_a_time_to_come_again(tmp_path: Path) -> None:
    house = fake_house(tmp_path / "service", chats_waiting=2)
    with live_server(house) as server, server.client() as client:
        house.asking.call(lambda: time.sleep(1.0))  # the asking thread is busy
        time.sleep(0.1)
        reply = client.post("/v1/chat/completions", json={"model": BASE, "n": 5, **CHAT})
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["type"] == "rate_limit_error"


def test_too_many_open_requests_of_one_project_are_put_off(tmp_path: Path) -> None:
    house, over = fake_house(tmp_path / "service"), threading.Event()
    with live_server(house, limits=Limits(requests_at_once=1)) as server, server.client() as client:
        house.asking.call(lambda: over.wait(10))  # the asking thread is busy
        with ThreadPoolExecutor(1) as pool, server.client() as other:
            slow = pool.submit(other.post, "/v1/chat/completions", json={"model": BASE, **CHAT})
            time.sleep(0.5)
            refused = client.get("/v1/files")
            over.set()
            assert slow.result(10).status_code == 200
        assert client.get("/v1/files").status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_every_reply_carries_what_openais_clients_read(server: LiveServer) -> None:
    with server.client() as client:
        for path in ("/v1/models", "/v1/nothing"):
            headers = client.get(path).headers
            assert headers["x-request-id"].startswith("req_")
            assert headers["openai-version"] == "2020-10-01"
            assert int(headers["openai-processing-ms"]) >= 0
            assert "server" not in headers
