"""Claude's Messages API, played by a local server that refuses what the real one refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from chat_server import Reply, chat_server
from messages_server import MessagesServer, message, refusal
from stepladder.domain.answer import read_answer
from stepladder.domain.errors import EngineError, NotOffered
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.address import ANTHROPIC_URL, Address, parse_model
from stepladder.engines.anthropic import NO_WORDS, AnthropicEngine, Messages
from stepladder.engines.purse import Prices, Purse

SHORT = Decoding(max_new_tokens=8)
KEY = "sk-ant-planted-secret"
PRICES = Prices(usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=2000.0)


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with chat_server(MessagesServer) as running:
        assert isinstance(running, MessagesServer)
        yield running


def ask(text: str) -> Prompt:
    return Prompt(text, (Message("user", text),))


def answer(server: MessagesServer, prompts: list[Prompt], decoding: Decoding = SHORT, **settings: Any) -> list[Generation]:
    address = Address(server.url, "claude-test", "ANTHROPIC_API_KEY", "anthropic")
    engine = AnthropicEngine(address, KEY, **{"first_pause_seconds": 0.01, **settings})
    try:
        return engine.generate(prompts, decoding)
    finally:
        engine.close()


def test_answers_come_back_in_order_with_usage_and_time(server: MessagesServer) -> None:
    found = answer(server, [ask(f"row {number}") for number in range(12)])
    assert [item.text for item in found] == [f"row {number}" for number in range(12)]
    assert all(item.prompt_tokens == 3 and item.completion_tokens == 2 and 0 < item.latency_seconds < 5 for item in found)


def test_system_turns_go_apart_and_the_key_in_its_own_header(server: MessagesServer) -> None:
    answer(server, [Prompt("row", (Message("system", "Be brief."), Message("system", "Be kind."), Message("user", "U")))])
    [request] = server.requests
    assert request == {
        "model": "claude-test",
        "max_tokens": 8,
        "temperature": 0.0,
        "system": "Be brief.\n\nBe kind.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "U"}]}],
    }
    assert server.headers_seen[0]["authorization"] == f"Bearer {KEY}"
    assert "anthropic-version" in server.headers_seen[0]


TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {}}},
}


def test_tools_calls_and_their_results_arrive_as_the_api_wants_them(server: MessagesServer) -> None:
    called = Message("assistant", "", tool_calls=(ToolCall("a b", "find", '{"city": "Graz"}'), ToolCall("c", "find", "")))
    turns = (
        Message("user", "Where?"),
        called,
        Message("tool", "There.", tool_call_id="a b"),
        Message("user", "And now?"),
        Message("assistant", "Look:", tool_calls=(ToolCall("a b", "find", "{}"),)),
    )
    [item] = answer(server, [Prompt("row", turns, (TOOL, {"type": "function", "function": {"name": "bare"}}))])
    assert item.text == "And now?"  # nothing was refused
    [request] = server.requests
    assert request["tools"] == [
        {"name": "find", "description": "Finds.", "input_schema": {"type": "object", "properties": {}}},
        {"name": "bare", "input_schema": {"type": "object", "properties": {}}},
    ]
    shapes = [(turn["role"], [block["type"] for block in turn["content"]]) for turn in request["messages"]]
    assert shapes == [
        ("user", ["text"]),
        ("assistant", ["tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result", "text"]),
        ("assistant", ["text", "tool_use"]),
        ("user", ["tool_result"]),
    ]
    assert request["messages"][1]["content"][0]["input"] == {"city": "Graz"}


BLANK = [
    (Message("user", "a"), Message("assistant", ""), Message("user", "b")),
    (Message("user", "a"), Message("assistant", " \n"), Message("user", "b")),
    (Message("user", ""), Message("assistant", "a"), Message("user", "b")),
    (Message("system", " "), Message("user", "b")),
    (Message("user", "a"), Message("assistant", "\n", tool_calls=(ToolCall("1", "f", "{}"),)), Message("user", "b")),
]


@pytest.mark.parametrize("turns", BLANK)
def test_a_turn_without_a_word_is_not_refused_and_no_turn_is_lost(server: MessagesServer, turns: tuple[Message, ...]) -> None:
    assert answer(server, [Prompt("row", turns)])[0].text == "b"
    [request] = server.requests
    spoken = [turn["role"] for turn in request["messages"]]
    assert spoken == [turn.role for turn in turns if turn.role != "system"]
    assert "system" not in request


def test_a_model_that_follows_demonstrated_silence_says_nothing(server: MessagesServer) -> None:
    shown = (Message("user", "a"), Message("assistant", ""), Message("user", NO_WORDS))
    assert answer(server, [Prompt("row", shown)])[0].text == ""  # the server repeats the last turn
    assert answer(server, [ask(NO_WORDS)])[0].text == NO_WORDS  # nobody showed it


def test_arguments_that_are_no_object_are_refused_by_name(server: MessagesServer) -> None:
    turns = (Message("user", "a"), Message("assistant", "", tool_calls=(ToolCall("1", "f", "[1]"),)))
    with pytest.raises(EngineError, match="Prompt 'row': the arguments of a call of 'f'"):
        answer(server, [Prompt("row", turns)])
    assert server.requests == []


def test_calls_in_an_answer_are_read_back_and_thoughts_are_not(server: MessagesServer) -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"city": "Graz"}},
    ]
    server.script = [Reply(body=message(blocks, "tool_use"))]
    [item] = answer(server, [Prompt("row", (Message("user", "x"),), (TOOL,))])
    said = read_answer(item.text)
    assert said.content == "Let me look."
    assert [(call.name, json.loads(call.arguments)) for call in said.tool_calls] == [("find", {"city": "Graz"})]


@pytest.mark.parametrize("stop", ["max_tokens", "model_context_window_exceeded"])
def test_an_answer_that_did_not_end_by_itself_is_cut(server: MessagesServer, stop: str) -> None:
    server.script = [Reply(body=message("one two", stop))]
    [item] = answer(server, [ask("x")])
    assert item.cut


def test_thoughts_that_used_the_limit_up_leave_a_cut_answer_without_a_word(server: MessagesServer) -> None:
    server.script = [Reply(body=message([{"type": "thinking", "thinking": "hm", "signature": "s"}], "max_tokens"))]
    [item] = answer(server, [ask("x")])
    assert Prediction.from_generation("row", item).unspoken


def test_a_withheld_answer_is_no_answer(server: MessagesServer) -> None:
    server.script = [Reply(body=message([], "refusal"))]
    withheld, other = answer(server, [ask("a"), ask("b")], concurrency=1)
    assert withheld.fault == "anthropic:claude-test withheld its answer: stop_reason refusal"
    assert other.text == "b"


NO_ANSWERS = {
    "nothing, though tokens were written": message([], output_tokens=30),
    "thoughts alone": message([{"type": "thinking", "thinking": "hm", "signature": "s"}], output_tokens=30),
    "an ending nobody knows": message([], "overwhelmed", output_tokens=1),
    "half a text": message("half", "overwhelmed"),
    "nothing and not ended": {**message([]), "stop_reason": None},
    "a text that is none": message([{"type": "text", "text": None}]),
    "a call without a name": message([{"type": "tool_use", "id": "1", "input": {}}], "tool_use"),
}


@pytest.mark.parametrize("body", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
def test_a_reply_without_an_answer_or_with_an_unknown_end_is_a_fault_and_no_empty_answer(
    server: MessagesServer, body: Any
) -> None:
    engine = AnthropicEngine(Address(server.url, "claude-test", "", "anthropic"), KEY, first_pause_seconds=0.01)
    engine.generate([ask("good")], SHORT)
    server.script = [Reply(body=body)] * 2
    [lost] = engine.generate([ask("bad")], SHORT)
    engine.close()
    assert lost.text == ""
    assert "answer" in lost.fault
    assert len(server.requests) == 3


def test_claude_may_say_nothing(server: MessagesServer) -> None:
    server.script = [Reply(body=message([], output_tokens=2)), Reply(body={**message("one"), "stop_reason": None})]
    silent, said = answer(server, [ask("a"), ask("b")], concurrency=1)
    assert (silent.text, silent.fault) == ("", "")
    assert (said.text, said.fault) == ("one", "")


def test_cached_tokens_are_part_of_the_prompt(server: MessagesServer) -> None:
    usage = {"cache_creation_input_tokens": 5, "cache_read_input_tokens": 20}
    server.script = [Reply(body=message("ok", input_tokens=4, **usage))]
    [item] = answer(server, [ask("x")])
    assert (item.prompt_tokens, item.shared_prompt_tokens) == (29, 20)


def test_a_model_without_a_temperature_is_asked_without_and_that_is_said(server: MessagesServer) -> None:
    server.takes_temperature = False
    engine = AnthropicEngine(Address(server.url, "claude-test", "", "anthropic"), KEY, concurrency=1)
    assert [item.text for item in engine.generate([ask("a"), ask("b")], SHORT)] == ["a", "b"]
    assert len(server.requests) == 3
    assert any("takes no temperature" in line for line in engine.remarks)
    engine.close()


def test_a_model_that_takes_only_one_of_temperature_and_top_p_keeps_its_temperature(server: MessagesServer) -> None:
    server.script = [refusal(400, "`temperature` and `top_p` cannot both be specified for this model.")]
    engine = AnthropicEngine(Address(server.url, "claude-test", "", "anthropic"), KEY, concurrency=1)
    drawn = Decoding(8, temperature=0.7, top_p=0.9)
    assert [item.text for item in engine.generate([ask("a"), ask("b")], drawn)] == ["a", "b"]
    engine.generate([ask("c")], SHORT)
    sent = [(request.get("temperature"), request.get("top_p")) for request in server.requests]
    assert sent == [(0.7, 0.9), (0.7, None), (0.7, None), (0.0, None)]
    assert engine.remarks == (
        "anthropic:claude-test: takes no top_p: its answers are drawn its own way and may differ from call to call.",
    )
    engine.close()


# Held answers


def schema_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def held(schema: dict[str, Any]) -> Decoding:
    return Decoding(40, grammar=Grammar("json_schema", json.dumps(schema)))


def test_a_schema_and_labels_go_out_as_structured_output(server: MessagesServer) -> None:
    schema = schema_of(kind={"enum": ["a", "b"]}, list={"type": "array", "items": {"type": "string"}, "minItems": 1})
    [item] = answer(server, [ask("x")], held(schema))
    assert json.loads(item.text)["kind"] == "a"
    assert server.requests[0]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    [label] = answer(server, [ask("x")], Decoding(8, grammar=Grammar("labels", '["spam", "ham"]')))
    assert label.text == "spam"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (schema_of(n={"type": "integer", "minimum": 1}), "at '/n' it knows no `minimum`"),
        (schema_of(n={"type": "string", "pattern": "a+"}), "at '/n' it knows no `pattern`"),
        (schema_of(n={"type": "array", "items": {"type": "object"}}), "at '/n/items' `additionalProperties` is not false"),
        ({"type": "object", "properties": {}}, "at its top `additionalProperties` is not false"),
        (schema_of(n={"anyOf": [{"type": "string", "maxLength": 3}]}), "at '/n/anyOf/0' it knows no `maxLength`"),
        (schema_of(n={"type": "array", "minItems": 3}), "at '/n' it knows no `minItems`"),
        (
            schema_of(n={"type": "string", "pattern": "a+"}) | {"$defs": {"n": {"type": "string"}}},
            "at '/n' it knows no `pattern`",
        ),
        (
            schema_of(n={"type": "string"}) | {"$defs": {"n": {"type": "string", "pattern": "a+"}}},
            "at '/$defs/n' it knows no `pattern`",
        ),
        (
            {"type": "array", "items": {"type": "string"}, **schema_of(items={"type": "string", "minLength": 1})},
            "at '/items' it knows no `minLength`",
        ),
        (schema_of(n={"type": ["object", "null"]}), "at '/n' `additionalProperties` is not false"),
        (schema_of(n={"properties": {}}), "at '/n' `additionalProperties` is not false"),
    ],
)
def test_a_schema_it_cannot_hold_is_refused_by_name_and_not_sent_weaker(
    server: MessagesServer, schema: dict[str, Any], says: str
) -> None:
    with pytest.raises(NotOffered) as caught:
        answer(server, [ask("x")], held(schema))
    assert says in str(caught.value)
    assert server.requests == []


def test_a_schema_that_the_api_refuses_is_not_offered_and_a_prompt_that_it_refuses_is_an_error(server: MessagesServer) -> None:
    server.script = [refusal(400, "output_config.format.schema: too many optional parameters")] * 2
    with pytest.raises(NotOffered, match="too many optional parameters"):
        answer(server, [ask("x")], held(schema_of(kind={"enum": ["a"]})))
    with pytest.raises(EngineError) as caught:
        answer(server, [ask("x")])
    assert not isinstance(caught.value, NotOffered)


def test_a_regular_expression_and_log_probabilities_are_refused_by_name(server: MessagesServer) -> None:
    with pytest.raises(NotOffered, match="regular expression"):
        answer(server, [ask("x")], Decoding(8, grammar=Grammar("regex", "a+")))
    engine = AnthropicEngine(Address(server.url, "claude-test", "", "anthropic"), KEY)
    assert engine.can == {"grammar", "tools", "calls"}
    assert engine.identity.engine == "anthropic"
    assert engine.identity.served
    with pytest.raises(NotOffered, match="no log-probabilities"):
        engine.score([ask("x")], [["y"]])
    engine.close()


# Faults

FAULTS = {
    "overloaded": refusal(529, "Overloaded", "overloaded_error"),
    "rate limit": Reply(
        429, {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}, {"retry-after": "0.01"}
    ),
    "a fault of its own": refusal(500, "Internal server error", "api_error"),
    "hung up": Reply(hang_up=True),
    "half a body": Reply(body=message("wrong"), half=True),
    "stalled": Reply(body=message("wrong"), delay_seconds=0.6),
    "not JSON": Reply(body="<html>"),
    "no content": Reply(body={"type": "message"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_in_passing_ends_in_the_right_answer(server: MessagesServer, fault: Reply) -> None:
    server.script = [fault]
    [item] = answer(server, [ask("one two")], timeout_seconds=0.3)
    assert (item.text, item.fault) == ("one two", "")
    assert len(server.requests) == 2


def test_a_refused_key_is_an_error_that_does_not_repeat_it(server: MessagesServer) -> None:
    server.script = [refusal(401, f"invalid x-api-key {KEY}", "authentication_error")]
    with pytest.raises(EngineError, match="status 401") as caught:
        answer(server, [ask("x")])
    assert KEY not in str(caught.value)


def test_only_anthropics_own_limit_is_known_to_count_thoughts() -> None:
    for url, within in ((ANTHROPIC_URL, True), ("http://127.0.0.1:1", False)):
        messages = Messages(Address(url, "c", "", "anthropic"), KEY, 1.0)
        assert messages.thinks_within_limit is within
        messages.client.close()


def test_what_is_spent_is_what_usage_says(server: MessagesServer) -> None:
    purse = Purse(10.0)
    answer(server, [ask("one two")] * 5, prices=PRICES, purse=purse)
    assert purse.spent_usd == pytest.approx(5 * (3 * 0.001 + 2 * 0.002))


def test_its_name_in_a_task_leads_to_it_and_its_own_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    address = parse_model("anthropic:claude-test")
    assert address == Address("https://api.anthropic.com", "claude-test", "ANTHROPIC_API_KEY", "anthropic")
    assert address.hosted
    assert address.name == "anthropic:claude-test"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9/")
    moved = parse_model("anthropic:claude-test")
    assert moved is not None
    assert (moved.url, moved.hosted, moved.api) == ("http://127.0.0.1:9", False, "anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert moved.api_key() == KEY
