"""One text for one assistant message, tool calls included: what engines return, graders judge and every record holds.

A message without calls is its text. One with calls is a JSON object in the project's form:
`{"content": "Let me look.", "tool_calls": [{"name": "find", "arguments": {"city": "Graz"}}]}`, without `content` where
nothing was said. Ids are left out. A text that spells this form out is read as the calls it spells.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from stepladder.domain.messages import Example, Message, ToolCall
from stepladder.domain.output import dump_json, order_keys

CONTENT, CALLS, NAME, ARGUMENTS = "content", "tool_calls", "name", "arguments"
_MESSAGE_KEYS = {"role", CONTENT, CALLS}
Tools = Sequence[Mapping[str, Any]]


def answer_text(message: Message, tools: Tools = ()) -> str:
    """The message as one text. Arguments follow the key order of the tool's parameters; further keys follow by name.

    Arguments that are no JSON object (half-formed ones of a model) stay as written, as a JSON string.
    """
    if not message.tool_calls:
        return message.content
    calls = []
    for call in message.tool_calls:
        arguments = parse_arguments(call.arguments, parameters_of(call.name, tools))
        calls.append({NAME: call.name, ARGUMENTS: call.arguments if arguments is None else arguments})
    said = message.content.strip()
    return dump_json({CONTENT: said, CALLS: calls} if said else {CALLS: calls})


def read_answer(text: str) -> Message:
    """The assistant message behind a text: the way back from `answer_text`, with new ids.

    OpenAI's own shape of a message with calls is understood as well, since recorded answers often have it.
    """
    plain = Message("assistant", text)
    if not text.lstrip().startswith("{"):
        return plain
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return plain
    if not isinstance(value, dict) or set(value) - _MESSAGE_KEYS or value.get("role", "assistant") != "assistant":
        return plain
    said, listed = value.get(CONTENT), value.get(CALLS)
    if not isinstance(listed, list) or not listed or not isinstance(said, str | None):
        return plain
    calls = [read_call(item, number) for number, item in enumerate(listed)]
    whole = tuple(call for call in calls if call is not None)
    return Message("assistant", said or "", tool_calls=whole) if len(whole) == len(calls) else plain


def read_call(value: Any, number: int, *, arguments_key: str = ARGUMENTS) -> ToolCall | None:
    """One call written as JSON, by itself or under OpenAI's `function`; None for anything else."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get(NAME), str) or arguments_key not in inner:
        return None
    arguments = inner[arguments_key]
    if isinstance(arguments, dict):
        arguments = dump_json(arguments)
    return ToolCall(f"call{number:05}", inner[NAME], arguments) if isinstance(arguments, str) else None


def parse_arguments(text: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Arguments of a call in stable key order; {} for an empty text, None for what is no JSON object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse)
        # Through JSON once more: sorts keys at every depth, and refuses what could not be written to a file.
        plain = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
        plain.encode()
        ordered = order_keys(json.loads(plain), schema)
    except (ValueError, RecursionError):
        return None
    return ordered if isinstance(ordered, dict) else None


def canonical_message(message: Message, tools: Tools = ()) -> Message:
    """The message with the arguments of its calls in the form that `answer_text` writes; ids stay."""
    calls = []
    for call in message.tool_calls:
        arguments = parse_arguments(call.arguments, parameters_of(call.name, tools))
        calls.append(call if arguments is None else replace(call, arguments=dump_json(arguments)))
    return replace(message, tool_calls=tuple(calls))


def canonical_answer(text: str, tools: Tools = ()) -> str:
    """`text` in the one form where it spells out tool calls; else as it is."""
    return answer_text(read_answer(text), tools)


def expected_answer(example: Example) -> str:
    """The reference as one text."""
    return answer_text(example.reference, example.input.tools)


def wants_tool_calls(examples: Iterable[Example]) -> bool:
    """Whether some of the expected answers are tool calls."""
    return any(example.reference.tool_calls for example in examples)


def parameters_of(name: str, tools: Tools) -> Mapping[str, Any]:
    """The JSON Schema of a tool's arguments; {} where the tool or its schema is not given."""
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, Mapping) and function.get(NAME) == name:
            parameters = function.get("parameters")
            return parameters if isinstance(parameters, Mapping) else {}
    return {}


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
