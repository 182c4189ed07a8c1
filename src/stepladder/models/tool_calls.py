"""How a chat template writes an assistant's tool calls, learned by letting it write one; and reading a model's calls back.

Understood are conventions that put each call, or a list of them, into JSON with the tool's name under `name`: that of Hermes,
Qwen 2.5 and Qwen 3 (`<tool_call>{"name": …, "arguments": …}</tool_call>`), of Llama 3, and their like. Those that write arguments
one by one between tags of their own are not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stepladder.domain.answer import NAME, read_call
from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message, ToolCall
from stepladder.models.chat_template import PROBE, PROBE_TOOL, ChatTemplate

_ARGUMENTS = {"place": "here"}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CallFormat:
    """What stands around the JSON of a call (outer white space aside), and the key of its arguments.

    `opening` is empty where the bare JSON is the call; then the whole answer must be JSON to be taken for calls.
    """

    opening: str
    closing: str
    arguments_key: str

    def read(self, text: str) -> Message:
        """The answer with its calls. One that begins a call and does not finish it properly is text as a whole."""
        plain = Message("assistant", text)
        said: list[str] = []
        calls: list[ToolCall] = []
        rest = text.strip()
        while rest:
            before, opened, after = rest.partition(self.opening) if self.opening else ("", "bare", rest)
            said.append(before.strip())
            if not opened:
                break
            value, rest = _take_json(after)
            found = self._calls_in(value, len(calls))
            if found is None or (self.closing and rest and not rest.startswith(self.closing)):
                return plain
            calls += found
            rest = rest.removeprefix(self.closing).lstrip()
        return Message("assistant", "\n".join(part for part in said if part), tool_calls=tuple(calls)) if calls else plain

    def _calls_in(self, value: Any, number: int) -> list[ToolCall] | None:
        """A call or a list of calls; None where there is anything else."""
        listed = value if isinstance(value, list) else [value]
        calls = [read_call(item, number + place, arguments_key=self.arguments_key) for place, item in enumerate(listed)]
        whole = [call for call in calls if call is not None]
        return whole if whole and len(whole) == len(calls) else None


def call_format(template: ChatTemplate) -> CallFormat | None:
    """The convention of a template; None when it drops calls, or writes them in a way that is not understood here."""
    ask = Message("user", "Where?")
    call = Message("assistant", "", tool_calls=(ToolCall("call00001", PROBE, json.dumps(_ARGUMENTS)),))
    try:
        before = template.render([ask], [PROBE_TOOL], add_generation_prompt=True)
        after = template.render([ask, call], [PROBE_TOOL], add_generation_prompt=False)
        turn_end = template.turn_end
    except ModelError:
        return None
    return _find_format(after[len(before) :].strip().removesuffix(turn_end.strip())) if after.startswith(before) else None


def _find_format(written: str) -> CallFormat | None:
    for start, character in enumerate(written):
        if character not in "[{":
            continue
        value, rest = _take_json(written[start:])
        item = value[0] if isinstance(value, list) and value else value
        key = _arguments_key(item)
        if key is not None:
            opening = written[:start].split()[-1:]  # what stands further ahead, an empty train of thought, is no part of it
            return CallFormat("".join(opening), rest.strip(), key)
    return None


def _arguments_key(value: Any) -> str | None:
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or inner.get(NAME) != PROBE:
        return None
    return next((key for key, item in inner.items() if item in (_ARGUMENTS, json.dumps(_ARGUMENTS))), None)


def _take_json(text: str) -> tuple[Any, str]:
    """The JSON value that `text` begins with, and what follows it; (None, text) without one. Outer white space is dropped."""
    text = text.strip()
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None, text
    return value, text[end:].lstrip()
