"""One text for one assistant message, and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.answer import (
    answer_text,
    canonical_answer,
    canonical_message,
    parameters_of,
    parse_arguments,
    read_answer,
)
from stepladder.domain.messages import Message, ToolCall

TOOL = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object", "properties": {"city": {}, "days": True}}},
}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(texts, values, max_size=4).map(json.dumps) | texts
messages = st.builds(
    lambda said, calls: Message("assistant", said, tool_calls=tuple(ToolCall("x", *call) for call in calls)),
    texts,
    st.lists(st.tuples(st.sampled_from(["find", "set"]) | texts, arguments), max_size=3),
)


def call(name: str, arguments: str, id: str = "x") -> Message:
    return Message("assistant", "", tool_calls=(ToolCall(id, name, arguments),))


def without_ids(message: Message) -> Message:
    return replace(message, tool_calls=tuple(replace(one, id="") for one in message.tool_calls))


@given(messages)
def test_a_message_comes_back_from_its_text(message: Message) -> None:
    text = answer_text(message, [TOOL])
    back = read_answer(text)
    if message.tool_calls:
        assert without_ids(back) == without_ids(canonical_message(replace(message, content=message.content.strip()), [TOOL]))
    else:
        assert back == message
    assert answer_text(back, [TOOL]) == text


@given(st.text() | st.from_regex(r'\{ ?"(tool_calls|content)": ?[\[{"].{0,12}'))
def test_any_text_can_be_read_and_written_again(text: str) -> None:
    assert answer_text(read_answer(text)) == text or read_answer(text).tool_calls


@given(st.dictionaries(texts, values, max_size=5))
def test_the_order_of_keys_and_the_ids_do_not_matter(fields: dict[str, object]) -> None:
    turned = dict(reversed(fields.items()))
    first, second = call("f", json.dumps(fields), "a"), call("f", json.dumps(turned, indent=1), "b")
    assert answer_text(first) == answer_text(second)


def test_arguments_follow_the_tools_own_order_and_further_keys_their_names() -> None:
    message = call("find", '{"zoo": 1, "days":[2,1], "city" : "Graz", "age": {"b": 1, "a": 2}}')
    expected = '{"name": "find", "arguments": {"city": "Graz", "days": [2, 1], "age": {"a": 2, "b": 1}, "zoo": 1}}'
    assert answer_text(message, [TOOL]) == f'{{"tool_calls": [{expected}]}}'
    assert answer_text(replace(message, content=" Let me look. "), [TOOL]).startswith('{"content": "Let me look.", "tool_calls"')


@pytest.mark.parametrize("text", ['{"city": "Gr', "[1, 2]", '"x"', "NaN", '{"a": Infinity}', '{"a": 1e999}', '{"a": "\\ud800"}'])
def test_arguments_that_are_no_json_object_stay_as_written(text: str) -> None:
    assert parse_arguments(text) is None
    assert read_answer(answer_text(call("f", text))).tool_calls[0].arguments == text


def test_no_arguments_are_an_empty_object() -> None:
    assert answer_text(call("f", "")) == answer_text(call("f", " {} ")) == '{"tool_calls": [{"name": "f", "arguments": {}}]}'


def test_openais_own_shape_is_the_same_answer() -> None:
    chat = call("find", '{"city": "Graz"}').as_chat()
    assert canonical_answer(json.dumps(chat)) == '{"tool_calls": [{"name": "find", "arguments": {"city": "Graz"}}]}'
    assert canonical_answer(json.dumps({**chat, "content": None})) == canonical_answer(json.dumps(chat))


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        '{"tool_calls": []}',
        '{"tool_calls": [{"name": "f"}]}',
        '{"tool_calls": [{"name": 1, "arguments": {}}]}',
        '{"tool_calls": [{"name": "f", "arguments": [1]}]}',
        '{"tool_calls": [{"name": "f", "arguments": {}}], "more": 1}',
        '{"content": 7, "tool_calls": [{"name": "f", "arguments": {}}]}',
        '{"role": "user", "tool_calls": [{"name": "f", "arguments": {}}]}',
        '{"tool_calls": ' + "[" * 100_000,
    ],
)
def test_what_is_not_the_form_is_text(text: str) -> None:
    assert read_answer(text) == Message("assistant", text)


def test_parameters_are_found_by_the_tools_name_and_missing_ones_are_empty() -> None:
    assert parameters_of("find", [TOOL]) == TOOL["function"]["parameters"]  # type: ignore[index]
    assert parameters_of("other", [TOOL, {"type": "odd"}]) == {}
    assert parameters_of("find", [{"function": {"name": "find", "parameters": None}}]) == {}
