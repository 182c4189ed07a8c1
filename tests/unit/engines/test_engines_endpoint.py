from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion, echo
from stepladder.domain.answer import read_answer
from stepladder.domain.errors import BudgetError, EngineError, Unanswered, UsageError
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.address import OPENAI_URL, Address, moved_models, parse_model
from stepladder.engines.endpoint import ChatCompletions, EndpointEngine
from stepladder.engines.purse import Prices, Purse
from stepladder.engines.usage import HIDDEN_FACTOR, ROOM_FOR_TEMPLATE, Counts, Most, read_counts

SHORT = Decoding(max_new_tokens=8)
SCHEMA = {"type": "object", "properties": {"kind": {"enum": ["a"]}}, "required": ["kind"], "additionalProperties": False}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def ask(text: str, id: str = "row") -> Prompt:
    return Prompt(id, (Message("user", text),))


def answer(server: ChatServer, prompts: list[Prompt], decoding: Decoding = SHORT, **settings: Any) -> list[Generation]:
    engine = EndpointEngine(server.url, "test", "key", **settings)
    try:
        return engine.generate(prompts, decoding)
    finally:
        engine.close()


def test_answers_come_back_in_order_with_usage_and_time(server: ChatServer) -> None:
    answers = answer(server, [ask(f"row {number}") for number in range(20)])
    assert [item.text for item in answers] == [f"row {number}" for number in range(20)]
    assert all(item.prompt_tokens == 3 and item.completion_tokens == 2 and 0 < item.latency_seconds < 5 for item in answers)


def test_what_is_sent_is_what_was_asked(server: ChatServer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    turns = (
        Message("system", "S"),
        Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"),)),
        Message("tool", "out", tool_call_id="1"),
        Message("user", "U"),
    )
    answer(server, [Prompt("row", turns, (tool,))], Decoding(5, temperature=0.5, seed=7))
    [request] = server.requests
    assert request == {
        "model": "test",
        "messages": [turn.as_chat() for turn in turns],
        "temperature": 0.5,
        "max_tokens": 5,
        "seed": 7,
        "tools": [tool],
    }


def test_greedy_sends_no_seed(server: ChatServer) -> None:
    answer(server, [ask("x")])
    assert server.requests[0]["temperature"] == 0
    assert "seed" not in server.requests[0]


def test_finish_reason_length_means_cut(server: ChatServer) -> None:
    [cut, whole] = answer(server, [ask("one two three"), ask("one")], Decoding(2))
    assert (cut.text, cut.cut, whole.cut) == ("one two", True, False)


def test_a_schema_goes_out_as_strict_structured_output(server: ChatServer) -> None:
    [item] = answer(server, [ask("x")], Decoding(8, grammar=Grammar("json_schema", json.dumps(SCHEMA))))
    assert json.loads(item.text) == {"kind": "a"}
    probe, asked = server.requests
    assert probe["messages"] == [{"role": "user", "content": "Say hello."}]
    sent = asked["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def test_labels_travel_as_an_enum_and_come_back_bare(server: ChatServer) -> None:
    [item] = answer(server, [ask("x")], Decoding(8, grammar=Grammar("labels", '["spam", "ham"]')))
    assert item.text == "spam"


def test_a_label_reply_in_another_shape_is_left_for_the_grader(server: ChatServer) -> None:
    server.answer = lambda request: echo(request) if "hello" in str(request) else completion("spam, I think")
    [item] = answer(server, [ask("x")], Decoding(8, grammar=Grammar("labels", '["spam"]')))
    assert item.text == "spam, I think"


def test_too_many_requests_waits_as_long_as_the_server_says(server: ChatServer) -> None:
    server.script = [Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.4"})]
    [item] = answer(server, [ask("x")])
    assert item.text == "x"
    assert server.arrivals[1] - server.arrivals[0] >= 0.4
    assert item.latency_seconds < 0.4  # the wait is not the answer's latency


def test_a_fault_of_the_server_is_retried(server: ChatServer) -> None:
    server.script = [Reply(500, {"error": {"message": "oops"}}, {"Retry-After": "0.01"})] * 2
    assert answer(server, [ask("x")])[0].text == "x"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "Check the API key"),
        (404, "Check the URL"),
        (400, "bad words"),
        (429, "lower `[model] concurrency`"),
        (503, "try again later"),
    ],
)
def test_an_error_names_server_status_and_what_to_do(server: ChatServer, status: int, words: str) -> None:
    server.script = [Reply(status, {"error": {"message": "bad words"}}, {"Retry-After": "0.01"})] * 9
    with pytest.raises(EngineError) as caught:
        answer(server, [ask("x")], max_retries=1)
    assert server.url in str(caught.value)
    assert f"status {status}" in str(caught.value)
    assert words in str(caught.value)
    assert isinstance(caught.value, Unanswered) == (status in {429, 503})
    assert len(server.requests) == (5 if status in {429, 503} else 1)


@pytest.mark.parametrize(
    "body",
    [
        "this is not JSON",
        "",
        "[" * 9000,
        "[]",
        {"choices": []},
        {"answer": "hello"},
        {"choices": None},
        {"choices": ["x"]},
        {"choices": [{"message": "x"}]},
        {"choices": [{"message": {"content": 7}}]},
        {"error": {"message": "overloaded"}},
    ],
    ids=["text", "nothing", "deep", "list", "empty", "other", "null", "word", "no message", "number", "error"],
)
def test_a_reply_in_another_shape_is_an_error_not_an_empty_answer(server: ChatServer, body: Any) -> None:
    server.script = [Reply(body=body, headers={"Retry-After": "0.01"})] * 2
    with pytest.raises(EngineError, match="protocol's shape"):
        answer(server, [ask("x")])
    assert len(server.requests) == 2


def test_an_html_page_instead_of_json_is_an_error(server: ChatServer) -> None:
    server.script = [Reply(body="<html>login</html>", headers={"Content-Type": "text/html"})] * 2
    with pytest.raises(EngineError, match="protocol's shape"):
        answer(server, [ask("x")])


NO_ANSWERS: dict[str, dict[str, Any]] = {
    "no content": {"message": {"role": "assistant"}, "finish_reason": "stop"},
    "empty, though tokens were written": {"message": {"content": ""}, "finish_reason": "stop"},
    "null, though tokens were written": {"message": {"content": None}, "finish_reason": "stop"},
    "thoughts alone": {"message": {"content": None, "reasoning_content": "Hm."}, "finish_reason": "stop"},
    "a call that is none": {"message": {"content": None, "tool_calls": [{"function": None}]}, "finish_reason": "tool_calls"},
    "a call without a name": {"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}, "finish_reason": "tool_calls"},
    "a refusal that is no text": {"message": {"content": None, "refusal": 7}, "finish_reason": "stop"},
    "empty and not ended": {"message": {"content": ""}, "finish_reason": None},
    "aborted": {"message": {"content": "half"}, "finish_reason": "abort"},
    "out of resources": {"message": {"content": "half"}, "finish_reason": "insufficient_system_resource"},
    "an ending that is no word": {"message": {"content": "half"}, "finish_reason": {"type": "stop"}},
}


@pytest.mark.parametrize("choice", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
def test_a_reply_without_an_answer_or_with_an_unknown_end_is_a_fault_and_no_empty_answer(
    server: ChatServer, choice: dict[str, Any]
) -> None:
    engine = EndpointEngine(server.url, "test", "key", first_pause_seconds=0.01)
    engine.generate([ask("good")], SHORT)
    server.script = [Reply(body={**completion("x"), "choices": [choice]})] * 2
    [lost] = engine.generate([ask("bad")], SHORT)
    engine.close()
    assert lost.text == ""
    assert "answer" in lost.fault
    assert len(server.requests) == 3


@pytest.mark.parametrize(("content", "reason", "tokens"), [("", "stop", 0), (None, "stop", 1), ("", "eos", 1)])
def test_a_model_may_say_nothing(server: ChatServer, content: str | None, reason: str, tokens: int) -> None:
    server.script = [Reply(body=completion(content, reason, completion_tokens=tokens))]
    [item] = answer(server, [ask("x")])
    assert (item.text, item.fault, item.cut) == ("", "", False)


@pytest.mark.parametrize(("reason", "cut"), [(None, False), ("end_turn", False), ("STOP", False), ("max_tokens", True)])
def test_a_text_is_an_answer_in_every_dialect_that_is_known(server: ChatServer, reason: Any, cut: bool) -> None:
    server.script = [Reply(body=completion("one two", reason))]
    [item] = answer(server, [ask("x")])
    assert (item.text, item.fault, item.cut) == ("one two", "", cut)


def test_thoughts_that_used_the_limit_up_leave_a_cut_answer(server: ChatServer) -> None:
    server.script = [Reply(body={**completion("x"), "choices": [{"message": {"role": "assistant"}, "finish_reason": "length"}]})]
    engine = EndpointEngine(server.url, "test", "key")
    [item] = engine.generate([ask("x")], SHORT)
    engine.close()
    assert (item.text, item.fault, item.cut) == ("", "", True)
    assert Prediction.from_generation("row", item).unspoken
    assert any("cut before their first word" in line for line in engine.remarks)


def test_a_server_that_is_too_slow_is_an_error(server: ChatServer) -> None:
    server.delay_seconds = 0.6
    with pytest.raises(EngineError, match="did not answer in time"):
        answer(server, [ask("x")], timeout_seconds=0.1, max_retries=0)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = EndpointEngine(f"http://127.0.0.1:{port}/v1", "test", "key", max_retries=0)
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.generate([ask("x")], SHORT)
    engine.close()


def test_a_refusal_and_tool_calls_are_answers_too(server: ChatServer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    server.script = [Reply(body=completion(None, refusal="I cannot.")), Reply(body=completion(None, tool_calls=[call]))]
    texts = [item.text for item in answer(server, [ask("x"), ask("y")], concurrency=1)]
    assert texts == ["I cannot.", '{"tool_calls": [{"name": "f", "arguments": {"a": 1}}]}']


@pytest.mark.parametrize("arguments", ['{"city": "Gr', "", "[1]", '{"city": "\\ud83d"}', "NaN", "[" * 5000, None, {"city": 1}])
def test_half_formed_arguments_are_kept_and_can_be_written_to_a_file(server: ChatServer, arguments: Any) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    server.script = [Reply(body=completion("Let me look.", "tool_calls", tool_calls=calls))]
    [given] = answer(server, [ask("x")])
    message = read_answer(given.text)
    assert message.content == "Let me look."
    assert [call.name for call in message.tool_calls] == ["f"]
    given.text.encode()
    if isinstance(arguments, str) and arguments:
        assert message.tool_calls[0].arguments == arguments


def test_a_call_without_a_function_is_no_call(server: ChatServer) -> None:
    server.script = [Reply(body=completion("Hm.", tool_calls=[{"id": "1", "type": "function", "function": None}]))]
    assert answer(server, [ask("x")])[0].text == "Hm."


def test_a_demonstrated_call_is_given_the_result_that_the_protocol_wants(server: ChatServer) -> None:
    called = Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}")))
    turns = (Message("user", "a"), called, Message("tool", "out", tool_call_id="1"), Message("user", "b"), called)
    answer(server, [Prompt("row", turns)])
    sent = [(turn["role"], turn.get("tool_call_id"), turn["content"]) for turn in server.requests[0]["messages"]]
    assert sent == [
        ("user", None, "a"),
        ("assistant", None, ""),
        ("tool", "1", "out"),
        ("tool", "2", ""),
        ("user", None, "b"),
        ("assistant", None, ""),
        ("tool", "1", ""),
        ("tool", "2", ""),
    ]


def test_no_more_calls_at_once_than_allowed(server: ChatServer) -> None:
    server.delay_seconds = 0.03
    answer(server, [ask(f"{number}") for number in range(12)], concurrency=3)
    assert 2 <= server.most_at_once <= 3


def test_answers_are_reported_in_the_callers_thread(server: ChatServer) -> None:
    engine = EndpointEngine(server.url, "test", "key")
    seen: dict[int, str] = {}
    threads = set()

    def report(index: int, generation: Generation) -> None:
        seen[index] = generation.text
        threads.add(threading.current_thread())

    engine.generate([ask(f"row {number}") for number in range(6)], SHORT, on_answer=report)
    engine.close()
    assert seen == {number: f"row {number}" for number in range(6)}
    assert threads == {threading.current_thread()}


def test_answers_already_paid_for_are_reported_before_a_failure_is_raised(server: ChatServer) -> None:
    server.script = [Reply(401, {"error": {"message": "no"}}), Reply(body=completion("late"), delay_seconds=0.3)]
    engine = EndpointEngine(server.url, "test", "key", concurrency=2)
    seen: list[str] = []
    with pytest.raises(EngineError, match="401"):
        engine.generate([ask(f"{number}") for number in range(40)], SHORT, on_answer=lambda index, item: seen.append(item.text))
    engine.close()
    assert "late" in seen
    assert len(server.requests) < 40  # the rest was not sent


def test_what_it_cannot_do_it_says(tmp_path: Path) -> None:
    engine = EndpointEngine("http://localhost:1/v1", "test", "key")
    assert engine.can == {"grammar", "tools", "calls", "regex"}
    with pytest.raises(EngineError, match="cannot load an adapter"):
        engine.generate([ask("x")], SHORT, adapter=tmp_path)
    with pytest.raises(EngineError, match="no log-probabilities"):
        engine.score([ask("x")], [["y"]])
    for count in (lambda: engine.count_tokens([ask("x")]), lambda: engine.count_text_tokens(["x"])):
        with pytest.raises(EngineError, match="how many tokens"):
            count()
    engine.close()


def told(*tokens: str) -> dict[str, Any]:
    return {"content": [{"token": one, "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.1}]} for one in tokens]}


def test_log_probabilities_are_read_where_the_server_tells_them(server: ChatServer) -> None:
    said = completion("one two")
    said["choices"][0]["logprobs"] = told("one", " two")
    server.script = [Reply(body=said)]
    [item] = answer(server, [ask("x")], Decoding(8, temperature=0.7, top_p=0.9, logprobs=50))
    assert [(one.text, one.logprob, one.top) for one in item.logprobs] == [
        ("one", -0.5, (("a", -0.1),)),
        (" two", -0.5, (("a", -0.1),)),
    ]
    sent = server.requests[0]
    assert (sent["logprobs"], sent["top_logprobs"], sent["top_p"]) == (True, 20, 0.9)


@pytest.mark.parametrize("silent", [None, {}, {"content": None}, {"content": [{}]}, "x"])
def test_a_server_that_tells_none_still_answers(server: ChatServer, silent: Any) -> None:
    said = completion("one two")
    said["choices"][0]["logprobs"] = silent
    server.script = [Reply(body=said)]
    [item] = answer(server, [ask("x")], Decoding(8, logprobs=0))
    assert (item.text, item.logprobs) == ("one two", ())


def test_a_server_that_refuses_them_is_asked_without(server: ChatServer) -> None:
    server.script = [Reply(400, {"error": {"message": "logprobs are not supported by this model"}})]
    engine = EndpointEngine(server.url, "test", "key")
    [item] = engine.generate([ask("x")], Decoding(8, logprobs=3))
    assert item.text == "x"
    assert "logprobs" not in server.requests[1]
    assert engine.remarks == (f"{server.url} test: gives no log-probabilities, though they were asked for.",)
    engine.close()


# Names and addresses


def test_model_names_are_told_from_addresses() -> None:
    assert parse_model("smollm2-135m-instruct") is None
    assert parse_model("org/name") is None
    assert parse_model("/folder with space/model") is None
    assert parse_model("openai:big") == Address("https://api.openai.com/v1", "big", "OPENAI_API_KEY", "openai")
    assert parse_model("http://localhost:8000/v1/ my model") == Address(
        "http://localhost:8000/v1", "my model", "STEPLADDER_API_KEY"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("openai:", "anthropic: ", "http://localhost:8000/v1", "https:// name", "https://me:secret@host/v1 name"),
        *("https://host/v1?code=secret name", "https://host/v1#secret name"),
    ],
)
def test_half_an_address_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_model(name)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosted"),
    [
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.1/v1", False),
        ("http://127.9.9.9/v1", False),
        ("http://[::1]:80/v1", False),
        ("http://192.168.1.7/v1", True),
        ("https://localhost.example.com/v1", True),
        ("https://api.openai.com/v1", True),
    ],
)
def test_only_this_machine_is_not_hosted(url: str, hosted: bool) -> None:
    engine = EndpointEngine(url, "test", "key")
    assert engine.identity.hosted is hosted
    engine.close()


def test_the_identity_is_spelled_like_the_setting() -> None:
    for name in ("openai:big", "http://localhost:1/v1 small"):
        address = parse_model(name)
        assert address is not None
        engine = EndpointEngine(address)
        assert engine.identity.name == name
        engine.close()


def test_a_provider_that_was_moved_elsewhere_is_known_by_that_server_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    address = parse_model("openai:big")
    assert address is not None
    engine = EndpointEngine(address)
    assert address.name == "openai:big"
    assert engine.identity.name == "http://127.0.0.1:1/v1 openai:big"
    engine.close()
    assert moved_models(["openai:big", "anthropic:c", "http://h/v1 m", "org/m"]) == {"openai:big": engine.identity.name}
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert moved_models(["openai:big"]) == {}
    assert Address("https://me:pass@h/v1", "m", "", "openai").identity_name == "https://h/v1 openai:m"


def test_no_message_holds_what_may_be_secret_in_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("", "openai"):
        engine = EndpointEngine(Address("http://127.0.0.1:9/v1?code=secret", "m", "", provider), max_retries=0)
        with pytest.raises(EngineError, match="at http://127.0.0.1:9/v1 cannot be reached") as caught:
            engine.generate([ask("x")], SHORT)
        engine.close()
        assert "secret" not in f"{caught.value} {engine.identity.name} {engine.remarks}"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1?code=secret")
    with pytest.raises(UsageError, match=r"OPENAI_BASE_URL goes on after its path") as refused:
        parse_model("openai:big")
    assert "secret" not in str(refused.value)


def test_the_key_comes_from_the_environment_and_its_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("STEPLADDER_API_KEY", raising=False)
    with pytest.raises(EngineError, match="OPENAI_API_KEY"):
        Address("https://api.openai.com/v1", "big", "OPENAI_API_KEY", "openai").api_key()
    assert Address("http://localhost/v1", "small", "STEPLADDER_API_KEY").api_key() == "none"
    monkeypatch.setenv("STEPLADDER_API_KEY", "secret")
    assert Address("http://far.example/v1", "small", "STEPLADDER_API_KEY").api_key() == "secret"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", " \n"])
def test_the_end_of_a_line_is_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    for name, variable in (("openai:big", "OPENAI_API_KEY"), ("anthropic:big", "ANTHROPIC_API_KEY")):
        monkeypatch.setenv(variable, f"secret{end}")
        address = parse_model(name)
        assert address is not None
        assert address.api_key() == "secret"
        monkeypatch.setenv(variable, end)
        with pytest.raises(EngineError, match=f"needs an API key.*{variable}"):
            address.api_key()


@pytest.mark.parametrize("key", ["s\u00e4cret-key", "secret\nkey", "\ufeffsecret-key", "secret\x7fkey"])
def test_a_key_that_no_header_can_hold_is_refused_by_its_variable_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("STEPLADDER_API_KEY", key)
    with pytest.raises(EngineError, match="STEPLADDER_API_KEY holds a character") as caught:
        Address("http://localhost/v1", "small").api_key()
    assert "cret" not in str(caught.value)


# Money

PRICES = Prices(usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=2000.0)


def test_what_is_spent_is_what_usage_says(server: ChatServer) -> None:
    purse = Purse(10.0)
    answer(server, [ask("one two")] * 5, prices=PRICES, purse=purse)
    assert purse.spent_usd == pytest.approx(5 * (3 * 0.001 + 2 * 0.002))


def test_money_is_never_exceeded_however_many_calls_run_at_once(server: ChatServer) -> None:
    server.delay_seconds = 0.01
    server.answer = thoughtful
    purse = Purse(20.0)  # one call: at most ~4.7 set aside, 0.3 spent
    with pytest.raises(BudgetError, match="Raise"):
        answer(server, [ask("one two")] * 100, prices=PRICES, purse=purse)
    assert purse.spent_usd <= 20.0
    assert purse.spent_usd == pytest.approx(len(server.requests) * 0.3)
    assert len(server.requests) > 40  # what a call gave back was used again


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_model_that_suddenly_thinks_as_long_as_is_believed_does_not_exceed_it(server: ChatServer, concurrency: int) -> None:
    bills: list[float] = []

    def bill(request: dict[str, Any]) -> dict[str, Any]:
        prompt, thoughts = 100, 2
        if len(server.requests) > 10:
            prompt, thoughts = len(json.dumps(request)) - 20 + ROOM_FOR_TEMPLATE, HIDDEN_FACTOR * 8
        bills.append(PRICES.cost_usd(prompt, thoughts))
        return completion("one two", prompt_tokens=prompt, completion_tokens=thoughts)

    server.answer = bill
    purse = Purse(30.0)
    with pytest.raises(BudgetError):
        answer(server, [ask("one two")] * 60, prices=PRICES, purse=purse, concurrency=concurrency)
    assert purse.spent_usd == pytest.approx(sum(bills))  # all of it is believed
    assert 20.0 < purse.spent_usd <= 30.0


def test_only_where_the_limit_counts_thoughts_nothing_is_set_aside_for_more() -> None:
    for url, within in ((OPENAI_URL, True), ("http://127.0.0.1:1/v1", False)):
        chat = ChatCompletions(Address(url, "m"), "key", 1.0)
        assert chat.thinks_within_limit is within
        chat.client.close()
    counts = {within: read_counts(50, 9, 0, most=Most(100, 8, within), text="x") for within in (False, True)}
    assert counts[False] == Counts(50, 9)
    assert counts[True].estimated


def test_without_money_nothing_is_sent(server: ChatServer) -> None:
    with pytest.raises(BudgetError):
        answer(server, [ask("x")], prices=PRICES, purse=Purse(0.001))
    assert server.requests == []


def test_a_refused_call_costs_nothing_and_one_that_broke_off_counts_in_full(server: ChatServer) -> None:
    purse = Purse(10.0)
    server.script = [Reply(401, {"error": {"message": "no"}})]
    with pytest.raises(EngineError):
        answer(server, [ask("x")], prices=PRICES, purse=purse)
    assert purse.spent_usd == 0.0
    server.delay_seconds = 0.5
    with pytest.raises(EngineError):
        answer(server, [ask("x")], prices=PRICES, purse=purse, timeout_seconds=0.1, max_retries=0)
    assert purse.spent_usd > 0.05


def test_an_attempt_that_broke_off_is_paid_for_and_so_is_the_next(server: ChatServer) -> None:
    server.script = [Reply(body=completion("late"), delay_seconds=0.6), Reply(504, {"error": {"message": "lost"}})]
    purse = Purse(20.0)
    [item] = answer(server, [ask("x")], prices=PRICES, purse=purse, timeout_seconds=0.2)
    assert item.text == "x"
    assert len(server.requests) == 3
    assert purse.spent_usd == pytest.approx(2 * most_of_one_call() + (2 * 0.001 + 1 * 0.002), rel=0.01)


def test_without_money_for_a_second_attempt_it_is_not_sent(server: ChatServer) -> None:
    server.script = [Reply(body=completion("late"), delay_seconds=0.6)]
    purse = Purse(1.5 * most_of_one_call())
    with pytest.raises(BudgetError):
        answer(server, [ask("x")], prices=PRICES, purse=purse, timeout_seconds=0.2)
    assert len(server.requests) == 1
    assert purse.spent_usd == pytest.approx(most_of_one_call(), rel=0.01)


def test_too_many_requests_cost_nothing(server: ChatServer) -> None:
    server.script = [Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})] * 3
    purse = Purse(1.5 * most_of_one_call())
    answer(server, [ask("x")], prices=PRICES, purse=purse)
    assert purse.spent_usd == pytest.approx(0.004)


def test_a_server_that_is_not_there_costs_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    purse = Purse(10.0)
    engine = EndpointEngine(f"http://127.0.0.1:{port}/v1", "test", "key", max_retries=0, prices=PRICES, purse=purse)
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.generate([ask("x")], SHORT)
    engine.close()
    assert purse.spent_usd == 0.0


def test_models_that_share_a_purse_do_not_exceed_it_together(server: ChatServer) -> None:
    server.delay_seconds = 0.005
    server.answer = thoughtful
    purse = Purse(20.0)
    engines = [EndpointEngine(server.url, name, "key", prices=PRICES, purse=purse) for name in ("small", "large")]
    failures: list[BaseException] = []

    def spend(engine: EndpointEngine) -> None:
        try:
            engine.generate([ask(f"one {number}") for number in range(80)], SHORT)
        except BudgetError as error:
            failures.append(error)

    engines[1].generate([ask(f"one first {number}") for number in range(3)], SHORT)  # each has its turn, whoever is quicker later
    threads = [threading.Thread(target=spend, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.close()
    assert len(failures) == 2
    assert len({request["model"] for request in server.requests}) == 2
    assert purse.spent_usd == pytest.approx(len(server.requests) * 0.3)
    assert purse.spent_usd <= 20.0


def test_a_reservation_stands_in_the_ledger_before_its_call_arrives(tmp_path: Path) -> None:
    ledger = tmp_path / "money.jsonl"
    reserved_at_arrival: list[int] = []

    class Watching(ChatServer):
        def handle_chat(self, request: dict[str, Any]) -> Reply:
            lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
            reserved_at_arrival.append(sum("reserved_usd" in line for line in lines))
            return super().handle_chat(request)

    with chat_server(Watching) as server:
        purse = Purse(10.0)
        purse.keep_in(ledger)
        answer(server, [ask("one two")] * 6, prices=PRICES, purse=purse, concurrency=1)
    assert reserved_at_arrival == [1, 2, 3, 4, 5, 6]


def most_of_one_call() -> float:
    """What is set aside for `ask("x")`: its bytes and the template as tokens, the longest answer and the longest thoughts."""
    request = {"model": "test", "messages": [{"role": "user", "content": "x"}], "temperature": 0.0, "max_tokens": 8}
    return PRICES.cost_usd(len(json.dumps(request).encode()) + ROOM_FOR_TEMPLATE, 8 * HIDDEN_FACTOR)


def thoughtful(request: dict[str, Any]) -> dict[str, Any]:
    """An answer with thoughts that the limit does not count: 0.3 USD."""
    return completion("one two", prompt_tokens=100, completion_tokens=100)
