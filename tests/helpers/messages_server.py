"""A local server that plays Anthropic's Messages API: strict about what the real one is strict about, then it echoes."""

from __future__ import annotations

import json
import re
from typing import Any

from chat_server import ChatServer, Reply

CALL_ID = re.compile(r"[A-Za-z0-9_-]+")


class MessagesServer(ChatServer):
    """Answers with the last user turn, held to a schema when one is sent. Refuses what Anthropic refuses, in words."""

    path = "/v1/messages"

    def __init__(self) -> None:
        super().__init__()
        self.answer = echo_message
        self.takes_temperature = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        reply = super().handle_chat(request)
        fault = request_fault(request, self.takes_temperature)
        return reply if fault is None else refusal(400, fault)


def refusal(status: int, words: str, kind: str = "invalid_request_error") -> Reply:
    """An error in the API's shape."""
    return Reply(status, {"type": "error", "error": {"type": kind, "message": words}})


def message(content: Any, stop_reason: str = "end_turn", input_tokens: int = 7, output_tokens: int = 3, **usage: int) -> Any:
    """A reply in the API's shape; a plain text becomes one block."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "test",
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens, **usage},
    }


def echo_message(request: dict[str, Any]) -> Any:
    """The last text of a user, at most `max_tokens` words; with a schema, the first value of each enum."""
    texts = [
        block["text"] for turn in request["messages"] if turn["role"] == "user" for block in turn["content"] if "text" in block
    ]
    text = texts[-1] if texts else ""
    if "output_config" in request:
        properties = request["output_config"]["format"]["schema"]["properties"]
        text = json.dumps({key: value.get("enum", [""])[0] for key, value in properties.items()})
    words = re.findall(r"\s*\S+", text)
    limit = request["max_tokens"]
    stop = "max_tokens" if len(words) > limit else "end_turn"
    asked = len(str(request.get("system", "")).split()) + sum(len(said.split()) + 1 for said in texts)
    return message("".join(words[:limit]), stop, asked, max(1, min(len(words), limit)))


def request_fault(request: dict[str, Any], takes_temperature: bool) -> str | None:
    """What the API would refuse in this request."""
    if "temperature" in request and not takes_temperature:
        return "`temperature` is not supported for this model"
    if not isinstance(request.get("max_tokens"), int) or request["max_tokens"] < 1:
        return "max_tokens: must be a positive integer"
    open_calls: set[str] = set()
    seen: set[str] = set()
    before = ""
    for turn in request["messages"]:
        if turn["role"] not in ("user", "assistant"):
            return f"messages: unexpected role {turn['role']}"
        if turn["role"] == before:
            return "messages: roles must alternate"
        before = turn["role"]
        results = {block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"}
        if results != open_calls:
            return f"messages: `tool_use` ids {sorted(open_calls)} without their `tool_result` blocks"
        if results and turn["content"][0]["type"] != "tool_result":
            return "messages: tool_result blocks come first"
        calls = [block for block in turn["content"] if block["type"] == "tool_use"]
        open_calls = {block["id"] for block in calls}
        for block in calls:
            if not CALL_ID.fullmatch(block["id"]) or block["id"] in seen or not isinstance(block["input"], dict):
                return "messages: a tool_use block is malformed"
            seen.add(block["id"])
        texts = [block["text"] for block in turn["content"] if block["type"] == "text"]
        if "" in texts:
            return "messages: text content blocks must be non-empty"
        if texts and not any(text.strip() for text in texts):
            return "messages: text content blocks must contain non-whitespace text"
    for tool in request.get("tools", ()):
        if set(tool) - {"name", "description", "input_schema"} or tool["input_schema"].get("type") != "object":
            return "tools: malformed"
    return None
