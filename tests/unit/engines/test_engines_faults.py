"""Servers that misbehave: every prompt ends in the right answer or in a reason why there is none, and is paid for once."""

from __future__ import annotations

import json
import random
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion, echo
from messages_server import MessagesServer
from stepladder.domain.errors import EngineError, NotOffered, Unanswered
from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.address import Address
from stepladder.engines.anthropic import AnthropicEngine
from stepladder.engines.calls import GIVE_UP_AFTER
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.failures import CallFailure, hidden
from stepladder.engines.pace import Pace
from stepladder.engines.purse import Prices, Purse
from stepladder.engines.served import secret_of
from stepladder.engines.usage import HIDDEN_FACTOR, ROOM_FOR_TEMPLATE

SHORT = Decoding(max_new_tokens=8)
PRICES = Prices(usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=2000.0)
KEY = "sk-planted-secret-9876"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def ask(text: str) -> Prompt:
    return Prompt(text, (Message("user", text),))


def answer(server: ChatServer, texts: list[str], decoding: Decoding = SHORT, **settings: Any) -> list[Generation]:
    engine = EndpointEngine(server.url, "test", KEY, **{"first_pause_seconds": 0.01, **settings})
    try:
        return engine.generate([ask(text) for text in texts], decoding)
    finally:
        engine.close()


FAULTS = {
    "hung up": Reply(hang_up=True),
    "half a body": Reply(body=completion("wrong"), half=True),
    "half a body, its length unsaid": Reply(body=completion("wrong"), half=True, unannounced=True),
    "an error page": Reply(502, "<html>bad gateway</html>"),
    "not JSON": Reply(body="data: [DONE]"),
    "an error under 200": Reply(body={"error": {"message": "try later"}}),
    "stalled": Reply(body=completion("wrong"), delay_seconds=0.6),
    "dripping": Reply(body=completion("wrong"), drip_seconds=0.02),
    "too busy": Reply(503, {"error": {"message": "busy"}}, {"Retry-After": "0.01"}),
    "overloaded": Reply(529, {"error": {"message": "overloaded"}}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_in_passing_ends_in_the_right_answer(server: ChatServer, fault: Reply) -> None:
    server.script = [fault]
    [item] = answer(server, ["one two"], timeout_seconds=0.3)
    assert (item.text, item.fault) == ("one two", "")
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_lasts_leaves_one_row_without_an_answer_and_no_other(fault: Reply) -> None:
    class Stubborn(ChatServer):
        def handle_chat(self, request: dict[str, Any]) -> Reply:
            if request["messages"][-1]["content"] == "bad":
                self.script.insert(0, fault)
            return super().handle_chat(request)

    with chat_server(Stubborn) as server:
        good, bad, other = answer(server, ["good", "bad", "other"], timeout_seconds=0.3, max_retries=1, concurrency=1)
    assert (good.text, other.text) == ("good", "other")
    assert bad.text == ""
    assert bad.fault.startswith(f"{server.url} test ")
    assert bad.prompt_tokens == bad.completion_tokens == 0


def test_an_answer_that_drips_is_given_up_after_the_whole_time_not_byte_by_byte(server: ChatServer) -> None:
    server.script = [Reply(body=completion("x" * 500), drip_seconds=0.01)]  # it would take five seconds
    started = time.monotonic()
    with pytest.raises(EngineError, match="did not answer in time"):
        answer(server, ["x"], timeout_seconds=0.3, max_retries=0)
    assert time.monotonic() - started < 2


def test_a_filtered_answer_is_no_answer_and_is_not_asked_for_again(server: ChatServer) -> None:
    server.script = [Reply(body=completion("I", "content_filter"))]
    filtered, other = answer(server, ["a", "b"], concurrency=1)
    assert (filtered.text, other.text) == ("", "b")
    assert "withheld its answer: finish_reason content_filter" in filtered.fault
    assert len(server.requests) == 2


def test_a_row_asked_alone_is_given_up_alone_once_the_server_has_answered_others(server: ChatServer) -> None:
    engine = EndpointEngine(server.url, "test", KEY, max_retries=0)
    server.script = [Reply(500, {"error": {"message": "down"}})]
    with pytest.raises(EngineError, match="down"):
        engine.generate([ask("first")], SHORT)  # it may not be a server at all
    assert engine.generate([ask("good")], SHORT)[0].text == "good"
    server.script = [Reply(500, {"error": {"message": "down"}})] * (GIVE_UP_AFTER + 3)
    for number in range(GIVE_UP_AFTER - 1):
        [lost] = engine.generate([ask(f"row {number}")], SHORT)
        assert "status 500" in lost.fault
    with pytest.raises(EngineError, match="down"):
        engine.generate([ask("one more")], SHORT)
    engine.close()


def test_a_server_that_is_down_is_not_waited_for_row_by_row(server: ChatServer) -> None:
    server.script = [Reply(500, {"error": {"message": "down"}})] * 1000
    with pytest.raises(EngineError, match="status 500.*down"):
        answer(server, [f"row {number}" for number in range(200)], max_retries=1, concurrency=2)
    assert len(server.requests) <= 2 * (GIVE_UP_AFTER + 2)


def storm(seed: int) -> type[ChatServer]:
    """A server that does something else each time, by the dice; what it would charge stands in `bill_usd`."""
    dice = random.Random(seed)

    class Storm(ChatServer):
        bill_usd = 0.0

        def handle_chat(self, request: dict[str, Any]) -> Reply:
            if dice.random() < 0.5:
                self.script.insert(0, dice.choice([*FAULTS.values(), Reply(429, {"error": {}}, {"Retry-After": "0.01"})]))
            reply = super().handle_chat(request)
            if reply.status < 400 or reply.status == 502:
                usage = echo(request)["usage"]
                self.bill_usd += PRICES.cost_usd(usage["prompt_tokens"], usage["completion_tokens"])
            return reply

    return Storm


@pytest.mark.parametrize("seed", range(3))
def test_in_a_storm_every_row_ends_in_its_own_answer_or_a_reason_and_all_of_it_is_paid_for(seed: int) -> None:
    texts = [f"row {number} of the storm" for number in range(40)]
    purse = Purse(500.0)
    with chat_server(storm(seed)) as server:
        found = answer(server, texts, timeout_seconds=0.3, prices=PRICES, purse=purse)
        bill_usd = server.bill_usd  # type: ignore[attr-defined]
    for text, item in zip(texts, found, strict=True):
        assert (item.text == text and not item.fault) or (item.text == "" and item.fault)
    assert sum(not item.fault for item in found) > 30
    assert bill_usd - 1e-9 <= purse.spent_usd <= 500.0


# Too many requests


def test_a_storm_of_429_is_outlasted_at_a_slower_pace(server: ChatServer) -> None:
    class Limited(ChatServer):
        """Turns away whatever comes while two are being answered."""

        def handle_chat(self, request: dict[str, Any]) -> Reply:
            if self._at_once >= 2:
                return Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.02"})
            return super().handle_chat(request)

    with chat_server(Limited) as limited:
        limited.delay_seconds = 0.01
        texts = [f"row {number}" for number in range(60)]
        engine = EndpointEngine(limited.url, "test", KEY, concurrency=16)
        found = engine.generate([ask(text) for text in texts], SHORT)
        remarks = engine.remarks
        engine.close()
    assert [item.text for item in found] == texts
    [remark] = remarks
    assert "pushed back" in remark
    assert "calls at once" in remark


def test_after_a_429_nobody_calls_before_the_time_the_server_named(server: ChatServer) -> None:
    server.delay_seconds = 0.02
    server.script = [Reply(429, {"error": {}}, {"Retry-After": "0.5"})]
    answer(server, [f"row {number}" for number in range(12)], concurrency=2)
    first, *later = server.arrivals
    assert sum(arrival - first < 0.45 for arrival in later) <= 2  # those that were under way already


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_wants_a_longer_pause_than_calls_wait_gets_no_more_of_them(server: ChatServer, status: int) -> None:
    engine = EndpointEngine(server.url, "test", KEY, concurrency=2, first_pause_seconds=0.01)
    reported: list[str] = []
    engine.generate([ask("warm")], SHORT)
    server.script = [
        Reply(status, {"error": {"message": "slow"}}, {"Retry-After": "300"}),
        Reply(body=completion("kept"), delay_seconds=0.3),
    ]
    rows = [ask(f"row {number}") for number in range(12)]
    for asked in (3, 3):  # the second round comes before the pause is over: nothing is sent
        with pytest.raises(Unanswered, match=r"asks for no calls for another (300|299) seconds.*Run it again then") as caught:
            engine.generate(rows, SHORT, on_answer=lambda index, generation: reported.append(generation.text))
        assert len(server.requests) == asked
        assert KEY not in str(caught.value)
    assert reported == ["kept"]  # it was under way, and is paid for
    engine.close()


def test_a_pause_without_a_sensible_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now = Pace(2), time.monotonic()
    pace.pushed_back(now, 1e12)
    with pytest.raises(CallFailure), pace.turn():
        pass
    monkeypatch.setattr("stepladder.engines.pace.time.monotonic", lambda: now + 3700.0)
    with pace.turn():
        pass


def test_the_pace_halves_once_for_calls_turned_away_together_and_grows_slowly() -> None:
    pace = Pace(16)
    began = time.monotonic()
    for _ in range(5):
        pace.pushed_back(began, 0.0)
    assert pace.limit == 8
    time.sleep(0.002)
    pace.pushed_back(time.monotonic(), 0.0)
    assert (pace.limit, pace.slowest, pace.refusals) == (4, 4, 6)
    for _ in range(5):
        pace.answered()
    assert pace.limit == 5
    for _ in range(1000):
        pace.answered()
    assert pace.limit == 16
    for _ in range(10):
        time.sleep(0.002)
        pace.pushed_back(time.monotonic(), 0.0)
    assert pace.limit == 1


# Token counts


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": 0, "completion_tokens": 2},
        {"prompt_tokens": -5, "completion_tokens": 2},
        {"prompt_tokens": 10**9, "completion_tokens": 2},
        {"prompt_tokens": 4, "completion_tokens": 10**9},
        {"prompt_tokens": 4, "completion_tokens": 0},
        {"prompt_tokens": "4", "completion_tokens": True},
        {"prompt_tokens": 4.5, "completion_tokens": None},
    ],
    ids=repr,
)
def test_wrong_counts_touch_neither_the_answer_nor_the_budget(server: ChatServer, usage: Any) -> None:
    server.script = [Reply(body={**completion("one two"), "usage": usage})]
    purse = Purse(10.0)
    engine = EndpointEngine(server.url, "test", KEY, prices=PRICES, purse=purse)
    [item] = engine.generate([ask("one two")], SHORT)
    assert item.text == "one two"
    assert item.counts_estimated
    assert 1 <= item.prompt_tokens < 100
    assert 1 <= item.completion_tokens <= 8
    size = len(json.dumps(server.requests[0]))
    set_aside = PRICES.cost_usd(size + ROOM_FOR_TEMPLATE, 8 * HIDDEN_FACTOR)
    assert purse.spent_usd == pytest.approx(set_aside)
    assert any("1 answers came without token counts" in line for line in engine.remarks)
    engine.close()


def test_thoughts_beyond_the_limit_are_believed_and_paid_for(server: ChatServer) -> None:
    server.script = [Reply(body=completion("one two", prompt_tokens=40, completion_tokens=100))]
    purse = Purse(10.0)
    [item] = answer(server, ["one two"], prices=PRICES, purse=purse)
    assert (item.completion_tokens, item.counts_estimated) == (100, False)
    assert purse.spent_usd == pytest.approx(0.04 + 0.2)


# What servers call things


class Picky(ChatServer):
    """Knows the new name of the limit only, and no temperature."""

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        reply = super().handle_chat(request)
        if "max_tokens" in request:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return Reply(400, {"error": {"message": said}})
        if "temperature" in request:
            return Reply(400, {"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model."}})
        return reply


def test_a_parameter_that_is_refused_by_name_is_spelled_otherwise_from_then_on_and_that_is_said() -> None:
    with chat_server(Picky) as server:
        engine = EndpointEngine(server.url, "test", KEY, concurrency=1)
        found = engine.generate([ask(text) for text in ("a", "b", "c")], SHORT)
        assert [item.text for item in found] == ["a", "b", "c"]
        assert len(server.requests) == 5
        assert any("takes no temperature" in line for line in engine.remarks)
        engine.close()


SCHEMA = {"type": "object", "properties": {"kind": {"enum": ["a"]}}, "required": ["kind"], "additionalProperties": False}


def forced(schema: dict[str, Any]) -> dict[str, Any]:
    return completion(json.dumps({key: value["enum"][0] for key, value in schema["properties"].items()}))


def llama_cpp(request: dict[str, Any]) -> Reply:
    form = request.get("response_format", {})
    if form.get("type") == "json_schema":
        return Reply(400, {"error": {"message": "response_format type must be one of text or json_object"}})
    return Reply(body=forced(form["schema"]) if form else completion("Hello!"))


def vllm(request: dict[str, Any]) -> Reply:
    held = request.get("structured_outputs", {})
    if "regex" in held:
        return Reply(body=completion("zq7kx42" if "zq7kx" in held["regex"] else "aaa"))
    return Reply(body=forced(held["json"]) if held else completion("Hello!"))


def old_vllm(request: dict[str, Any]) -> Reply:
    return Reply(body=forced(request["guided_json"]) if "guided_json" in request else completion("Hello!"))


def dialect(kind: Any) -> type[ChatServer]:
    class Speaking(ChatServer):
        def handle_chat(self, request: dict[str, Any]) -> Reply:
            super().handle_chat(request)
            reply: Reply = kind(request)
            return reply

    return Speaking


@pytest.mark.parametrize("kind", [llama_cpp, vllm, old_vllm], ids=lambda kind: kind.__name__)
def test_the_way_a_server_holds_answers_is_found_out_once(kind: Any) -> None:
    with chat_server(dialect(kind)) as server:
        engine = EndpointEngine(server.url, "test", KEY)
        for _ in range(2):
            [item] = engine.generate([ask("x")], Decoding(8, grammar=Grammar("json_schema", json.dumps(SCHEMA))))
            assert json.loads(item.text) == {"kind": "a"}
        probes = [request for request in server.requests if request["messages"][-1]["content"] == "Say hello."]
        assert len(server.requests) == len(probes) + 2
        engine.close()


def test_a_server_that_ignores_the_schema_is_refused_by_name_and_asked_only_once() -> None:
    with chat_server(dialect(lambda request: Reply(body=completion("Hello!")))) as server:
        engine = EndpointEngine(server.url, "test", KEY)
        for _ in range(2):
            with pytest.raises(NotOffered, match="does not hold its answers to a JSON Schema.*json_schema: ignored"):
                engine.generate([ask("x")], Decoding(8, grammar=Grammar("labels", '["a"]')))
        assert len(server.requests) == 4
        engine.close()


def test_a_regular_expression_is_held_where_the_server_can_and_refused_where_it_cannot(server: ChatServer) -> None:
    regex = Decoding(8, grammar=Grammar("regex", "a+"))
    with chat_server(dialect(vllm)) as able:
        assert answer(able, ["x"], regex)[0].text == "aaa"
    with pytest.raises(NotOffered, match="regular expression"):
        answer(server, ["x"], regex)


@pytest.mark.parametrize("cut", [True, False])
def test_a_probe_that_was_cut_short_proves_nothing_and_is_let_pass_with_a_remark(server: ChatServer, cut: bool) -> None:
    if cut:
        server.script = [Reply(body=completion("Let me think", "length"))]
    engine = EndpointEngine(server.url, "test", KEY)
    [item] = engine.generate([ask("x")], Decoding(8, grammar=Grammar("labels", '["spam", "ham"]')))
    engine.close()
    assert item.text == "spam"
    assert any("may not hold its answers" in remark for remark in engine.remarks) == cut


def test_a_server_that_answers_a_schema_with_nothing_does_not_hold_it() -> None:
    silent = dialect(lambda request: Reply(body=completion("" if len(request) > 4 else "Hello!")))
    said = "json_schema: neither a text nor a call, though 3 tokens were written"
    with chat_server(silent) as server, pytest.raises(NotOffered, match=said):
        answer(server, ["x"], Decoding(8, grammar=Grammar("labels", '["a"]')))


def test_a_probe_that_fails_in_passing_says_nothing_about_what_the_server_can(server: ChatServer) -> None:
    server.script = [Reply(500, {"error": {"message": "oops"}})] * 2
    with pytest.raises(EngineError, match="status 500") as caught:
        answer(server, ["x"], Decoding(8, grammar=Grammar("labels", '["spam"]')), max_retries=1)
    assert not isinstance(caught.value, NotOffered)


REPEATED = {
    "refused": Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, {"X-Key": KEY}),
    "an error under 200": Reply(body={"error": {"message": f"the key {KEY} may not"}}),
    "an error under 200, as a word": Reply(body={"error": f"{KEY} may not"}),
    "an error under 200, as a name": Reply(body={"error": {KEY: "may not"}}),
    "not JSON": Reply(body="<html>" + 66 * "." + KEY),  # the key lies across what is shown of it
    "an error page": Reply(502, "<html>" + 180 * "." + KEY),
    "an ending": Reply(body=completion("x", f"{KEY}")),
    "spelled otherwise": Reply(body=json.dumps({"error": KEY}).replace("sk-", "s\\u006b-")),
}


@pytest.mark.parametrize("reply", REPEATED.values(), ids=REPEATED.keys())
def test_nothing_of_a_key_that_the_server_repeats_is_in_a_fault(server: ChatServer, reply: Reply) -> None:
    engine = EndpointEngine(server.url, "test", KEY, first_pause_seconds=0.001)
    engine.generate([ask("good")], SHORT)
    server.script = [reply] * 20
    said = []
    for _ in range(2):
        try:
            said.append(engine.generate([ask("bad")], SHORT)[0].fault)
        except EngineError as error:
            said.append("".join(traceback.format_exception(error)))
    engine.close()
    assert all(said)
    assert not any(KEY[:6] in one for one in said)


SHORT_KEY = "pass12"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401, {"error": {"message": f"wrong key {SHORT_KEY}, not passing"}}),
        Reply(body={"error": {"message": f"wrong key '{SHORT_KEY}', not passing"}}),
        Reply(body=completion("x", SHORT_KEY)),
        Reply(body=f"<html>wrong key {SHORT_KEY}; not passing"),
    ],
)
def test_a_short_key_is_hidden_as_a_word_and_leaves_other_words_whole(server: ChatServer, reply: Reply) -> None:
    engine = EndpointEngine(server.url, "test", SHORT_KEY, max_retries=0)
    server.script = [reply]
    with pytest.raises(EngineError, match="…") as caught:
        engine.generate([ask("bad")], SHORT)
    assert SHORT_KEY not in "".join(traceback.format_exception(caught.value))
    assert [one.text for one in engine.generate([ask(f"say {SHORT_KEY}")], SHORT)] == [f"say {SHORT_KEY}"]  # a word, here
    engine.close()


def test_hiding_a_short_key_or_a_placeholder_garbles_nothing() -> None:
    assert hidden("a key of all: a-b", "a") == "… key of all: …-b"
    assert hidden("passing", "pass") == "passing"
    assert secret_of("none") == ""
    assert hidden("none of it", secret_of("none")) == "none of it"


@pytest.mark.parametrize("key", [f"{KEY}\r", f"{KEY}\n", KEY.replace("-9", "\n9")], ids=["return", "newline", "newline within"])
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_key_that_no_header_can_hold_is_hidden_where_the_library_repeats_it_escaped(
    server: ChatServer, key: str, api: str
) -> None:
    address = Address(server.url, "test")
    build = EndpointEngine if api == "openai" else AnthropicEngine
    engine = build(address, api_key=key, max_retries=0)
    with pytest.raises(EngineError, match="Illegal header") as caught:
        engine.generate([ask("x")], SHORT)
    engine.close()
    assert KEY[:6] not in "".join(traceback.format_exception(caught.value))
    assert server.requests == []


@pytest.mark.parametrize(("build", "api"), [(EndpointEngine, ChatServer), (AnthropicEngine, MessagesServer)])
def test_a_prompt_follows_no_redirect_to_another_server(build: Any, api: type[ChatServer]) -> None:
    with chat_server(api) as named, chat_server(api) as elsewhere:
        named.script = [Reply(307, "", {"Location": f"http://127.0.0.1:{elsewhere.server_address[1]}{api.path}"})] * 20
        engine = build(Address(named.url, "test"), api_key=KEY, max_retries=0)
        with pytest.raises(EngineError, match="307"):
            engine.generate([ask("x")], SHORT)
        engine.close()
    assert (len(named.headers_seen) > 0, elsewhere.headers_seen) == (True, [])


def test_a_key_in_an_answer_is_hidden_too(server: ChatServer) -> None:
    server.script = [Reply(body=completion(f"Your key is {KEY}."))]
    [item] = answer(server, ["x"])
    assert item.text == "Your key is …."


def test_a_key_that_the_server_repeats_is_not_in_the_error(server: ChatServer) -> None:
    server.script = [Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})]
    with pytest.raises(EngineError) as caught:
        answer(server, ["x"])
    assert server.headers_seen[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)
    assert "Incorrect API key" in str(caught.value)
