"""Messages and tools as OpenAI writes them, read strictly: what has no place in a `Message` is an error, not a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from stepladder.data.readers.draft import Row
from stepladder.domain.messages import ROLES, Example, Message, Role, ToolCall

_MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "weight"}
_CALL_KEYS = {"id", "type", "function"}
DEVELOPER_NOTE = 'the role "developer" was read as "system".'
PARTS_NOTE = "text parts of a message were joined by line breaks."


def read_turns(row: Row, value: Any, field: str, notes: set[str]) -> tuple[Message, ...]:
    """The list of messages at `field`; what was read in another way than written goes into `notes`.

    Raises:
        DataError: With the place, such as `messages[2].role`.
    """
    if not isinstance(value, list) or not value:
        raise row.fault(f"'{field}' must be a list of messages, and not empty.", "Correct the line, or drop it.")
    return tuple(_read_turn(row, item, f"{field}[{index}]", notes) for index, item in enumerate(value))


def read_tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The functions on offer, kept as they are."""
    if row.values.get("functions") is not None:
        raise row.fault("'functions' is the old form.", 'Write \'tools\', each {"type": "function", "function": …}.')
    tools = row.values.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise row.fault("'tools' must be a list.", "Correct the line.")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or tool.get("type") != "function":
            hint = 'Write {"type": "function", "function": {"name": …, "parameters": …}}.'
            raise row.fault(f"'tools[{index}]' is not a function with a name.", hint)
    return tuple(tools)


def write_turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The list of messages that `read_turns` takes for these; a weight of 1, which is what none means, is left out."""
    return [
        {**message.as_chat(), **({} if message.weight in (None, 1.0) else {"weight": int(message.weight)})}
        for message in messages
    ]


def write_tools(example: Example) -> dict[str, Any]:
    """The key `tools`, where there are any."""
    return {"tools": [dict(tool) for tool in example.input.tools]} if example.input.tools else {}


def _read_turn(row: Row, value: Any, place: str, notes: set[str]) -> Message:
    if not isinstance(value, dict):
        raise row.fault(f"'{place}' must be an object with 'role' and 'content'.", "Correct the line.")
    unknown = [key for key, item in value.items() if key not in _MESSAGE_KEYS and item is not None]
    if unknown:
        hint = "Move it beside 'messages', where it becomes metadata, or remove it."
        raise row.fault(f"'{place}' has a key that would be lost: '{unknown[0]}'.", hint)
    role = _read_role(row, value.get("role"), place, notes)
    calls = _read_calls(row, value.get("tool_calls"), f"{place}.tool_calls")
    if calls and role != "assistant":
        raise row.fault(f"'{place}.tool_calls' belongs to assistant turns.", "Correct the role.")
    return Message(
        role=role,
        content=_read_content(row, value, role, bool(calls), place, notes),
        name=_read_text(row, value, "name", place),
        tool_calls=calls,
        tool_call_id=_read_text(row, value, "tool_call_id", place),
        weight=_read_weight(row, value.get("weight"), role, place),
    )


def _read_role(row: Row, value: Any, place: str, notes: set[str]) -> Role:
    if value == "developer":
        notes.add(DEVELOPER_NOTE)
        return "system"
    if value not in ROLES:
        raise row.fault(f"'{place}.role' is {value!r}.", f"Roles are {', '.join(ROLES)} (and developer, read as system).")
    return cast(Role, value)


def _read_content(row: Row, message: Mapping[str, Any], role: Role, calls: bool, place: str, notes: set[str]) -> str:
    value = message.get("content")
    if value is None and calls:
        return ""
    if isinstance(value, list):
        value = _join_parts(row, value, f"{place}.content", notes)
    if not isinstance(value, str):
        raise row.fault(f"'{place}.content' must be a text.", "Only tool-calling turns may leave it null.")
    return value


def _join_parts(row: Row, parts: list[Any], place: str, notes: set[str]) -> str:
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or set(part) != {"type", "text"} or part["type"] != "text" or type(part["text"]) is not str:
            raise row.fault(f"'{place}[{index}]' is not a text part.", 'Parts are {"type": "text", "text": …}.')
    if len(parts) > 1:
        notes.add(PARTS_NOTE)
    return "\n".join(part["text"] for part in parts)


def _read_calls(row: Row, value: Any, place: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise row.fault(f"'{place}' must be a list of calls, and not empty.", "Correct the line.")
    return tuple(_read_call(row, call, f"{place}[{index}]") for index, call in enumerate(value))


def _read_call(row: Row, call: Any, place: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if (
        not isinstance(function, dict)
        or set(call) - _CALL_KEYS
        or set(function) != {"name", "arguments"}
        or not isinstance(call.get("id"), str)
        or call.get("type", "function") != "function"
        or not all(isinstance(text, str) for text in function.values())
    ):
        form = '{"id": …, "type": "function", "function": {"name": …, "arguments": "JSON as text"}}'
        raise row.fault(f"'{place}' is not a function call.", f"Write {form}.")
    return ToolCall(call["id"], function["name"], function["arguments"])


def _read_text(row: Row, message: Mapping[str, Any], key: str, place: str) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise row.fault(f"'{place}.{key}' must be a text.", "Correct the line.")
    return value


def _read_weight(row: Row, value: Any, role: Role, place: str) -> float | None:
    if role != "assistant":
        if value is not None:
            raise row.fault(f"'{place}.weight' stands at a {role} turn.", "Only assistant turns are learned: remove it.")
        return None
    if value is None:
        return 1.0
    if isinstance(value, bool) or value not in (0, 1):
        raise row.fault(f"'{place}.weight' is {value!r}.", "Write 0 (not learned) or 1 (learned).")
    return float(value)
