"""A local server in OpenAI's chat-completions shape: echoes the last user turn, or misbehaves as scripted."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One scripted reply. `body` may be JSON or raw text; `delay_seconds` before anything is sent.

    `half`: only half of the body that was announced comes, then the connection ends; `unannounced`: without saying its length.
    `drip_seconds` pass between the bytes. `hang_up` ends the connection without a word.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    half: bool = False
    unannounced: bool = False
    drip_seconds: float = 0.0
    hang_up: bool = False


class ChatServer(ThreadingHTTPServer):
    """`script` replies are used up in order of arrival, then every request is answered properly: by `answer`."""

    daemon_threads = True
    path = "/v1/chat/completions"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.arrivals: list[float] = []
        self.most_at_once = 0
        self.delay_seconds = 0.0
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = echo
        self._at_once = 0
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        with self._guard:
            self.requests.append(request)
            self.arrivals.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            scripted = self.script.pop(0) if self.script else None
        time.sleep(self.delay_seconds if scripted is None else scripted.delay_seconds)
        with self._guard:
            self._at_once -= 1
        return scripted or Reply(body=self.answer(request))


def echo(request: dict[str, Any]) -> dict[str, Any]:
    """The last user turn, at most `max_tokens` words of it; with a schema, its first label under the first key."""
    text = next((turn["content"] for turn in reversed(request["messages"]) if turn["role"] == "user"), "")
    if "response_format" in request:
        form = request["response_format"]
        properties = form.get("json_schema", form)["schema"]["properties"]
        text = json.dumps({key: value.get("enum", [""])[0] for key, value in properties.items()})
    words = re.findall(r"\s*\S+", text)
    limit = request.get("max_tokens", request.get("max_completion_tokens"))
    cut = len(words) > limit
    prompt_tokens = sum(len(turn["content"].split()) + 1 for turn in request["messages"])
    return completion("".join(words[:limit]), "length" if cut else "stop", prompt_tokens, min(len(words), limit))


def completion(
    text: str | None, finish_reason: str = "stop", prompt_tokens: int = 7, completion_tokens: int = 3, **message: Any
) -> dict[str, Any]:
    """A reply in OpenAI's shape."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "test",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.path != self.server.path:
            self._send(Reply(404, {"error": {"message": f"no such path {self.path}"}}))
            return
        self._send(self.server.handle_chat(request))

    def do_GET(self) -> None:
        """Nothing is there to be read, but what the script says."""
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        script = self.server.script
        self._send(script.pop(0) if script else Reply(404, {"error": {"message": f"no such path {self.path}"}}))

    def _send(self, reply: Reply) -> None:
        if reply.hang_up:
            self.close_connection = True
            return
        data = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            if reply.unannounced:
                self.send_header("Connection", "close")
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if reply.half:
                data = data[: len(data) // 2]
                self.close_connection = True
            for byte in [data] if not reply.drip_seconds else [data[at : at + 1] for at in range(len(data))]:
                self.wfile.write(byte)
                self.wfile.flush()
                time.sleep(reply.drip_seconds)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up waiting

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@contextmanager
def chat_server(kind: type[ChatServer] = ChatServer) -> Iterator[ChatServer]:
    """The server on a free port of this machine, for the length of the block."""
    server = kind()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
