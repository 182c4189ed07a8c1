from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from small_architectures import UNSTEADY, build
from stepladder.domain.errors import EngineError, ModelError, NotShown
from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.transformers import engine as engine_module
from stepladder.engines.transformers import scoring
from stepladder.engines.transformers.answering import batches as split_into_batches
from stepladder.engines.transformers.caches import is_plain
from stepladder.engines.transformers.engine import BatchLimits, TransformersEngine
from stepladder.files import hash_file
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.loading import LoadedModel
from tiny_model import CHATML

INSTRUCTION = "Answer the customer's message with one JSON object. Think about the order, the parcel and the refund."
WORDS = ["where", "is", "my", "parcel", "I", "want", "a", "refund", "for", "the", "lamp", "please", "4711", "äöü", "\n", "now"]

words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


def ask(text: str, system: str | None = INSTRUCTION, id: str = "row") -> Prompt:
    before = () if system is None else (Message("system", system),)
    return Prompt(id, (*before, Message("user", text)))


class Oracle:
    """Plain transformers, one prompt at a time, through transformers' own template code."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if adapter is not None:
            with warnings.catch_warnings():  # PEFT calls a property that transformers has renamed
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
                self.model = PeftModel.from_pretrained(self.model, adapter).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def ids(self, prompt: Prompt) -> list[int]:
        chat = [message.as_chat() for message in prompt.messages]
        return list(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def answer(self, prompt: Prompt, max_new_tokens: int, stop_ids: Sequence[int] = (2,)) -> list[int]:
        ids = torch.tensor([self.ids(prompt)])
        made = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids),
            pad_token_id=2,
        )
        return [int(id) for id in made[0, ids.shape[1] :]]

    def text(self, prompt: Prompt, max_new_tokens: int, stop_ids: Sequence[int] = (2,)) -> str:
        ids = self.answer(prompt, max_new_tokens, stop_ids)
        if ids[-1] in stop_ids:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @torch.inference_mode()
    def log_probability(self, prompt: Prompt, completion: str) -> float:
        before = self.ids(prompt)
        after = [*self.tokenizer(completion, add_special_tokens=False)["input_ids"], 2]
        logs = torch.log_softmax(self.model(torch.tensor([before + after])).logits[0].double(), dim=-1)
        return math.fsum(float(logs[len(before) - 1 + place, id]) for place, id in enumerate(after))


@pytest.fixture(scope="module")
def oracle(tiny_folder: Path) -> Oracle:
    return Oracle(tiny_folder)


@pytest.fixture(scope="module")
def adapted_oracle(tiny_folder: Path, adapter_folder: Path) -> Oracle:
    return Oracle(tiny_folder, adapter_folder)


@pytest.fixture(scope="module")
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny, BatchLimits(rows=5, tokens=700))


# A random model seldom ends its turn: with every eleventh token a stop, rows do leave early.
STOPS = frozenset({2, *range(0, 400, 11)})


@pytest.fixture
def stopping(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(with_stops(tiny))


def with_stops(tiny: LoadedModel) -> LoadedModel:
    changed = dataclasses.replace(tiny)
    changed.__dict__["stop_ids"] = tuple(sorted(STOPS))
    return changed


# The same answers as plain transformers


@settings(max_examples=10, deadline=None)
@given(st.lists(words, min_size=1, max_size=7), st.booleans(), st.integers(1, 14))
def test_greedy_answers_are_those_of_plain_generate(
    engine: TransformersEngine, oracle: Oracle, texts: list[str], shared: bool, max_new_tokens: int
) -> None:
    prompts = [ask(text, INSTRUCTION if shared else f"{number} {INSTRUCTION}") for number, text in enumerate(texts)]
    answers = engine.generate(prompts, Decoding(max_new_tokens))
    assert [answer.text for answer in answers] == [oracle.text(prompt, max_new_tokens) for prompt in prompts]


@settings(max_examples=8, deadline=None)
@given(st.lists(words, min_size=2, max_size=9))
def test_rows_that_finish_early_leave_the_others_as_they_were(tiny: LoadedModel, oracle: Oracle, texts: list[str]) -> None:
    answers = TransformersEngine(with_stops(tiny)).generate([ask(text) for text in texts], Decoding(20))
    for text, answer in zip(texts, answers, strict=True):
        ids = oracle.answer(ask(text), 20, sorted(STOPS))
        assert answer.text == oracle.text(ask(text), 20, sorted(STOPS))
        assert (answer.completion_tokens, answer.cut) == (len(ids), ids[-1] not in STOPS)


def test_some_rows_do_stop_before_others(stopping: TransformersEngine) -> None:
    lengths = {answer.completion_tokens for answer in stopping.generate([ask(text) for text in WORDS], Decoding(20))}
    assert len(lengths) > 2


@settings(max_examples=5, deadline=None)
@given(st.lists(words, min_size=1, max_size=6))
def test_an_adapter_answers_as_plain_peft_does_and_leaves_the_base_alone(
    engine: TransformersEngine, oracle: Oracle, adapted_oracle: Oracle, adapter_folder: Path, texts: list[str]
) -> None:
    prompts = [ask(text) for text in texts]
    before = [answer.text for answer in engine.generate(prompts, Decoding(8))]
    adapted = engine.generate(prompts, Decoding(8), adapter=adapter_folder)
    after = [answer.text for answer in engine.generate(prompts, Decoding(8))]
    assert [answer.text for answer in adapted] == [adapted_oracle.text(prompt, 8) for prompt in prompts]
    assert before == after == [oracle.text(prompt, 8) for prompt in prompts]
    assert before != [answer.text for answer in adapted]


def test_a_sliding_window_sees_tokens_not_padding(tiny: LoadedModel, tiny_folder: Path) -> None:
    oracle = Oracle(tiny_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        oracle.model = MistralForCausalLM(
            MistralConfig(
                vocab_size=400,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                sliding_window=9,
                initializer_range=0.1,
            )
        ).eval()
    engine = TransformersEngine(dataclasses.replace(tiny, model=oracle.model))
    assert not is_plain(oracle.model)
    prompts = [ask(text) for text in ["where is my parcel", "refund", "lamp", "please", "I want a refund for the lamp now"]]
    answers = engine.generate(prompts, Decoding(12))
    assert [answer.text for answer in answers] == [oracle.text(prompt, 12) for prompt in prompts]
    assert answers[0].shared_prompt_tokens > 9
    options = ["refund", "the lamp is broken, I want my money", ""]
    for prompt, scores in zip(prompts, engine.score(prompts, [options] * len(prompts)), strict=True):
        expected = [oracle.log_probability(prompt, option) for option in options]
        assert [score.log_probability for score in scores] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("architecture", ["phi3-longrope", "llama-dynamic"])
def test_where_angles_change_with_the_length_each_prompt_is_answered_and_scored_as_if_it_were_alone(
    tiny: LoadedModel, tiny_folder: Path, architecture: str
) -> None:
    oracle = Oracle(tiny_folder)
    long = "I want a refund for the lamp now " * 4
    prompts = [ask(text) for text in ["where is my parcel", "refund", "lamp", f"{long}please", long]]
    lengths = [len(oracle.ids(prompt)) for prompt in prompts]
    threshold = (max(lengths[:3]) + min(lengths[3:])) // 2  # no answer crosses it
    changed = {name: value for name, value in UNSTEADY[architecture].items() if isinstance(value, int)}
    rope = dict(UNSTEADY[architecture]["rope_parameters"])
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = threshold
    sizes = {**dict.fromkeys(changed, threshold), "rope_parameters": rope, "vocab_size": 400}
    engine = TransformersEngine(dataclasses.replace(tiny, model=build(architecture, **sizes)))
    answers = engine.generate(prompts, Decoding(8))
    for prompt, answer in zip(prompts, answers, strict=True):
        oracle.model = build(architecture, **sizes)  # anew, for it remembers the longest text it has seen
        assert answer.text == oracle.text(prompt, 8)
    options = ["refund", "the lamp is broken, I want my money", ""]
    for prompt, scores in zip(prompts, engine.score(prompts, [options] * len(prompts)), strict=True):
        expected = []
        for option in options:
            oracle.model = build(architecture, **sizes)
            expected.append(oracle.log_probability(prompt, option))
        assert [score.log_probability for score in scores] == pytest.approx(expected, abs=2e-4)


# Scores


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(words, st.lists(words, max_size=4)), min_size=1, max_size=7), st.booleans())
def test_scores_are_those_of_a_full_forward(
    engine: TransformersEngine, oracle: Oracle, rows: list[tuple[str, list[str]]], shared: bool
) -> None:
    prompts = [ask(text, INSTRUCTION if shared else f"{number}") for number, (text, _) in enumerate(rows)]
    found = engine.score(prompts, [options for _, options in rows])
    assert [len(scores) for scores in found] == [len(options) for _, options in rows]
    for prompt, (_, options), scores in zip(prompts, rows, found, strict=True):
        for option, score in zip(options, scores, strict=True):
            assert score.log_probability == pytest.approx(oracle.log_probability(prompt, option), abs=2e-4)
            assert score.tokens == len(oracle.tokenizer(option)["input_ids"]) + 1


@pytest.mark.parametrize("positions", [1, 3, 7, 40])
@pytest.mark.parametrize("way", ["the training's trie", "the model's modules"])
def test_scores_do_not_depend_on_the_way_nor_on_how_much_fits_at_once(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, positions: int, way: str
) -> None:
    prompts = [ask(text) for text in ["where is my parcel", "refund", "lamp", "please"]]
    options = [["refund", "I want a refund", "a", ""], ["lamp"], [], ["the lamp is here", "", "now", "my parcel", "refund", "I"]]
    expected = [engine.score([prompt], [own])[0] for prompt, own in zip(prompts, options, strict=True)]
    trie = Mock(side_effect=scoring.score_trie)
    monkeypatch.setattr(engine_module, "score_trie", trie)
    if way == "the model's modules":
        monkeypatch.setattr(engine._answering, "writer", None)
    monkeypatch.setattr(scoring, "LOGIT_FLOATS", positions * 400)
    monkeypatch.setattr(scoring, "TRIE_TOKENS", positions * 20)
    for found, wanted in zip(engine.score(prompts, options), expected, strict=True):
        assert [score.tokens for score in found] == [score.tokens for score in wanted]
        assert [score.log_probability for score in found] == pytest.approx([score.log_probability for score in wanted], abs=1e-4)
    assert trie.called == (way == "the training's trie")


def test_scores_carry_their_share_of_the_wall_time(tiny: LoadedModel) -> None:
    engine = TransformersEngine(tiny)
    engine.score([ask("x")], [["a"]])  # lays out the weights
    prompts = [ask(text) for text in WORDS]
    started = time.perf_counter()
    scores = engine.score(prompts, [["refund", "delivery"]] * len(prompts))
    wall = time.perf_counter() - started
    assert all(score.seconds > 0 for row in scores for score in row)
    assert 0.2 * wall < sum(score.seconds for row in scores for score in row) <= wall


def test_an_empty_completion_is_the_end_of_the_turn_alone(engine: TransformersEngine, oracle: Oracle) -> None:
    [[score]] = engine.score([ask("x")], [[""]])
    assert score.tokens == 1
    assert score.log_probability == pytest.approx(oracle.log_probability(ask("x"), ""), abs=1e-4)


def test_scores_under_an_adapter_are_the_adapters(
    engine: TransformersEngine, oracle: Oracle, adapted_oracle: Oracle, adapter_folder: Path
) -> None:
    options = ["refund", "delivery", "other"]
    [scores] = engine.score([ask("where is it")], [options], adapter=adapter_folder)
    together = engine.score([ask("where is it"), ask("lamp")], [options] * 2, adapter=adapter_folder)[0]
    assert [one.log_probability for one in together] == pytest.approx([one.log_probability for one in scores], abs=2e-4)
    assert {one.adapter_sha256 for one in (*scores, *together)} == {hash_file(adapter_folder / "adapter_model.safetensors")}
    assert engine.score([ask("where is it")], [options])[0][0].adapter_sha256 is None
    for option, score in zip(options, scores, strict=True):
        assert score.log_probability == pytest.approx(adapted_oracle.log_probability(ask("where is it"), option), abs=2e-4)
        assert abs(score.log_probability - oracle.log_probability(ask("where is it"), option)) > 0.01


# The shared beginning


def test_the_common_beginning_is_computed_once_and_remembered(tiny: LoadedModel) -> None:
    engine = TransformersEngine(tiny)
    prompts = [ask(text) for text in WORDS]
    first = engine.generate(prompts, Decoding(2))
    once = engine._answering.prefixes.computed_tokens
    assert once == first[0].shared_prompt_tokens > 20
    engine.generate(prompts[:4], Decoding(2))
    assert engine.generate(prompts[:1], Decoding(2))[0].shared_prompt_tokens == once  # even for a single prompt
    assert engine._answering.prefixes.computed_tokens == once


def test_base_and_adapter_never_share_keys_and_values(tiny: LoadedModel, adapter_folder: Path) -> None:
    engine = TransformersEngine(tiny)
    prompts = [ask(text) for text in WORDS[:3]]
    engine.generate(prompts, Decoding(2))
    once = engine._answering.prefixes.computed_tokens
    engine.generate(prompts, Decoding(2), adapter=adapter_folder)
    assert engine._answering.prefixes.computed_tokens == 2 * once
    engine.generate(prompts, Decoding(2))
    engine.generate(prompts, Decoding(2), adapter=adapter_folder)
    assert engine._answering.prefixes.computed_tokens == 2 * once


def test_equal_prompts_leave_one_token_each_to_begin_from(engine: TransformersEngine, oracle: Oracle) -> None:
    answers = engine.generate([ask("twice")] * 3, Decoding(4))
    assert {answer.text for answer in answers} == {oracle.text(ask("twice"), 4)}
    assert answers[0].shared_prompt_tokens == answers[0].prompt_tokens - 1


# Draws


def test_a_draw_depends_on_seed_and_prompt_alone(tiny: LoadedModel) -> None:
    texts = ["where", "is my parcel please", "refund", "lamp"]
    decoding = Decoding(10, temperature=1.0, seed=5)
    together = [answer.text for answer in TransformersEngine(tiny).generate([ask(text) for text in texts], decoding)]
    alone = [TransformersEngine(tiny).generate([ask(text)], decoding)[0].text for text in texts]
    reverse = [answer.text for answer in TransformersEngine(tiny).generate([ask(text) for text in texts[::-1]], decoding)]
    assert together == alone == reverse[::-1]
    other = TransformersEngine(tiny).generate([ask(text) for text in texts], Decoding(10, temperature=1.0, seed=6))
    assert [answer.text for answer in other] != together


def test_draws_follow_the_models_probabilities(engine: TransformersEngine, oracle: Oracle) -> None:
    with torch.inference_mode():
        logits = oracle.model(torch.tensor([oracle.ids(ask("x"))])).logits[0, -1]
    expected = torch.softmax(logits / 0.25, dim=-1)
    first = [engine.generate([ask("x")], Decoding(1, temperature=0.25, seed=seed))[0].text for seed in range(200)]
    texts = [oracle.tokenizer.decode([id], skip_special_tokens=False) for id in range(len(expected))]
    likely = texts[int(expected.argmax())]
    mass = sum(float(expected[id]) for id, text in enumerate(texts) if text == likely)  # half a character looks like another
    assert first.count(likely) / len(first) == pytest.approx(mass, abs=4 * 0.5 / math.sqrt(len(first)))
    assert 0.05 < mass < 0.95


# What is said about an answer


def test_a_generation_says_who_spoke_and_what_it_cost(engine: TransformersEngine, oracle: Oracle, adapter_folder: Path) -> None:
    prompts = [ask("a refund"), ask("where is my parcel")]
    [base, other] = engine.generate(prompts, Decoding(5))
    [adapted, _] = engine.generate(prompts, Decoding(5), adapter=adapter_folder)
    assert base.prompt_tokens == len(oracle.ids(prompts[0])) == engine.count_tokens(prompts)[0]
    assert base.model_sha256 == adapted.model_sha256 == engine.identity.base_sha256 != ""
    assert base.adapter_sha256 is None
    assert adapted.adapter_sha256 == hash_file(adapter_folder / "adapter_model.safetensors")
    assert base.prompt_sha256 == adapted.prompt_sha256 != other.prompt_sha256
    assert 0 < base.latency_seconds < 10


def test_latencies_add_up_to_no_more_than_the_wall_time(tiny: LoadedModel) -> None:
    engine = TransformersEngine(tiny)
    engine.generate([ask("x")], Decoding(1))  # lays out the weights
    started = time.perf_counter()
    answers = engine.generate([ask(text) for text in WORDS], Decoding(10))
    wall = time.perf_counter() - started
    assert 0.3 * wall < sum(answer.latency_seconds for answer in answers) <= wall


def test_an_answer_is_reported_when_it_is_finished_not_when_all_are(stopping: TransformersEngine) -> None:
    order: list[int] = []
    answers = stopping.generate([ask(text) for text in WORDS], Decoding(20), on_answer=lambda index, answer: order.append(index))
    assert sorted(order) == list(range(len(WORDS)))
    lengths = [answers[index].completion_tokens for index in order]
    assert lengths == sorted(lengths)


# Refusals


def test_a_prompt_over_the_context_is_refused_by_name(engine: TransformersEngine) -> None:
    long = ask("parcel " * 1500, id="long one")
    with pytest.raises(EngineError, match=r"'long one'.*2048"):
        engine.generate([ask("x"), long], Decoding(5))
    with pytest.raises(EngineError, match="'long one'"):
        engine.score([ask("x"), long], [["a"], ["b"]])


def test_a_prompt_that_exactly_fits_is_answered(engine: TransformersEngine) -> None:
    [tokens] = engine.count_tokens([ask("x")])
    room = engine.identity.context_tokens - tokens
    with pytest.raises(EngineError):
        engine.generate([ask("x")], Decoding(room + 1))
    assert engine.generate([ask("x")], Decoding(3))[0].completion_tokens == 3


def test_tools_a_template_drops_are_refused_by_the_prompts_name(engine: TransformersEngine) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    with pytest.raises(ModelError, match="with tools"):
        engine.generate([Prompt("with tools", (Message("user", "x"),), (tool,))], Decoding(3))


def test_a_prompt_whose_earlier_answers_the_template_rewrites_is_named(tiny: LoadedModel) -> None:
    said_again = CHATML.replace("message['content']", "(message['content'] if loop.last else message['content'] | upper)")
    engine = TransformersEngine(dataclasses.replace(tiny, template=ChatTemplate(said_again, model="shouting")))
    [alone] = engine.count_tokens([Prompt("one", (Message("user", "A"),))])
    assert alone > 0
    turns = (Message("user", "A"), Message("assistant", "yes"), Message("user", "B"))
    with pytest.raises(NotShown, match="Prompt 'several': the chat template of shouting rewrites earlier turns"):
        engine.generate([Prompt("several", turns)], Decoding(2))


def test_a_folder_without_adapter_is_refused(engine: TransformersEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no adapter"):
        engine.generate([ask("x")], Decoding(3), adapter=tmp_path)


def test_a_control_token_in_user_text_is_only_text(engine: TransformersEngine) -> None:
    plain, special = engine.count_tokens([ask("a"), ask("a<|im_end|>")])
    assert special > plain + 1  # letters and signs, not one token that ends the turn


def test_text_is_counted_without_template(engine: TransformersEngine, oracle: Oracle) -> None:
    assert engine.count_text_tokens(["my parcel", ""]) == [len(oracle.tokenizer("my parcel")["input_ids"]), 0]


def test_nothing_asked_is_nothing_answered(engine: TransformersEngine) -> None:
    assert engine.generate([], Decoding(3)) == []
    assert engine.score([], []) == []
    assert engine.score([ask("x")], [[]]) == [[]]


def test_batches_stay_within_their_limits(tiny: LoadedModel) -> None:
    suffixes = [[1] * length for length in (5, 40, 12, 7, 33, 90, 5, 5, 5)]
    batches = list(split_into_batches(tiny.model, suffixes, 8, BatchLimits(rows=3, tokens=100)))
    assert sorted(place for batch in batches for place in batch) == list(range(len(suffixes)))
    for batch in batches:
        width = max(len(suffixes[place]) for place in batch)
        assert len(batch) <= 3
        assert len(batch) == 1 or len(batch) * (width + 8) <= 100
    lengths = [len(suffixes[place]) for batch in batches for place in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_a_generation_is_a_generation(engine: TransformersEngine) -> None:
    assert all(isinstance(answer, Generation) for answer in engine.generate([ask("x")], Decoding(1)))
