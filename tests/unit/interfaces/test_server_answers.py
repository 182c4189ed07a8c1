"""Chat, completions, embeddings, models, graders and permissions, asked by OpenAI's own client with strict validation."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, PermissionDeniedError
from pydantic import BaseModel

from live_server import BASE, LiveServer, fake_house, live_server, put_model
from stepladder.domain.answer import answer_text
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.plain import Continuation
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.fake import FakeEngine, last_user_turn
from stepladder.engines.fake_plain import FakePlainTexts

WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = answer_text(Message("assistant", "", tool_calls=(ToolCall("c", "weather", '{"city": "Graz"}'),)))


def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
    """The last user turn; a call where tools are on offer and asked for; which adapter speaks, where asked."""
    turn = last_user_turn(prompt)
    if turn == "Who are you?":
        return "base" if adapter is None else (adapter / "adapter_model.safetensors").read_text()
    if turn == "What is the weather in Graz?":
        return CALL
    if "You are a strict grader." in prompt.messages[0].content:
        return '{"result": 0.5}'
    return turn


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(answer, name=BASE, context_tokens=1000)


@pytest.fixture
def server(tmp_path: Path, engine: FakeEngine) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "service", engine=engine)) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key="anything", max_retries=0, _strict_response_validation=True) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_chat_is_answered_with_its_tokens_counted(client: OpenAI) -> None:
    done = client.chat.completions.create(model=BASE, messages=user("one two three"))
    assert done.choices[0].message.content == "one two three"
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (5, 4, 9)
    assert done.model == BASE


def test_an_answer_that_was_cut_says_so(client: OpenAI) -> None:
    for key in ("max_tokens", "max_completion_tokens"):
        done = client.chat.completions.create(model=BASE, messages=user("one two three"), **{key: 2})  # type: ignore[call-overload]
        assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("one two", "length")


def test_an_answer_ends_where_it_was_told_to(client: OpenAI) -> None:
    done = client.chat.completions.create(model=BASE, messages=user("one two three four"), stop=["four", " three"])
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("one two", "stop")


def test_a_stream_gives_the_same_as_the_whole(client: OpenAI) -> None:
    text = "one  two\nthree – vier"
    stream = client.chat.completions.create(
        model=BASE, messages=user(text), stream=True, n=2, stream_options={"include_usage": True}
    )
    said, ends, usage = {0: "", 1: ""}, {}, None
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert said == {0: text, 1: text}
    assert ends == {0: "stop", 1: "stop"}
    assert usage is not None
    assert usage.completion_tokens == 12
    assert chunks[-1].choices == []


def test_a_stream_says_what_is_written_while_it_is_written(tmp_path: Path) -> None:
    read = threading.Event()

    class Slow(FakeEngine):
        def answer(self, requests: Any, *, on_text: Any = None, on_answer: Any = None) -> Any:
            on_text(0, "early ")
            assert read.wait(10)
            on_text(0, "late")
            done = Generation("early late", 1, 2, 0.0)
            on_answer(0, done)
            return [done]

    with live_server(fake_house(tmp_path / "service", engine=Slow())) as server:
        client = OpenAI(base_url=server.url, api_key="anything", max_retries=0)
        stream = client.chat.completions.create(model=BASE, messages=user("x"), stream=True)
        said = []
        for chunk in stream:
            said.append(chunk.choices[0].delta.content)
            if said[-1] == "early ":
                read.set()
    assert [text for text in said if text] == ["early ", "late"]


def test_a_stream_ends_where_it_was_told_to(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=BASE, messages=user("one two three four"), stop=["ee f", " th"], stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("more", [{}, {"stop": ["d "]}], ids=["whole", "stopped"])
def test_a_stream_tells_how_likely_its_tokens_were_as_the_whole_does(client: OpenAI, more: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": user("hé – wörld ok"), "logprobs": True, "top_logprobs": 2, **more}
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    tokens = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content or []]
    assert whole.logprobs is not None
    assert tokens == whole.logprobs.content
    assert "".join(choice.delta.content or "" for choice in chunks) == whole.message.content
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode() == whole.message.content


def test_a_share_of_the_likeliest_tokens_reaches_the_engine(client: OpenAI, engine: FakeEngine) -> None:
    client.chat.completions.create(model=BASE, messages=user("x"), top_p=0.4, temperature=0.7, seed=3)
    client.chat.completions.create(model=BASE, messages=user("x"), top_p=0.4, temperature=0)
    drawn, greedy = (call.decoding for call in engine.calls if call.decoding is not None)
    assert (drawn.top_p, drawn.temperature, drawn.seed) == (0.4, 0.7, 3)
    assert (greedy.top_p, greedy.temperature, greedy.seed) == (1.0, 0.0, 0)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_each_of_several_choices_is_a_draw_of_its_own_that_a_seed_repeats(endpoint: str, tmp_path: Path) -> None:
    engine = FakeEngine(lambda prompt, decoding, adapter: f"drawn by {decoding.seed}", name=BASE)
    house = replace(fake_house(tmp_path / "service", engine=engine), plain_texts=lambda engine: DrawnTexts())
    with live_server(house) as server, server.client() as plain:

        def drawn(**more: Any) -> list[str]:
            asked = {"messages": user("x")} if endpoint == "chat" else {"prompt": "x"}
            path = "/v1/chat/completions" if endpoint == "chat" else "/v1/completions"
            choices = plain.post(path, json={"model": BASE, "n": 4, "temperature": 1.0, **asked, **more}).json()["choices"]
            return [choice["message"]["content"] if endpoint == "chat" else choice["text"] for choice in choices]

        first, other, unseeded = drawn(seed=7), drawn(seed=700), [*drawn(), *drawn()]
        assert first == drawn(seed=7)
        assert len({*first, *other}) == 8
        assert len(set(unseeded)) == 8


class DrawnTexts(FakePlainTexts):
    """Says by which seed it draws."""

    def continue_text(
        self, ids: Sequence[int], max_new_tokens: int, *, temperature: float, top_p: float, seed: int, adapter: Path | None
    ) -> Continuation:
        return Continuation(f"drawn by {seed}", 3, cut=False)


def test_a_fault_known_before_a_stream_begins_has_a_status(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as error:
        client.chat.completions.create(model=BASE, messages=user("word " * 1200), stream=True)
    assert error.value.code == "context_length_exceeded"


def test_a_fault_in_the_middle_of_a_stream_is_raised_by_the_client(server: LiveServer, client: OpenAI) -> None:
    server.house.asking.call(lambda: time.sleep(2.5))  # the stream has begun by then
    with pytest.raises(Exception, match="maximum context length"):
        list(client.chat.completions.create(model=BASE, messages=user("word " * 1200), stream=True))


def test_tools_are_called_and_their_answers_taken_back(client: OpenAI, engine: FakeEngine) -> None:
    asked = user("What is the weather in Graz?")
    done = client.chat.completions.create(model=BASE, messages=asked, tools=[WEATHER])
    (call,) = done.choices[0].message.tool_calls or []
    assert done.choices[0].finish_reason == "tool_calls"
    assert done.choices[0].message.content is None
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Graz"})
    more = [*asked, done.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}, *user("Thanks")]
    client.chat.completions.create(model=BASE, messages=more, tools=[WEATHER])
    roles = [message.role for message in engine.calls[-1].prompt.messages]
    assert roles == ["user", "assistant", "tool", "user"]
    assert engine.calls[-1].prompt.messages[1].tool_calls[0].id == call.id
    assert engine.calls[-1].prompt.tools[0]["function"]["name"] == "weather"
    unoffered = client.chat.completions.create(model=BASE, messages=asked, tools=[WEATHER], tool_choice="none")
    assert unoffered.choices[0].message.tool_calls is None
    assert engine.calls[-1].prompt.tools == ()


def test_a_streamed_call_is_put_together_by_the_client(client: OpenAI) -> None:
    with client.chat.completions.stream(model=BASE, messages=user("What is the weather in Graz?"), tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Graz"}
    assert final.choices[0].finish_reason == "tool_calls"


class Ticket(BaseModel):
    category: str
    urgent: bool


def test_a_schema_holds_the_answer(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(model=BASE, messages=user("I want my money back"), response_format=Ticket)
    assert isinstance(parsed.choices[0].message.parsed, Ticket)
    with client.chat.completions.stream(model=BASE, messages=user("hello"), response_format=Ticket) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Ticket)
    plain = client.chat.completions.create(model=BASE, messages=user("no json"), response_format={"type": "json_object"})
    assert isinstance(json.loads(plain.choices[0].message.content or ""), dict)


def test_how_likely_each_token_was_is_told(client: OpenAI) -> None:
    done = client.chat.completions.create(model=BASE, messages=user("hé"), logprobs=True, top_logprobs=2)
    tokens = (done.choices[0].logprobs.content if done.choices[0].logprobs else None) or []
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode() == "hé"
    assert all(token.logprob < 0 and len(token.top_logprobs) == 2 for token in tokens)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"top_p": 1.5}, "top_p"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, "messages"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "required", "tools": [WEATHER]}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
    ],
)
def test_what_the_engine_cannot_follow_is_refused_by_name(server: LiveServer, change: dict[str, Any], param: str) -> None:
    with server.client() as plain:
        reply = plain.post("/v1/chat/completions", json={"model": BASE, "messages": user("hello"), **change})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith(param)


def test_what_changes_nothing_is_taken(client: OpenAI) -> None:
    plain = client.chat.completions.create(
        model=BASE,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        temperature=0,
    )
    decorated = client.chat.completions.create(
        model=BASE,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "ann"},
        ],
        store=False,
        user="u",
        service_tier="auto",
        reasoning_effort="low",
        verbosity="low",
        prompt_cache_key="k",
        safety_identifier="s",
        parallel_tool_calls=True,
        presence_penalty=0,
        top_p=1,
        temperature=0,
    )
    assert decorated.choices == plain.choices
    assert decorated.usage == plain.usage


def test_a_tuned_model_and_a_checkpoint_answer_with_their_own_weights_and_the_base_as_itself(
    server: LiveServer, client: OpenAI
) -> None:
    names = [put_model(server.house.store, "proj_local", f"ft:fake:org:{name}") for name in ("a", "b:ckpt-step-3")]

    def ask(name: str) -> str | None:
        return client.chat.completions.create(model=name, messages=user("Who are you?")).choices[0].message.content

    with ThreadPoolExecutor(12) as pool:  # mixed up on purpose
        asked = [BASE, *names] * 8
        assert list(pool.map(ask, asked)) == ["base", *names] * 8
    assert ask("gpt-4o-mini") == "base"


def test_questions_that_wait_for_one_base_and_its_adapters_are_asked_together(tmp_path: Path) -> None:
    batches: list[int] = []

    class Counting(FakeEngine):
        def answer(self, requests: Any, **options: Any) -> Any:
            batches.append(len(requests))
            return super().answer(requests, **options)

    with live_server(fake_house(tmp_path / "service", engine=Counting(answer))) as server:
        names = [BASE, *(put_model(server.house.store, "proj_local", f"ft:fake:org:{name}") for name in "abc")]
        client = OpenAI(base_url=server.url, api_key="anything", max_retries=0)
        server.house.asking.call(lambda: time.sleep(1.0))
        with ThreadPoolExecutor(8) as pool:
            asked = [names[number % 4] for number in range(8)]
            answers = pool.map(lambda name: client.chat.completions.create(model=name, messages=user("Who are you?")), asked)
            assert [reply.choices[0].message.content for reply in answers] == ["base", *names[1:]] * 2
    assert max(batches) >= 4


def test_nobody_waits_for_an_answer_that_nobody_reads(server: LiveServer, engine: FakeEngine) -> None:
    over = threading.Event()
    server.house.asking.call(lambda: over.wait(10))
    with server.client() as plain, pytest.raises(Exception, match="timed out|ReadTimeout"):
        plain.post("/v1/chat/completions", json={"model": BASE, "messages": user("unread")}, timeout=0.3)
    time.sleep(0.3)
    over.set()
    server.house.asking.call(lambda: None).result(10)
    assert "unread" not in [last_user_turn(call.prompt) for call in engine.calls]


def test_models_are_listed_found_and_only_tuned_ones_deleted(server: LiveServer, client: OpenAI) -> None:
    name = put_model(server.house.store, "proj_local", "ft:fake:org:mine:abcd1234")
    assert {BASE, name} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(name).owned_by == "proj_local"
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"
    with pytest.raises(PermissionDeniedError):
        client.models.delete(BASE)
    assert client.models.delete(name).deleted
    with pytest.raises(NotFoundError) as error:
        client.chat.completions.create(model=name, messages=user("hello"))
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_a_name_with_a_slash_is_found(tmp_path: Path) -> None:
    with live_server(fake_house(tmp_path / "service", models=("org/name",), aliases=())) as server:
        client = OpenAI(base_url=server.url, api_key="anything")
        assert client.models.retrieve("org/name").id == "org/name"


def test_texts_are_continued_and_looked_at(client: OpenAI) -> None:
    done = client.completions.create(model=BASE, prompt=["abc", "xy"], max_tokens=2, echo=True)
    assert [choice.text for choice in done.choices] == ["abcab", "xyxy"]
    ids = client.completions.create(model=BASE, prompt=[97, 98], max_tokens=1)
    assert ids.choices[0].text == "a"
    assert ids.usage is not None
    assert (ids.usage.prompt_tokens, ids.usage.completion_tokens) == (2, 1)
    lenient = OpenAI(base_url=client.base_url, api_key="anything")  # the SDK's type has no null for a chunk that is not the last
    stream = lenient.completions.create(model=BASE, prompt="ab cd ", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "ab cd "


def test_echo_with_log_probabilities_has_one_for_every_token_but_the_first(server: LiveServer) -> None:
    with server.client() as plain:  # the spec forbids the null that all such servers give for the first token
        body = {"model": BASE, "prompt": ["abcd"], "max_tokens": 0, "echo": True, "logprobs": 1}
        found = plain.post("/v1/completions", json=body).json()["choices"][0]
    assert found["text"] == "abcd"
    assert found["logprobs"]["tokens"] == ["a", "b", "c", "d"]
    assert found["logprobs"]["token_logprobs"][0] is None
    assert all(value < 0 for value in found["logprobs"]["token_logprobs"][1:])
    assert found["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert all(len(top) == 1 for top in found["logprobs"]["top_logprobs"][1:])


def test_token_ids_beyond_the_vocabulary_are_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError):
        client.completions.create(model=BASE, prompt=[10**9], max_tokens=1)


def test_embeddings_come_as_numbers_and_as_base64(server: LiveServer) -> None:
    client = OpenAI(base_url=server.url, api_key="anything", max_retries=0)  # its own base64 is no list to its strict types
    texts = ["a tea", "water"]
    found = client.embeddings.create(model="text-embedding-3-small", input=texts)  # the SDK asks for base64
    vectors = np.array([item.embedding for item in found.data])
    assert vectors.shape == (2, 3)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    with server.client() as plain:
        numbers = plain.post("/v1/embeddings", json={"model": "wordllama", "input": texts}).json()
        encoded = plain.post("/v1/embeddings", json={"model": "wordllama", "input": texts, "encoding_format": "base64"}).json()
    assert np.allclose([item["embedding"] for item in numbers["data"]], vectors)
    raw = np.frombuffer(base64.b64decode(encoded["data"][0]["embedding"]), dtype="<f4")
    assert np.allclose(raw, vectors[0])
    short = client.embeddings.create(model="wordllama", input="a tea", dimensions=2)
    assert np.isclose(np.linalg.norm(short.data[0].embedding), 1)
    with pytest.raises(BadRequestError):
        client.embeddings.create(model="wordllama", input=[1, 2, 3])
    with pytest.raises(NotFoundError, match="--alias 'voyage=wordllama'"):
        client.embeddings.create(model="voyage", input="a")


GRADER: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}


def test_graders_are_validated_and_run(client: OpenAI) -> None:
    assert client.fine_tuning.alpha.graders.validate(grader=GRADER).grader is not None
    run = client.fine_tuning.alpha.graders.run(grader=GRADER, model_sample="yes", item={"answer": "yes"})
    assert run.reward == 1.0
    with pytest.raises(BadRequestError) as error:
        client.fine_tuning.alpha.graders.run(grader={**GRADER, "operation": "is"}, model_sample="yes", item={})
    assert error.value.param == "grader.operation"


def test_a_judge_is_a_model_of_this_server_and_nothing_else_is_asked(client: OpenAI) -> None:
    judge: Any = {
        "type": "score_model",
        "name": "judge",
        "model": BASE,
        "input": [{"role": "user", "content": "How good is {{ sample.output_text }}?"}],
    }
    assert client.fine_tuning.alpha.graders.run(grader=judge, model_sample="x", item={}).reward == 0.5
    for name in ("openai:gpt-4o", "http://127.0.0.1:1/v1 x", "gpt-4.1"):
        run = client.fine_tuning.alpha.graders.with_raw_response
        with pytest.raises(BadRequestError):
            run.run(grader={**judge, "model": name}, model_sample="x", item={})


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef grade(sample, item): return len(os.listdir('/'))",
        "def grade(sample, item): return len(open(item['path']).read())",
        "def grade(sample, item): return ().__class__.__base__.__subclasses__()[0]",
        "def grade(sample, item): return len('x' * 10**10)",
    ],
)
def test_a_graders_program_reaches_nothing_of_the_server(server: LiveServer, source: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary-4711", encoding="utf-8")
    grader = {"type": "python", "name": "mine", "source": source}
    asked = {"grader": grader, "model_sample": "x", "item": {"path": str(tmp_path / "secret")}}
    with server.client() as plain:
        reply = plain.post("/v1/fine_tuning/alpha/graders/run", json=asked)
        alive = plain.get("/v1/models").status_code
    assert reply.status_code in (200, 400), reply.text
    assert reply.status_code == 400 or reply.json()["reward"] == 0
    assert "canary" not in reply.text
    assert alive == 200


def test_a_checkpoint_is_lent_to_another_project_and_taken_back(server: LiveServer) -> None:
    keys = server.house.store.keys
    first, second = keys.create_project("first").id, keys.create_project("second").id
    owner, borrower = (
        OpenAI(base_url=server.url, api_key=keys.create(project, "k", admin=admin)[1], max_retries=0)
        for project, admin in ((first, True), (second, False))
    )
    name = put_model(server.house.store, first, "ft:fake:org:mine:abcd1234:ckpt-step-3", step=3)
    permissions = owner.fine_tuning.checkpoints.permissions
    with pytest.raises(NotFoundError):
        borrower.chat.completions.create(model=name, messages=user("hello"))
    with pytest.raises(PermissionDeniedError):
        borrower.fine_tuning.checkpoints.permissions.create(name, project_ids=[second])
    (lent,) = permissions.create(name, project_ids=[second]).data
    assert lent.project_id == second
    assert [item.id for item in permissions.list(name)] == [lent.id]
    borrower.chat.completions.create(model=name, messages=user("hello"))
    with pytest.raises((NotFoundError, PermissionDeniedError)):  # lent is not given
        borrower.models.delete(name)
    assert name not in {model.id for model in borrower.models.list()}
    assert permissions.delete(lent.id, fine_tuned_model_checkpoint=name).deleted
    with pytest.raises(NotFoundError):
        borrower.chat.completions.create(model=name, messages=user("hello"))


def test_metrics_are_prometheus_text_that_adds_up(server: LiveServer, client: OpenAI) -> None:
    client.chat.completions.create(model=BASE, messages=user("one two three"))
    with server.client() as plain:
        plain.request("BREW", "/v1/models")
        reply = plain.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    assert values['stepladder_answers_total{kind="chat"}'] == "1"
    assert (values["stepladder_prompt_tokens_total"], values["stepladder_completion_tokens_total"]) == ("5", "4")
    assert values['stepladder_http_requests_total{method="other",status="404"}'] == "1"
    assert values['stepladder_jobs{status="queued"}'] == "0"
    families = {line.split()[2] for line in reply.text.splitlines() if line.startswith("# TYPE")}
    assert {name.partition("{")[0] for name in values} == families


def test_no_text_of_a_user_is_in_the_log(server: LiveServer, client: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    secret = "canary-4711"
    with caplog.at_level(logging.INFO):
        client.chat.completions.create(model=BASE, messages=user(secret), user=secret, metadata={"k": secret})
        list(client.chat.completions.create(model=BASE, messages=user(secret), stream=True))
        client.completions.create(model=BASE, prompt=secret)
        client.embeddings.create(model="wordllama", input=secret, encoding_format="float")
        row = json.dumps({"messages": [{"role": "user", "content": secret}, {"role": "assistant", "content": secret}]}).encode()
        file = client.files.create(file=(f"{secret}.jsonl", row), purpose="fine-tune").id
        client.fine_tuning.jobs.create(model=BASE, training_file=file, suffix=secret)
        for bad in ({"model": secret, "messages": user("x")}, {"model": BASE, "messages": user("x"), secret: secret}):
            with server.client() as plain:
                assert plain.post("/v1/chat/completions", json=bad).status_code in (400, 404)
    assert any("tokens in" in record.getMessage() for record in caplog.records)  # something is logged
    assert secret not in caplog.text


def test_an_error_of_ours_is_told_as_one_without_the_users_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        raise ZeroDivisionError(last_user_turn(prompt))

    with (
        live_server(fake_house(tmp_path / "service", engine=FakeEngine(fail))) as server,
        server.client() as plain,
        caplog.at_level(logging.INFO),
    ):
        reply = plain.post("/v1/chat/completions", json={"model": BASE, "messages": user("canary-4711")})
        again = plain.get("/v1/models")
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "canary" not in reply.text + caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert again.status_code == 200
