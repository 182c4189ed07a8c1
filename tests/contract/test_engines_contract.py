"""What every engine promises, whatever runs behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from chat_server import chat_server
from messages_server import MessagesServer
from stepladder.domain.errors import EngineError, ModelError
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Engine, Grammar, Prompt, Request, Serving
from stepladder.engines.address import Address
from stepladder.engines.anthropic import AnthropicEngine
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.fake import FakeEngine
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.loading import load
from tiny_model import build_tiny_model

TEXTS = ["one two three four five", "six", "seven eight", "nine ten eleven twelve", "six", "thirteen"]
PROMPTS = [Prompt(f"row-{number}", (Message("system", "Be brief."), Message("user", text))) for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return TransformersEngine(load(str(folder), device="cpu", dtype="float32"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["fake", "transformers", "endpoint", "anthropic", "recorded fake", "recorded transformers"])
def engine(request: pytest.FixtureRequest, local: TransformersEngine, tmp_path: Path) -> Iterator[Engine]:
    match request.param:
        case "fake":
            yield FakeEngine()
        case "transformers":
            yield local
        case "recorded fake":
            yield RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
        case "recorded transformers":
            yield RecordedEngine(local, tmp_path / "answers.jsonl")
        case "anthropic":
            with chat_server(MessagesServer) as server:
                claude = AnthropicEngine(Address(server.url, "test", "", "anthropic"), "key", concurrency=3)
                yield claude
                claude.close()
        case _:
            with chat_server() as server:
                endpoint = EndpointEngine(server.url, "test", "key", concurrency=3)
                yield endpoint
                endpoint.close()


def test_every_prompt_is_answered_once_and_in_order(engine: Engine) -> None:
    reported: list[tuple[int, Generation]] = []
    answers = engine.generate(PROMPTS, Decoding(6), on_answer=lambda index, answer: reported.append((index, answer)))
    alone = [engine.generate([prompt], Decoding(6))[0].text for prompt in PROMPTS]
    assert [answer.text for answer in answers] == alone
    assert sorted(index for index, _ in reported) == list(range(len(PROMPTS)))
    assert all(answers[index] == answer for index, answer in reported)


def test_the_same_prompt_gets_the_same_greedy_answer(engine: Engine) -> None:
    first = engine.generate(PROMPTS, Decoding(6))
    second = engine.generate(PROMPTS[::-1], Decoding(6))[::-1]
    assert [answer.text for answer in first] == [answer.text for answer in second]
    assert first[1].text == first[4].text


def test_an_engine_that_serves_is_heard_while_it_writes_the_same_answers(engine: Engine) -> None:
    if not isinstance(engine, Serving):
        return
    heard: dict[int, list[str]] = {}
    answers = engine.answer(
        [Request(prompt, Decoding(6)) for prompt in PROMPTS],
        on_text=lambda place, piece: heard.setdefault(place, []).append(piece),
    )
    assert [answer.text for answer in answers] == [answer.text for answer in engine.generate(PROMPTS, Decoding(6))]
    assert ["".join(heard.get(place, ())) for place in range(len(PROMPTS))] == [answer.text for answer in answers]


def test_it_stops_at_max_new_tokens_and_says_so(engine: Engine) -> None:
    [long] = engine.generate(PROMPTS[:1], Decoding(2))
    assert (long.completion_tokens, long.cut) == (2, True)


def test_counts_and_times_are_there(engine: Engine) -> None:
    for answer in engine.generate(PROMPTS, Decoding(6)):
        assert answer.prompt_tokens > 0
        assert 0 < answer.completion_tokens <= 6
        assert 0 < answer.latency_seconds < 60
        assert 0 <= answer.shared_prompt_tokens < answer.prompt_tokens
        assert len(answer.prompt_sha256) == 64
        assert answer.model_sha256 == engine.identity.base_sha256
        assert answer.adapter_sha256 is None


def test_nothing_asked_is_nothing_answered(engine: Engine) -> None:
    assert engine.generate([], Decoding(6)) == []


def test_the_identity_names_what_answers(engine: Engine) -> None:
    assert engine.identity.name
    assert engine.identity.engine in {"fake", "transformers", "endpoint", "anthropic"}
    assert not engine.identity.hosted  # all of these run on this machine


def test_it_holds_answers_to_labels(engine: Engine) -> None:
    assert "grammar" in engine.can
    labels = ["refund", "delivery", "something else"]
    answers = engine.generate(PROMPTS, Decoding(40, grammar=Grammar("labels", json.dumps(labels))))
    assert all(answer.text in labels and not answer.cut for answer in answers)


def test_it_holds_answers_to_a_schema(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "level": {"enum": ["low", "high"]}},
        "required": ["kind", "level"],
        "additionalProperties": False,
    }
    for answer in engine.generate(PROMPTS, Decoding(60, grammar=Grammar("json_schema", json.dumps(schema)))):
        value = json.loads(answer.text)
        assert value["kind"] in {"a", "b"}
        assert value["level"] in {"low", "high"}


TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {"city": {}}}}}
CALLED = Message("assistant", "", tool_calls=(ToolCall("call00000", "find", '{"city": "Graz"}'),))


def test_tools_and_calls_reach_the_model_or_the_model_is_refused_by_name(engine: Engine) -> None:
    asked = Prompt("row", (Message("user", "Where?"), CALLED, Message("tool", "There.", tool_call_id="call00000")), (TOOL,))
    if {"tools", "calls"} <= engine.can:
        assert engine.generate([asked], Decoding(6))[0].completion_tokens > 0
    else:
        with pytest.raises(ModelError, match="Prompt 'row': The chat template of .* drops the tools on offer"):
            engine.generate([asked], Decoding(6))


def uses(folder: Path) -> dict[str, Callable[[Engine], object]]:
    return {
        "score": lambda engine: engine.score(PROMPTS[:1], [["yes"]]),
        "adapter": lambda engine: engine.generate(PROMPTS[:1], Decoding(3), adapter=folder),
        "count": lambda engine: (engine.count_tokens(PROMPTS), engine.count_text_tokens(TEXTS)),
    }


@pytest.mark.parametrize("feature", ["score", "adapter", "count"])
def test_what_an_engine_cannot_do_it_refuses_in_words(engine: Engine, feature: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    use = uses(tmp_path)[feature]
    if feature not in engine.can:
        with pytest.raises(EngineError) as caught:
            use(engine)
        assert caught.value.hint
        assert engine.identity.name in str(caught.value)
    elif feature != "adapter":  # real adapters have their own tests
        assert use(engine)


def test_scores_are_log_probabilities_of_each_completion_in_order(engine: Engine) -> None:
    if "score" not in engine.can:
        with pytest.raises(EngineError):
            engine.score(PROMPTS, [["yes"]] * len(PROMPTS))
        return
    options = [["yes", "no indeed", "yes"], [], ["no"], ["a", "b"], [""], ["x"]]
    scores = engine.score(PROMPTS, options)
    assert [len(row) for row in scores] == [len(row) for row in options]
    assert all(score.log_probability < 0 and score.tokens >= 1 for row in scores for score in row)
    assert scores[0][0] == scores[0][2]
    assert scores[0][1].tokens > scores[0][0].tokens
    assert engine.score([], []) == []


def test_a_prompt_over_the_context_is_refused_by_name(engine: Engine) -> None:
    if not engine.identity.context_tokens:
        return  # a server knows its own limit, and its words reach the user (see the endpoint's tests)
    long = Prompt("the-long-one", (Message("user", "word " * engine.identity.context_tokens),))
    with pytest.raises(EngineError, match="the-long-one"):
        engine.generate([PROMPTS[0], long], Decoding(6))
