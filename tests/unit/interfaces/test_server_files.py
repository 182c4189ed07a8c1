"""Files and uploads: OpenAI's shapes, streaming with quotas, and names that are never paths."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError

from live_server import LiveServer, fake_house, live_server
from stepladder.interfaces.server.errors import ApiError
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.multipart import read_form
from stepladder.service.serving.house import HouseSettings

ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
MEBIBYTE = 2**20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "service")) as running:
        yield running


def sdk(server: LiveServer) -> OpenAI:
    return OpenAI(base_url=server.url, api_key="anything", max_retries=0, _strict_response_validation=True)


def test_a_file_comes_in_is_shown_listed_read_and_deleted(server: LiveServer) -> None:
    client = sdk(server)
    made = client.files.create(file=("rows.jsonl", ROW), purpose="fine-tune")
    assert (made.bytes, made.filename, made.purpose, made.status) == (len(ROW), "rows.jsonl", "fine-tune", "processed")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == ROW
    assert [file.id for file in client.files.list(purpose="fine-tune")] == [made.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(NotFoundError) as error:
        client.files.retrieve(made.id)
    assert error.value.param == "id"


def test_a_file_may_have_an_end(server: LiveServer) -> None:
    made = sdk(server).files.create(
        file=("a.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600


def test_no_browser_takes_an_uploaded_page_for_one_of_the_servers(server: LiveServer) -> None:
    made = sdk(server).files.create(file=("a.html", b"<script>alert(1)</script>"), purpose="user_data")
    with server.client() as client:
        headers = client.get(f"/v1/files/{made.id}/content").headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == "attachment"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "cooking"}, "purpose"),
        ({"purpose": "user_data", "colour": "red"}, "colour"),
        (
            {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "12"},
            "expires_after.seconds",
        ),
        ({"purpose": "user_data", "expires_after[anchor]": "now", "expires_after[seconds]": "4000"}, "expires_after"),
        ({"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"}, "expires_after"),
    ],
)
def test_a_form_that_says_something_odd_is_refused_by_the_name_of_the_field(
    server: LiveServer, fields: dict[str, str], param: str
) -> None:
    with server.client() as client:
        reply = client.post("/v1/files", data=fields, files={"file": ("a.txt", b"x")})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"not json\n", ROW + b"[1]\n", ROW + b"{\n", b'{"a":' * 100_000, b"\xff\xfe\n"]
)
def test_training_files_that_are_no_jsonl_are_refused_at_once(server: LiveServer, content: bytes) -> None:
    with pytest.raises(BadRequestError) as error:
        sdk(server).files.create(file=("rows.jsonl", content), purpose="fine-tune")
    assert "JSONL" in str(error.value) or "empty" in str(error.value)
    assert sdk(server).files.list().data == []


NAMES = (
    "../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/proc/self/root/etc/passwd",
    "a/../../b",
    "//server/share",
    "\\\\server\\share\\x",
    "CON",
    "file.jsonl\x00.png",
    "%2e%2e%2fx",
    "name#fragment",
    "name\nwith: header",
    "\u202egnp.exe",
    "x" * 1000,
    "..",
    ".",
    "",
)


def test_no_name_of_a_file_is_a_path(server: LiveServer, tmp_path: Path) -> None:
    inside = tmp_path / "service"
    outside = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    with server.client() as client:
        for name in NAMES:
            spelled = name.replace("\\", "\\\\").replace('"', "%22").replace("\n", "%0A").encode()
            body = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
            body += b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + spelled + b'"\r\n\r\nabc\r\n--x--\r\n'
            reply = client.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
            assert reply.status_code == 200, (name, reply.text)
            made = reply.json()
            assert "/" not in made["filename"]
            assert len(made["filename"]) <= 255
            assert client.get(f"/v1/files/{made['id']}/content").content == b"abc"
            assert client.get(
                "/v1/files/" + name.replace("#", "%23").replace("\x00", "%00").replace("\n", "%0A")
            ).status_code in (
                200,  # the empty name is the list
                404,
            )
    assert {path for path in tmp_path.rglob("*") if inside not in path.parents} == outside
    stored = {path.name for path in (inside / "files").rglob("*") if path.is_file()}
    assert stored == {hashlib.sha256(b"abc").hexdigest()}


def test_pages_hang_together(server: LiveServer) -> None:
    client = sdk(server)
    made = [client.files.create(file=(f"{number}.txt", b"x"), purpose="user_data").id for number in range(7)]
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(limit=3, order="asc")] == made
    first = client.files.list(limit=3)
    assert (first.has_more, first.first_id, first.last_id) == (True, made[6], made[4])  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        client.files.list(after="file-unknown")
    with pytest.raises(BadRequestError):
        client.files.list(limit=0)


def test_a_project_keeps_no_more_than_its_share(tmp_path: Path) -> None:
    limits = Limits(project_bytes=250, file_bytes=100)
    with live_server(fake_house(tmp_path / "service"), limits=limits) as server:
        client = sdk(server)
        with server.client() as plain:
            reply = plain.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"x" * 101)})
            assert reply.status_code == 413
        for number in range(2):
            client.files.create(file=("a", b"%d" % number * 100), purpose="user_data")
        with pytest.raises(RateLimitError) as error:
            client.files.create(file=("a", b"z" * 100), purpose="user_data")
        assert error.value.code == "storage_quota_exceeded"
        client.files.delete(client.files.list().data[0].id)
        client.files.create(file=("a", b"z" * 100), purpose="user_data")


def upload_in_pieces(server: LiveServer, total: int, piece: bytes) -> Any:
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(total // len(piece)):
            yield piece
        yield b"\r\n--x--\r\n"

    with server.client() as client:
        return client.post("/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})


def check_memory_of_an_upload(tmp_path: Path, total: int) -> None:
    limits = Limits(file_bytes=total, project_bytes=total)
    with live_server(fake_house(tmp_path / "service"), limits=limits) as server:
        assert upload_in_pieces(server, MEBIBYTE, b"w" * 65536).status_code == 200  # what is loaded once is not the upload's
        server.house.files("proj_local").delete(server.house.files("proj_local").list()[0].id)
        process, peak, over = psutil.Process(os.getpid()), [0], threading.Event()
        before = process.memory_info().rss

        def look() -> None:
            while not over.wait(0.005):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=look)
        watcher.start()
        reply = upload_in_pieces(server, total, b"m" * 262_144)
        over.set()
        watcher.join()
        assert reply.status_code == 200, reply.text
        assert reply.json()["bytes"] == total
        assert peak[0] - before <= 64 * MEBIBYTE


def test_a_large_upload_takes_little_memory(tmp_path: Path) -> None:
    check_memory_of_an_upload(tmp_path, 192 * MEBIBYTE)


@pytest.mark.long
def test_an_upload_of_five_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    check_memory_of_an_upload(tmp_path, 5 * 1024 * MEBIBYTE)


class Kept:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


async def _chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), value=st.text(max_size=40), size=st.integers(1, 64))
def test_a_form_is_read_the_same_however_it_is_cut(content: bytes, value: str, size: int) -> None:
    boundary = b"b" + hashlib.sha256(content + value.encode(errors="surrogatepass")).hexdigest()[:20].encode()
    plain = value.encode("utf-8", errors="replace")
    body = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + plain + b"\r\n"
    body += b"--" + boundary + b'\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + content + b"\r\n"
    body += b"--" + boundary + b"--\r\n"
    kept = Kept()
    kind = f"multipart/form-data; boundary={boundary.decode()}"
    form = asyncio.run(read_form(kind, _chunks(body, size), file_field="file", sink=kept))
    assert kept.data == content
    assert form.fields == {"purpose": plain.decode()}
    assert (form.filename, form.has_file) == ("f", True)


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(max_size=200),
    kind=st.sampled_from(["multipart/form-data; boundary=x", "multipart/form-data", "text/plain", ""]),
)
def test_any_other_bytes_are_refused_and_not_a_fault_of_ours(body: bytes, kind: str) -> None:
    with pytest.raises(ApiError) as error:
        asyncio.run(read_form(kind, _chunks(b"--x\r\n" + body, 7), file_field="file", sink=Kept()))
    assert error.value.status == 400


def test_an_upload_in_parts_becomes_a_file(server: LiveServer) -> None:
    client = sdk(server)
    content = ROW * 3
    upload = client.uploads.create(filename="rows.jsonl", purpose="fine-tune", bytes=len(content), mime_type="text/jsonl")
    assert upload.status == "pending"
    halves = [content[:50], content[50:]]
    parts = [client.uploads.parts.create(upload.id, data=half).id for half in halves[::-1]][::-1]
    done = client.uploads.complete(upload.id, part_ids=parts, md5=hashlib.md5(content).hexdigest())
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == content
    assert [file.id for file in client.files.list()] == [done.file.id]


def test_the_sdks_own_chunking_works(server: LiveServer) -> None:
    client = sdk(server)
    done = client.uploads.upload_file_chunked(
        file=ROW * 40, filename="rows.jsonl", bytes=len(ROW) * 40, mime_type="text/jsonl", purpose="fine-tune", part_size=1000
    )
    assert done.file is not None
    assert client.files.content(done.file.id).read() == ROW * 40


def test_an_upload_that_is_not_what_was_announced_is_refused(server: LiveServer) -> None:
    client = sdk(server)
    upload = client.uploads.create(filename="a.txt", purpose="user_data", bytes=6, mime_type="text/plain")
    part = client.uploads.parts.create(upload.id, data=b"abc").id
    for wrong in ([part], [part, part], ["part_unknown"]):
        with pytest.raises(BadRequestError):
            client.uploads.complete(upload.id, part_ids=wrong)
    with server.client() as plain:  # more than was announced is not even stored
        assert plain.post(f"/v1/uploads/{upload.id}/parts", files={"data": b"abcd"}).status_code == 413
    second = client.uploads.parts.create(upload.id, data=b"def").id
    with pytest.raises(BadRequestError, match="MD5"):
        client.uploads.complete(upload.id, part_ids=[part, second], md5="0" * 32)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(BadRequestError):
        client.uploads.complete(upload.id, part_ids=[part, second])


def test_result_files_come_as_base64_unless_the_server_was_told_otherwise(tmp_path: Path) -> None:
    csv = b"step,train_loss\n1,0.50000\n" * 40_000  # longer than one chunk
    for encoded in (True, False):
        house = fake_house(tmp_path / f"service-{encoded}", settings=HouseSettings(results_as_base64=encoded))
        with house.blobs.receive("proj_local") as incoming:
            incoming.write(csv)
            made = house.files("proj_local").add(incoming, filename="step_metrics.csv", purpose="fine-tune-results")
        with live_server(house) as server:
            got = sdk(server).files.content(made.id).read()
        assert (base64.b64decode(got, validate=True) if encoded else got) == csv


def test_the_same_idempotency_key_makes_one_file(server: LiveServer) -> None:
    with server.client() as client:
        replies = [
            client.post(
                "/v1/files",
                data={"purpose": "user_data"},
                files={"file": ("a", b"x")},
                headers={"idempotency-key": "again"},
            ).json()
            for _ in range(2)
        ]
    assert replies[0] == replies[1]
    assert json.loads(json.dumps(replies[0]))["bytes"] == 1
