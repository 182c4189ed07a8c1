from __future__ import annotations

import json
import re
import sys
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepladder.domain.errors import EngineError, MissingExtra, NotOffered
from stepladder.domain.messages import Message
from stepladder.domain.output import dump_json
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.engines.transformers.grammar import KEPT_GRAMMARS, GrammarCompiler, RowGrammar
from stepladder.models.loading import LoadedModel


@pytest.fixture(scope="module")
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny)


def answers(engine: TransformersEngine, grammar: Grammar, *, draws: int = 6, max_new_tokens: int = 120) -> list[Generation]:
    """Greedy and hot answers of a model that knows nothing: only the grammar gives them shape."""
    prompts = [Prompt(f"{number}", (Message("user", f"{number} please"),)) for number in range(draws)]
    greedy = engine.generate(prompts[:2], Decoding(max_new_tokens, grammar=grammar))
    return greedy + engine.generate(prompts, Decoding(max_new_tokens, temperature=1.5, seed=3, grammar=grammar))


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more}


SCHEMAS = {
    "enum": obj({"kind": {"enum": ["refund", "delivery", "a \"quoted\" one", "ä"]}}),
    "nested": obj({"a": obj({"b": obj({"c": {"type": "boolean"}})}), "z": {"const": 3}}),
    "array": obj({"tags": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 3}}),
    "empty array": {"type": "array", "items": {"type": "null"}, "maxItems": 2},
    "number": obj({"n": {"type": "number", "minimum": -5, "maximum": 1000}}),
    "integer": obj({"n": {"type": "integer", "minimum": 0, "maximum": 99}, "m": {"type": "integer", "maximum": 9, "minimum": 3}}),
    "nullable": obj({"order": {"type": ["string", "null"], "maxLength": 5}, "u": {"anyOf": [{"type": "null"}, {"const": 2}]}}),
    "string": obj({"s": {"type": "string", "maxLength": 8}, "t": {"type": "string", "minLength": 1, "maxLength": 3}}),
    "optional": {"type": "object", "properties": {"z": {"enum": [1]}, "a": {"enum": [2]}}, "additionalProperties": False},
    "reference": {"$defs": {"k": {"enum": ["p", "q"]}}, **obj({"one": {"$ref": "#/$defs/k"}, "two": {"$ref": "#/$defs/k"}})},
    "top enum": {"enum": ["a", "b", None, 7]},
}  # fmt: skip


def canonical(text: str, schema: Any) -> str:
    """`text` parsed and written again in the project's form, every number with its digits (1.50 is 1.5; both may be written)."""
    digits: list[str] = []

    def keep(raw: str) -> str:
        digits.append(raw)
        return f"\ue000{len(digits) - 1}\ue000"

    written = dump_json(json.loads(text, parse_float=keep, parse_int=keep), schema)
    return re.sub('"\ue000(\\d+)\ue000"', lambda match: digits[int(match.group(1))], written)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_finished_answer_is_valid_and_in_the_projects_serialisation(engine: TransformersEngine, name: str) -> None:
    schema = SCHEMAS[name]
    found = answers(engine, Grammar("json_schema", json.dumps(schema)))
    finished = [answer.text for answer in found if not answer.cut]
    assert len(finished) >= 4
    for text in finished:
        assert jsonschema_rs.is_valid(schema, json.loads(text)), text
        assert text == canonical(text, schema)


def random_schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
        st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=6), min_size=1, max_size=3, unique=True).map(
            lambda values: {"enum": values}
        ),
        st.integers(-50, 50).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 7}),
        st.just({"type": ["boolean", "null"]}),
        st.integers(0, 4).map(lambda most: {"type": "string", "maxLength": most}),
    )
    keys = st.text("abcdeä_ ", min_size=1, max_size=4)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.dictionaries(keys, inner, min_size=1, max_size=3).map(obj),
            inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2}),
        ),
        max_leaves=5,
    )


@settings(max_examples=15, deadline=None)
@given(random_schemas())
@example(obj({"b": {"enum": ["x"]}, "a": {"type": "array", "items": {"type": ["boolean", "null"]}, "maxItems": 2}}))
def test_any_schema_gives_valid_answers_in_one_serialisation(engine: TransformersEngine, schema: dict[str, Any]) -> None:
    for answer in answers(engine, Grammar("json_schema", json.dumps(schema)), draws=2):
        if not answer.cut:
            assert jsonschema_rs.is_valid(schema, json.loads(answer.text)), answer.text
            assert answer.text == canonical(answer.text, schema)


def test_labels_are_answered_to_the_letter(engine: TransformersEngine) -> None:
    labels = ["refund", "refund now", 'with "quotes"', "back\\slash", "Ärger", "line\nbreak", "{curly} | (round)"]
    found = answers(engine, Grammar("labels", json.dumps(labels)), draws=20)
    assert all(not answer.cut and answer.text in labels for answer in found)
    assert len({answer.text for answer in found}) > 2


def test_a_label_that_begins_another_leaves_the_model_the_choice(engine: TransformersEngine) -> None:
    found = answers(engine, Grammar("labels", '["a", "a a", "a a a"]'), draws=30)
    assert {answer.text for answer in found} >= {"a a a"}
    assert len({answer.text for answer in found}) > 1


def test_a_regular_expression_matches_the_whole_answer(engine: TransformersEngine) -> None:
    pattern = r"[A-Z]{2}-\d{3}(-x)?"
    found = answers(engine, Grammar("regex", pattern))
    assert all(not answer.cut and re.fullmatch(pattern, answer.text) for answer in found)


def test_an_answer_without_room_to_finish_is_cut(engine: TransformersEngine) -> None:
    grammar = Grammar("json_schema", json.dumps(SCHEMAS["nested"]))
    [cut] = engine.generate([Prompt("row", (Message("user", "x"),))], Decoding(3, grammar=grammar))
    assert (cut.cut, cut.completion_tokens) == (True, 3)
    with pytest.raises(ValueError, match=r"delimiter|Expecting|Unterminated"):
        json.loads(cut.text)


def test_an_answer_that_is_complete_in_the_last_token_is_not_cut(engine: TransformersEngine) -> None:
    grammar = Grammar("labels", '["refund"]')
    prompt = Prompt("row", (Message("user", "x"),))
    [whole] = engine.generate([prompt], Decoding(50, grammar=grammar))
    [exact] = engine.generate([prompt], Decoding(whole.completion_tokens, grammar=grammar))
    assert (exact.text, exact.cut) == ("refund", False)


def test_nothing_but_the_end_of_the_turn_may_follow_a_complete_answer(tiny: LoadedModel) -> None:
    compiler = GrammarCompiler(tiny.tokenizer.backend.to_str(), 400, [2])
    grammar = compiler.start(Grammar("json_schema", '{"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}'))
    for id in tiny.tokenizer.encode('{"a": 1}'):
        assert not grammar.complete
        assert grammar.allowed()[id]
        grammar.take(id)
    assert grammar.allowed().nonzero().flatten().tolist() == [2] or not grammar.complete
    closed = compiler.start(Grammar("labels", '["a"]'))
    closed.take(tiny.tokenizer.encode("a")[0])
    assert closed.complete
    assert closed.allowed().nonzero().flatten().tolist() == [2]


def follow(grammar: RowGrammar, ids: list[int]) -> None:
    for id in ids:
        grammar.take(id)


@pytest.mark.parametrize("wrong", ['{"a":1}', '{ "a"', '{"a" :', '{"a": 1 ,', "\n{"])
def test_no_free_white_space(tiny: LoadedModel, wrong: str) -> None:
    compiler = GrammarCompiler(tiny.tokenizer.backend.to_str(), 400, [2])
    grammar = compiler.start(Grammar("json_schema", json.dumps(obj({"a": {"type": "integer"}, "b": {"type": "integer"}}))))
    with pytest.raises(EngineError, match="could not follow"):
        follow(grammar, tiny.tokenizer.encode(wrong))


def test_every_stop_id_may_end_an_answer(tiny: LoadedModel) -> None:
    compiler = GrammarCompiler(tiny.tokenizer.backend.to_str(), 400, [0, 2])
    grammar = compiler.start(Grammar("regex", "a?"))
    assert grammar.allowed()[[0, 2]].tolist() == [True, True]


def test_a_head_wider_than_the_vocabulary_never_gives_an_unknown_token(tiny: LoadedModel) -> None:
    compiler = GrammarCompiler(tiny.tokenizer.backend.to_str(), 450, [2])
    allowed = compiler.start(Grammar("regex", "(?s:.*)")).allowed()
    assert allowed.shape == (450,)
    assert allowed.dtype == torch.bool
    assert not allowed[400:].any()


def test_rows_under_one_grammar_do_not_disturb_each_other(engine: TransformersEngine) -> None:
    grammar = Grammar("json_schema", json.dumps(SCHEMAS["string"]))
    prompts = [Prompt(f"{number}", (Message("user", "x " * number),)) for number in range(1, 8)]
    together = [answer.text for answer in engine.generate(prompts, Decoding(60, grammar=grammar))]
    assert together == [engine.generate([prompt], Decoding(60, grammar=grammar))[0].text for prompt in prompts]


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar("json_schema", '{"not": {"type": "object"}}'), "JSON Schema.*not"),
        (Grammar("json_schema", '{"type": "nonsense"}'), "JSON Schema"),
        (Grammar("json_schema", '{"type": "array", "uniqueItems": true}'), "JSON Schema.*uniqueItems"),
        (Grammar("json_schema", '{"oneOf": [{"type": "string"}, {"maxLength": 3}]}'), "JSON Schema.*oneOf"),
        (Grammar("json_schema", '{"const": {"a": ["b\\u0001"]}}'), "JSON Schema.*`const` or `enum` holds a control"),
        (Grammar("json_schema", "false"), "JSON Schema"),
        (Grammar("regex", "(?=a)"), "regular expression.*look-ahead"),
        (Grammar("regex", "(unclosed"), "regular expression"),
    ],
)
def test_a_grammar_that_cannot_be_held_is_refused_with_the_reason(
    engine: TransformersEngine, grammar: Grammar, words: str
) -> None:
    with pytest.raises(NotOffered, match=words):
        engine.generate([Prompt("row", (Message("user", "x"),))], Decoding(5, grammar=grammar))


def test_only_so_many_grammars_stay_compiled_and_those_in_use_among_them(tiny: LoadedModel) -> None:
    compiled: list[str] = []

    class Counting(GrammarCompiler):
        def _compile(self, grammar: Grammar) -> Any:
            compiled.append(grammar.text)
            return super()._compile(grammar)

    compiler = Counting(tiny.tokenizer.backend.to_str(), tiny.model.config.vocab_size, [2])
    texts = [f"a{number}" for number in range(KEPT_GRAMMARS + 6)]
    for text in ["b", *texts]:
        for one in (text, "b"):
            assert isinstance(compiler.start(Grammar("regex", one)), RowGrammar)
    assert compiled == ["b", *texts]
    assert len(compiler._compiled) == KEPT_GRAMMARS
    compiler.start(Grammar("regex", texts[0]))
    assert compiled[-1] == texts[0]


def test_without_llguidance_the_extra_is_named(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=r"stepladder\[constrained\]"):
        TransformersEngine(tiny).generate([Prompt("row", (Message("user", "x"),))], Decoding(5, grammar=Grammar("regex", "a")))
