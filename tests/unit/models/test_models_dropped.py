"""Templates that drop what they were given are refused; those that write it in their own way are not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Conversation
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.conversation import encode_conversation, encode_prompt
from stepladder.models.tokenizer import Tokenizer
from tiny_model import IM_END
from tool_tasks import CALLING_TEMPLATE, TOOLS

WEATHER = ToolCall("call00001", "get_weather", '{"city": "Bad \\"Ischl\\" Köln\\nx", "day": "Monday"}')
ALARM = ToolCall(
    "call00002",
    "set_alarm",
    '{"hour": 7, "label": "tea\'s ready", "on": true, "rate": 1.50, "of": [1, {"a": "b🙂"}], "no": null}',
)
ASK = Message("user", "Weather in Bad Ischl on Monday, and an alarm at 7?")
RESULT = Message("tool", '{"sky": "RAIN \\"17\\" Ä"}\n ok\n', name="get_weather", tool_call_id="call00001")
ONE = (ASK, Message("assistant", "", tool_calls=(WEATHER,)), RESULT, Message("assistant", "It rains."))
SAME = (
    ASK,
    Message("assistant", "", tool_calls=(WEATHER, ALARM)),
    Message("tool", "ok", name="get_weather", tool_call_id="call00001"),
    Message("tool", "ok", name="set_alarm", tool_call_id="call00002"),
    Message("assistant", "All is ok."),
)
ARGUMENTS = "(call.function.arguments | tojson)"
RESULTS = "message.content + '\\n</tool_response>"

MANNERS = {
    "as JSON": CALLING_TEMPLATE,
    "letters escaped": CALLING_TEMPLATE.replace("arguments | tojson", "arguments | tojson(ensure_ascii=true, indent=2)"),
    "JSON inside JSON": CALLING_TEMPLATE.replace(ARGUMENTS, "(call.function.arguments | tojson | tojson)"),
    "as Python": CALLING_TEMPLATE.replace(ARGUMENTS, "(call.function.arguments | string)"),
    "the whole function": CALLING_TEMPLATE.replace(ARGUMENTS, "(call.function | tojson)"),
    "in tags": CALLING_TEMPLATE.replace(
        ARGUMENTS + " +",
        "'' }}{% for key, value in call.function.arguments.items() %}<{{ key }}>"
        "{{ value if value is string else value | tojson }}</{{ key }}>{% endfor %}{{-",
    ),
    "results as JSON": CALLING_TEMPLATE.replace(RESULTS, RESULTS.replace("message.content", "(message.content | tojson)")),
    "results trimmed": CALLING_TEMPLATE.replace(RESULTS, RESULTS.replace("message.content", "(message.content | trim)")),
}


def encode(text: str, tokenizer: Tokenizer, turns: tuple[Message, ...]) -> None:
    template = ChatTemplate(text, model="this")
    last = len(turns) - 1
    encode_conversation(template, tokenizer, Conversation("row-1", turns, TOOLS))
    encode_prompt(template, tokenizer, turns[:last], TOOLS)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("turns", [ONE, SAME], ids=["one call", "two calls, equal results"])
def test_a_value_may_be_written_in_any_of_these_ways(manner: str, turns: tuple[Message, ...], tiny_tokenizer: Tokenizer) -> None:
    assert list(MANNERS.values()).count(MANNERS[manner]) == 1  # each is another one
    encode(MANNERS[manner], tiny_tokenizer, turns)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("qwen2_5", IM_END),
        ("qwen3_instruct_2507", IM_END),
        ("qwen3_vl", IM_END),
        ("lfm2_v2", IM_END),
        ("gemma4_v2", "<turn|>"),
        ("llama3_1", "<|eot_id|>"),
        ("llama3_2", "<|eot_id|>"),
    ],
)
def test_real_templates_with_tools_drop_nothing(name: str, end: str, tiny_tokenizer: Tokenizer) -> None:
    package = find_spec("trl")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja"
    text = file.read_text(encoding="utf-8").replace(end, IM_END)
    encode(text, tiny_tokenizer, ONE)
    if not name.startswith("llama"):  # which refuses two calls by itself
        encode(text, tiny_tokenizer, SAME)


@pytest.mark.parametrize(
    ("fault", "turns", "what"),
    [
        (
            "{%- set messages = messages | rejectattr('role', 'equalto', 'tool') | list -%}" + CALLING_TEMPLATE,
            ONE,
            r"drops words of turn 3 \(tool\)",
        ),
        (
            CALLING_TEMPLATE.replace("message.tool_calls or []", "(message.tool_calls or [])[:1]"),
            SAME,
            "drops 'set_alarm' of tool call 2 in turn 2",
        ),
        (CALLING_TEMPLATE.replace(ARGUMENTS, "'{'"), ONE, "drops tool calls"),
        (
            CALLING_TEMPLATE.replace(
                ARGUMENTS, "({'city': call.function.arguments.city, 'place': call.function.arguments.place} | string)"
            ),
            ONE,
            "drops 'Monday' of tool call 1 in turn 2",
        ),
        (
            CALLING_TEMPLATE.replace(ARGUMENTS, "(call.function.arguments.values() | select('string') | list | tojson)"),
            SAME,
            "drops 7 of tool call 2 in turn 2",
        ),
        (
            CALLING_TEMPLATE.replace(
                "{%- elif message.role == 'tool' %}", "{%- elif message.role == 'tool' and loop.index == 3 %}"
            ),
            SAME,
            r"drops words of turn 4 \(tool\)",
        ),
        (CALLING_TEMPLATE.replace("for tool in tools %}", "for tool in tools[:1] %}"), SAME, "drops the tool 'set_alarm'"),
    ],
    ids=[
        "tool results",
        "further calls",
        "all arguments",
        "one argument",
        "numbers",
        "the second of two equal results",
        "further tools",
    ],
)
def test_what_a_template_drops_is_named(fault: str, turns: tuple[Message, ...], what: str, tiny_tokenizer: Tokenizer) -> None:
    template = ChatTemplate(fault, model="deaf")
    with pytest.raises(ModelError, match=f"Row 'row-1': [Tt]he chat template of deaf {what}"):
        encode_conversation(template, tiny_tokenizer, Conversation("row-1", turns, TOOLS))
    with pytest.raises(ModelError, match=f"[Tt]he chat template of deaf {what}"):
        encode_prompt(template, tiny_tokenizer, turns[:-1], TOOLS)


def test_words_of_the_question_or_the_answer_do_not_stand_for_an_argument(tiny_tokenizer: Tokenizer) -> None:
    call = ToolCall("call00001", "get_weather", '{"place": "zqxplace", "city": "Graz"}')
    turns = (Message("user", "Weather in Graz?"), Message("assistant", "I ask for Graz.", tool_calls=(call,)))
    encode_conversation(ChatTemplate(CALLING_TEMPLATE), tiny_tokenizer, Conversation("row-1", turns, TOOLS))
    fault = CALLING_TEMPLATE.replace(ARGUMENTS, "(call.function.arguments.place | tojson)")
    with pytest.raises(ModelError, match="drops 'Graz' of tool call 1 in turn 2"):
        encode_conversation(ChatTemplate(fault), tiny_tokenizer, Conversation("row-1", turns, TOOLS))


texts = st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    manner=st.sampled_from(sorted(MANNERS)),
    arguments=st.lists(st.dictionaries(texts, values, max_size=3), min_size=1, max_size=2),
    content=texts,
    result=texts,
)
def test_no_honest_template_is_refused_for_what_a_call_or_a_result_says(
    manner: str, arguments: list[dict[str, object]], content: str, result: str, tiny_tokenizer: Tokenizer
) -> None:
    calls = tuple(ToolCall(f"call{n:05}", "f", json.dumps(one)) for n, one in enumerate(arguments))
    turns = (ASK, Message("assistant", content, tool_calls=calls), Message("tool", result), Message("assistant", "Yes."))
    encode(MANNERS[manner], tiny_tokenizer, turns)
