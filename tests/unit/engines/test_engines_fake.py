from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest

from stepladder.domain.errors import EngineError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Engine, Grammar, Prompt
from stepladder.engines.fake import FakeEngine

SHORT = Decoding(max_new_tokens=8)


def ask(text: str, id: str = "row") -> Prompt:
    return Prompt(id, (Message("system", "Be brief."), Message("user", text)))


def test_it_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.can == {"score", "grammar", "adapter", "count", "tools", "calls"}


def test_without_an_answer_it_repeats_the_last_user_turn() -> None:
    assert FakeEngine().generate([ask("red blue")], SHORT)[0].text == "red blue"


def test_a_table_answers_what_it_holds_and_repeats_the_rest() -> None:
    answers = FakeEngine({"2+2": "4"}).generate([ask("2+2"), ask("3+3")], SHORT)
    assert [answer.text for answer in answers] == ["4", "3+3"]


def test_a_function_sees_prompt_decoding_and_adapter(tmp_path: Path) -> None:
    engine = FakeEngine(lambda prompt, decoding, adapter: f"{prompt.id} {decoding.seed} {adapter is not None}")
    assert engine.generate([ask("x", "a")], Decoding(8, seed=3), adapter=tmp_path)[0].text == "a 3 True"


def test_an_adapter_is_named_by_the_hash_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    first = FakeEngine().generate([ask("x")], SHORT, adapter=tmp_path)[0].adapter_sha256
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    second = FakeEngine().generate([ask("x")], SHORT, adapter=tmp_path)[0].adapter_sha256
    assert first != second
    assert FakeEngine().generate([ask("x")], SHORT)[0].adapter_sha256 is None


def test_an_answer_that_is_too_long_is_cut_and_says_so() -> None:
    answer = FakeEngine().generate([ask("one two three")], Decoding(2))[0]
    assert (answer.text, answer.cut, answer.completion_tokens) == ("one two", True, 2)


def test_a_prompt_over_the_context_is_refused_by_name_before_anything_is_asked() -> None:
    engine = FakeEngine(context_tokens=15)
    with pytest.raises(EngineError, match="'long'"):
        engine.generate([ask("hi"), ask("a b c d e f", "long")], SHORT)
    assert engine.calls == []


def test_calls_are_recorded_in_order() -> None:
    engine = FakeEngine()
    engine.generate([ask("a"), ask("b")], SHORT)
    engine.score([ask("c")], [["x", "y"]])
    assert [call.prompt.messages[-1].content for call in engine.calls] == ["a", "b", "c"]
    assert engine.calls[-1].completions == ("x", "y")


def test_the_expected_completion_scores_best_per_token() -> None:
    [scores] = FakeEngine({"q": "yes indeed"}).score([ask("q")], [["no", "yes indeed", "maybe"]])
    per_token = [score.log_probability / score.tokens for score in scores]
    assert per_token.index(max(per_token)) == 1
    assert scores[1].tokens == 3  # two words and the end of the turn
    assert FakeEngine({"q": "yes indeed"}).score([ask("q")], [["no", "yes indeed", "maybe"]]) == [scores]


def test_labels_hold_the_answer_to_the_list() -> None:
    grammar = Grammar("labels", json.dumps(["spam", "ham"]))
    texts = [
        FakeEngine(says(text)).generate([ask("x")], Decoding(8, grammar=grammar))[0].text for text in ("ham", "it is ham", "?")
    ]
    assert texts == ["ham", "ham", "spam"]


SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "note": {"type": ["string", "null"], "minLength": 2},
        "count": {"type": "integer", "minimum": 3},
        "tags": {"type": "array", "items": {"const": "t"}, "minItems": 2},
        "sure": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["kind", "note", "count", "tags", "sure"],
    "additionalProperties": False,
}


def says(text: str):  # type: ignore[no-untyped-def]
    return lambda prompt, decoding, adapter: text


def test_a_schema_holds_the_answer_to_a_valid_value() -> None:
    decoding = Decoding(99, grammar=Grammar("json_schema", json.dumps(SCHEMA)))
    text = FakeEngine(says("not JSON")).generate([ask("x")], decoding)[0].text
    assert text == '{"kind": "a", "note": "xx", "count": 3, "tags": ["t", "t"], "sure": false}'
    assert jsonschema_rs.is_valid(SCHEMA, json.loads(text))


def test_a_valid_answer_is_written_in_schema_order() -> None:
    grammar = Grammar("json_schema", '{"type":"object","properties":{"a":{},"b":{}}}')
    text = FakeEngine(says('{"b":1,"a":2}')).generate([ask("x")], Decoding(9, grammar=grammar))[0].text
    assert text == '{"a": 2, "b": 1}'


def test_a_schema_it_cannot_fill_is_said() -> None:
    grammar = Grammar("json_schema", '{"type":"string","pattern":"^z$"}')
    with pytest.raises(EngineError, match="Give FakeEngine an `answer`"):
        FakeEngine(says("x")).generate([ask("x")], Decoding(9, grammar=grammar))


def test_a_regex_the_answer_does_not_match_is_said() -> None:
    grammar = Grammar("regex", r"\d+")
    assert FakeEngine(says("12")).generate([ask("x")], Decoding(9, grammar=grammar))[0].text == "12"
    with pytest.raises(EngineError, match="does not match the regex"):
        FakeEngine(says("x")).generate([ask("x")], Decoding(9, grammar=grammar))
