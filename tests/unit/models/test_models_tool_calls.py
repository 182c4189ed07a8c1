"""How templates write tool calls, and how a model's calls are read back."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Conversation
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.conversation import encode_conversation, encode_prompt
from stepladder.models.tokenizer import Tokenizer
from stepladder.models.tool_calls import CallFormat, call_format
from tool_tasks import CALLING_TEMPLATE, TOOLS

TAGGED = CallFormat("<tool_call>", "</tool_call>", "arguments")
LISTED = """{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}
{%- if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS] [
{%- for c in m.tool_calls %}{% set f = c.function %}
{{- {'name': f.name, 'arguments': f.arguments, 'id': c.id} | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]</s>
{%- else %} {{ m.content }}</s>{% endif %}{% endfor %}"""
BARE = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}"
    "<|{{ m.role }}|>\n{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|end|>\n'
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WORDED = BARE.replace('{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}', "call {{ f.name }}")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CALLING_TEMPLATE, TAGGED),
        (LISTED, CallFormat("[TOOL_CALLS]", "", "arguments")),
        (BARE, CallFormat("", "", "parameters")),
        (WORDED, None),
    ],
    ids=["tagged", "listed", "bare", "in words"],
)
def test_the_convention_is_learned_from_the_template_itself(template: str, expected: CallFormat | None) -> None:
    assert call_format(ChatTemplate(template)) == expected


def test_a_template_that_drops_calls_has_none(tiny_template: ChatTemplate) -> None:
    assert call_format(tiny_template) is None


def said_and_called(message: Message) -> tuple[str, list[tuple[str, str]]]:
    return message.content, [(call.name, call.arguments) for call in message.tool_calls]


@pytest.mark.parametrize(
    ("form", "text", "said", "calls"),
    [
        (TAGGED, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", [("f", '{"a": 1}')]),
        (TAGGED, 'Wait. <tool_call>{"name": "f", "arguments": {}}</tool_call> So.', "Wait.\nSo.", [("f", "{}")]),
        (TAGGED, '<tool_call>{"name": "f", "arguments": "{\\"a\\": "}</tool_call>', "", [("f", '{"a": ')]),
        (TAGGED, '<tool_call>{"name": "f", "arguments": {}}', "", [("f", "{}")]),
        (
            TAGGED,
            '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>',
            "",
            [("f", "{}"), ("g", "{}")],
        ),
        (
            CallFormat("[TOOL_CALLS]", "", "arguments"),
            '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
            "",
            [("f", "{}"), ("g", "{}")],
        ),
        (CallFormat("", "", "parameters"), ' {"name": "f", "parameters": {"a": 1}}\n', "", [("f", '{"a": 1}')]),
    ],
)
def test_calls_are_read_out_of_an_answer(form: CallFormat, text: str, said: str, calls: list[tuple[str, str]]) -> None:
    assert said_and_called(form.read(text)) == (said, calls)


@pytest.mark.parametrize(
    "text",
    [
        "no call at all",
        "",
        "<tool_call>",
        '<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>',
        '<tool_call>{"name": "f"}</tool_call>',
        "<tool_call>f()</tool_call>",
        '<tool_call>{"name": "f", "arguments": {}} and more',
        '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"na',
    ],
)
def test_a_call_that_is_not_finished_properly_leaves_the_answer_as_it_is(text: str) -> None:
    assert TAGGED.read(text) == Message("assistant", text)


@given(
    st.text()
    | st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', "[", "x"])).map("".join)
)
def test_any_text_can_be_read(text: str) -> None:
    for form in (TAGGED, CallFormat("", "", "parameters")):
        message = form.read(text)
        assert message.tool_calls or message == Message("assistant", text)


def test_what_a_template_writes_is_read_back() -> None:
    calls = (ToolCall("a", "f", '{"city": "Bad \\"Ischl\\" </tool_call>", "n": [1, null]}'), ToolCall("b", "g", "{}"))
    template = ChatTemplate(CALLING_TEMPLATE)
    ask = Message("user", "?")
    text = template.render([ask, Message("assistant", "Wait.", tool_calls=calls)], TOOLS, add_generation_prompt=False)
    written = text.split("<|im_start|>assistant\n")[1].removesuffix("<|im_end|>\n")
    assert said_and_called(TAGGED.read(written)) == ("Wait.", [(call.name, call.arguments) for call in calls])


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl", "llama3_1", "llama3_2"])
def test_what_real_templates_write_is_read_back(name: str) -> None:
    package = find_spec("trl")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja"
    template = ChatTemplate(file.read_text(encoding="utf-8"), special={"bos_token": "<s>"})
    form = call_format(template)
    assert form is not None
    call = ToolCall("a", "get_weather", '{"city": "Graz", "day": "Monday"}')
    ask = Message("user", "?")
    before = template.render([ask], TOOLS, add_generation_prompt=True)
    after = template.render([ask, Message("assistant", "", tool_calls=(call,))], TOOLS, add_generation_prompt=False)
    message = form.read(after.removeprefix(before).strip().removesuffix(template.turn_end.strip()))
    assert [(one.name, one.arguments) for one in message.tool_calls] == [(call.name, call.arguments)]
    assert form.read("It rains.") == Message("assistant", "It rains.")


def test_a_training_row_learns_exactly_the_tokens_of_its_calls_and_the_end_of_turn(tiny_tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CALLING_TEMPLATE)
    turns = (Message("user", "Weather in Graz?"), Message("assistant", "", tool_calls=(ToolCall("a", "f", '{"city": "Graz"}'),)))
    encoded = encode_conversation(template, tiny_tokenizer, Conversation("row", turns, TOOLS))
    learned = [id for id, flag in zip(encoded.token_ids, encoded.learned, strict=True) if flag]
    text = tiny_tokenizer.decode(learned, keep_control_tokens=True)
    assert text == '<tool_call>\n{"name": "f", "arguments": {"city": "Graz"}}\n</tool_call><|im_end|>'
    assert list(encoded.token_ids[: encoded.prompt_tokens]) == encode_prompt(template, tiny_tokenizer, turns[:1], TOOLS)
