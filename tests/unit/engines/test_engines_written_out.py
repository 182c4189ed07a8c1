"""Answers of the local engine for every class of decoder: those of plain `generate`, whatever shares a batch with them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM

from small_architectures import ARCHITECTURES, STOCK, build
from stepladder.domain.errors import EngineError
from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Drafting, Grammar, Prompt, Request, Serving
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.transformers.answering import BatchLimits
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.engines.transformers.heads import OwnHead, head_on, read_head
from stepladder.engines.transformers.rows import Row
from stepladder.engines.wrappers import Drafted
from stepladder.files import hash_file
from stepladder.models.conversation import encode_prompt
from stepladder.models.loading import LoadedModel
from stepladder.models.prefix.choice import Chooser, FineLosses
from stepladder.models.prefix.lanes import Arrival, Lanes

INSTRUCTION = "Answer the customer's message with one JSON object. Think about the order, the parcel and the refund."
TEXTS = ["where is my parcel", "refund", "I want a refund for the lamp now please", "lamp", "4711", "äöü is broken", "a", "now"]
STOPS = (2, *range(0, 400, 17))
GRAMMAR = Grammar("json_schema", json.dumps({
    "type": "object", "properties": {"kind": {"enum": ["refund", "delivery"]}, "urgent": {"type": "boolean"}},
    "required": ["kind", "urgent"], "additionalProperties": False,
}))  # fmt: skip


def ask(text: str, id: str = "row", system: str = INSTRUCTION) -> Prompt:
    return Prompt(id, (Message("system", system), Message("user", text)))


PROMPTS = [ask(text, f"row-{number}") for number, text in enumerate(TEXTS)]


def engine_of(tiny: LoadedModel, model: Any, limits: BatchLimits | None = None) -> TransformersEngine:
    loaded = dataclasses.replace(tiny, model=model)
    loaded.__dict__["stop_ids"] = STOPS  # a random model seldom ends its turn of itself
    return TransformersEngine(loaded, limits)


def ids_of(tiny: LoadedModel, prompt: Prompt) -> list[int]:
    return encode_prompt(tiny.template, tiny.tokenizer, prompt.messages)


def generated(tiny: LoadedModel, model: Any, prompt: Prompt, max_new_tokens: int) -> list[int]:
    """What transformers' own greedy loop writes, the stop token included."""
    ids = torch.tensor([ids_of(tiny, prompt)])
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(STOPS),
        pad_token_id=2,
    )
    return [int(id) for id in made[0, ids.shape[1] :]]


def assert_same(tiny: LoadedModel, answers: Sequence[Generation], expected: Sequence[Sequence[int]]) -> None:
    for answer, ids in zip(answers, expected, strict=True):
        stopped = ids[-1] in STOPS
        assert answer.text == tiny.tokenizer.decode(ids[:-1] if stopped else ids, keep_control_tokens=True)
        assert (answer.completion_tokens, answer.cut) == (len(ids), not stopped)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *STOCK])
def test_every_architecture_answers_as_plain_generate_does(tiny: LoadedModel, architecture: str) -> None:
    model = build(architecture, vocab_size=400, max_position_embeddings=512)
    expected = [generated(tiny, model, prompt, 18) for prompt in PROMPTS]
    for limits in (BatchLimits(rows=3, tokens=4_000), BatchLimits(rows=96, tokens=150)):
        engine = engine_of(tiny, model, limits)
        assert (engine._answering.writer is None) == (architecture in STOCK)
        assert_same(tiny, engine.generate(PROMPTS, Decoding(18)), expected)
        assert_same(tiny, engine.generate(PROMPTS[2:3], Decoding(18)), expected[2:3])


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward of the written-out decoder: how many lanes there are, how many rows go on, how long those are that begin."""

    lanes: int
    going: int
    beginning: tuple[int, ...]


def passes_of(engine: TransformersEngine, requests: Sequence[Request]) -> list[Pass]:
    """The forwards that answering takes, where prompts share nothing that is computed apart."""
    writer = engine._answering.writer
    assert writer is not None
    seen: list[Pass] = []
    step = writer.decoder.step

    def watched(lanes: Lanes, tokens: Sequence[int], arrivals: Sequence[Arrival] = ()) -> torch.Tensor:
        seen.append(Pass(lanes.rows, len(tokens), tuple(len(arrival.token_ids) for arrival in arrivals)))
        return step(lanes, tokens, arrivals)

    writer.decoder.step = watched  # type: ignore[method-assign]
    engine.answer(requests)
    return seen


def request(words: int, max_new_tokens: int) -> Request:
    return Request(ask("lamp " * words, f"{words}-{max_new_tokens}"), Decoding(max_new_tokens))


def test_a_lane_that_is_free_is_given_to_the_next_row_while_others_are_still_answered(tiny: LoadedModel) -> None:
    requests = [request(8, 40), *(request(number % 7, 2 + number % 3) for number in range(20))]
    passes = passes_of(engine_of(tiny, tiny.model, BatchLimits(rows=3, tokens=100_000)), requests)
    waiting = len(requests)
    for one in passes:
        assert len(one.beginning) == min(waiting, one.lanes - one.going)
        waiting -= len(one.beginning)
    assert waiting == 0
    assert sum(one.going > 0 and len(one.beginning) > 0 for one in passes) > 5


def test_the_longest_prompts_begin_first_so_that_neighbours_are_alike(tiny: LoadedModel) -> None:
    lengths = (3, 17, 0, 9, 30, 1, 22, 5, 12, 26)
    for room in ([6] * len(lengths), [130 - 4 * length for length in lengths]):  # in the second the longest need the least
        requests = [request(length, tokens) for length, tokens in zip(lengths, room, strict=True)]
        passes = passes_of(engine_of(tiny, tiny.model, BatchLimits(rows=2, tokens=100_000)), requests)
        begun = [length for one in passes for length in one.beginning]
        assert len(begun) == len(lengths)
        assert begun == sorted(begun, reverse=True)


def test_prompts_that_leave_room_for_few_lanes_are_asked_apart_wherever_they_stand(tiny: LoadedModel) -> None:
    long, short = request(120, 4), [request(number % 5, 4) for number in range(16)]
    limits = BatchLimits(rows=16, tokens=400)
    counts = [
        len(passes_of(engine_of(tiny, tiny.model, limits), requests))
        for requests in ([long, *short], [*short, long], [*short[:8], long, *short[8:]])
    ]
    assert counts == [counts[0]] * 3
    apart = len(passes_of(engine_of(tiny, tiny.model, limits), short))
    assert counts[0] <= apart + 4  # those of the long one, and no more for the others


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 9), st.sampled_from([0, 1, 30]))
def test_rows_of_any_length_come_and_go_and_each_gets_its_own_answer(
    tiny: LoadedModel, lengths: list[int], lanes: int, shared: int
) -> None:
    model = tiny.model
    prompts = [ask("lamp " * length + str(number), system="now " * shared) for number, length in enumerate(lengths)]
    engine = engine_of(tiny, model, BatchLimits(rows=lanes, tokens=100_000))
    decodings = [Decoding(1 + (7 * length) % 23) for length in lengths]
    requests = [Request(prompt, decoding) for prompt, decoding in zip(prompts, decodings, strict=True)]
    expected = [
        generated(tiny, model, prompt, decoding.max_new_tokens) for prompt, decoding in zip(prompts, decodings, strict=True)
    ]
    assert_same(tiny, engine.answer(requests), expected)


@pytest.mark.parametrize(("place", "factor"), [("model.layers.1.input_layernorm", 1.5), ("model.norm", 1.03), ("lm_head", 1.03)])
def test_a_decoder_that_computes_something_else_is_not_trusted(tiny: LoadedModel, place: str, factor: float) -> None:
    model = build("llama", vocab_size=400)
    changed = model.get_submodule(place)
    changed.register_forward_hook(lambda module, inputs, output: output * factor)  # arithmetic that its classes do not tell of
    engine = engine_of(tiny, model)
    assert engine._answering.writer is None
    assert isinstance(engine._answering.head, OwnHead) == (place == "lm_head")
    assert_same(tiny, engine.generate(PROMPTS[:2], Decoding(6)), [generated(tiny, model, prompt, 6) for prompt in PROMPTS[:2]])


# In 16 bits


def test_in_bf16_the_first_difference_from_generate_is_a_choice_between_two_tokens_nearly_alike(tiny: LoadedModel) -> None:
    prompts = [ask(f"{text} {number}") for number, text in enumerate(TEXTS * 4)]
    for architecture in ("llama", "olmo2"):
        model = build(architecture, torch.bfloat16, vocab_size=400, max_position_embeddings=512)
        ours = written(engine_of(tiny, model), prompts, 16)
        plain = [generated(tiny, model, prompt, 16) for prompt in prompts]
        differing = [place for place, ids in enumerate(plain) if ids != ours[place]]
        assert len(differing) < len(prompts) / 2
        for place in differing:
            common = next(at for at, (one, other) in enumerate(zip(plain[place], ours[place], strict=False)) if one != other)
            ids = [*ids_of(tiny, prompts[place]), *plain[place][:common]]
            best = logits_after(model, ids).topk(2).values
            assert float(best[0] - best[1]) < 0.25


def written(engine: TransformersEngine, prompts: Sequence[Prompt], tokens: int) -> list[list[int]]:
    """The engine's new tokens, the stop token included."""
    heard: dict[int, list[int]] = {}
    take = Row.take

    def listen(row: Row, token: int, stop_ids: frozenset[int]) -> None:
        heard.setdefault(row.index, []).append(token)
        take(row, token, stop_ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Row, "take", listen)
        engine.generate(prompts, Decoding(tokens))
    return [heard[place] for place in range(len(prompts))]


@torch.inference_mode()
def logits_after(model: Any, ids: Sequence[int], *, fine: bool = False) -> torch.Tensor:
    """Of the token after `ids`, fp32: as the model gives them, or with its last product made in fp32."""
    asked = torch.tensor([ids])
    if not fine:
        logits: torch.Tensor = model(input_ids=asked).logits[0, -1].float()
        return logits
    states = model.base_model(input_ids=asked).last_hidden_state[0, -1]
    return torch.mv(model.get_output_embeddings().weight.float(), states.float())


@pytest.mark.parametrize("architecture", STOCK)
def test_in_bf16_models_that_are_not_written_out_choose_and_score_by_logits_in_fp32(tiny: LoadedModel, architecture: str) -> None:
    model = build(architecture, torch.bfloat16, vocab_size=400, max_position_embeddings=512)
    engine = engine_of(tiny, model)
    rounded = []
    for prompt in PROMPTS:
        ids = ids_of(tiny, prompt)
        exact, own = (torch.log_softmax(logits_after(model, ids, fine=fine), dim=-1) for fine in (True, False))
        [answer] = engine.generate([prompt], Decoding(1, logprobs=3))
        told = answer.logprobs[0]
        assert [value for _, value in told.top] == pytest.approx(exact.topk(3).values.tolist(), abs=1e-4)
        assert told.logprob == pytest.approx(float(exact.max()), abs=1e-4)
        [[end]] = engine.score([prompt], [[""]])
        assert end.log_probability == pytest.approx(float(exact[2]), abs=1e-4)
        rounded.append(abs(float(own[2] - exact[2])))
    assert max(rounded) > 0.001  # what the model's own logits would be wrong by


def test_in_bf16_a_label_scores_the_same_alone_and_in_a_batch_but_for_the_decoders_own_rounding(tiny: LoadedModel) -> None:
    model = build("llama", torch.bfloat16, vocab_size=400, max_position_embeddings=512)
    states = torch.randn(40, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(40)
    weight = model.get_output_embeddings().weight
    exact = torch.nn.functional.cross_entropy(states.double() @ weight.double().t(), targets, reduction="none")
    found, back = FineLosses(model, Chooser(model)).nll(states, targets, None)
    assert back is None
    assert found.tolist() == pytest.approx(exact.tolist(), abs=1e-4)
    options = ["refund", "delivery", ""]
    engine = engine_of(tiny, model)
    together = engine.score(PROMPTS, [options] * len(PROMPTS))
    for prompt, scores in zip(PROMPTS, together, strict=True):
        [alone] = engine.score([prompt], [options])
        assert [one.log_probability for one in alone] == pytest.approx([one.log_probability for one in scores], abs=0.1)


def test_an_adapter_on_the_output_layer_keeps_its_say(tiny: LoadedModel) -> None:
    model = build("llama", vocab_size=400, max_position_embeddings=512, tie_word_embeddings=False)
    head = read_head(model)
    assert head_on(model, head) is head
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    own = head_on(model, head)
    assert isinstance(own, OwnHead)
    assert own.vocabulary == 400
    wrapped.unload()
    assert head_on(model, head) is head


# Adapters side by side


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Canaries: under each, the model says one token only, and never ends its turn."""
    folders = []
    for number, targets in enumerate(["all-linear", ["q_proj", "down_proj"], "all-linear"]):
        folder = tmp_path_factory.mktemp("canaries") / str(number)
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        config = LoraConfig(r=2 + number, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            torch.manual_seed(number + 7)
            get_peft_model(model, config).save_pretrained(folder)
        settings = folder / "adapter_config.json"
        settings.write_text(settings.read_text().replace('"init_lora_weights": false', '"init_lora_weights": true'))
        folders.append(folder)
    return folders


def test_base_and_adapters_are_mixed_per_row_and_each_answer_says_whose_it_is(tiny: LoadedModel, adapters: list[Path]) -> None:
    speakers = [None, *adapters]
    requests = [Request(prompt, Decoding(9), adapter) for prompt in PROMPTS for adapter in speakers]
    answers = engine_of(tiny, tiny.model).answer(requests)
    plain = engine_of(tiny, tiny.model)
    for adapter in speakers:
        alone = [answer.text for answer in plain.generate(PROMPTS, Decoding(9), adapter=adapter)]
        own = [answer for answer, request in zip(answers, requests, strict=True) if request.adapter == adapter]
        assert [answer.text for answer in own] == alone
        sha256 = None if adapter is None else hash_file(adapter / "adapter_model.safetensors")
        assert {answer.adapter_sha256 for answer in own} == {sha256}
        assert {answer.model_sha256 for answer in own} == {tiny.identity.base_sha256}
    assert len({answer.text for answer in answers[: len(speakers)]}) == len(speakers)


def test_base_and_tuned_answers_are_never_mixed_up_whoever_asks_at_once(tiny: LoadedModel, adapters: list[Path]) -> None:
    engine = engine_of(tiny, tiny.model)
    expected = {
        adapter: [answer.text for answer in engine_of(tiny, tiny.model).generate(PROMPTS, Decoding(8), adapter=adapter)]
        for adapter in [None, *adapters]
    }
    wrong: list[tuple[Path | None, int]] = []
    asked: Counter[Path | None] = Counter()

    def keep_asking(adapter: Path | None, first: int) -> None:
        for number in range(first, first + 3):
            prompts = PROMPTS[number % 5 : number % 5 + 3]
            answers = engine.generate(prompts, Decoding(8), adapter=adapter)
            if [answer.text for answer in answers] != expected[adapter][number % 5 : number % 5 + 3]:
                wrong.append((adapter, number))
            if any((answer.adapter_sha256 is None) != (adapter is None) for answer in answers):
                wrong.append((adapter, number))
            asked[adapter] += 1

    threads = [threading.Thread(target=keep_asking, args=(adapter, first)) for adapter in expected for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert set(asked.values()) == {9}


def test_an_adapter_written_anew_in_its_folder_is_another_one(tiny: LoadedModel, adapters: list[Path], tmp_path: Path) -> None:
    engine = engine_of(tiny, tiny.model)
    folder = tmp_path / "adapter"
    folder.mkdir()
    texts, hashes = [], []
    for source in (adapters[0], adapters[2], adapters[0]):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_bytes((source / name).read_bytes())
        [answer] = engine.generate(PROMPTS[:1], Decoding(9), adapter=folder)
        texts.append(answer.text)
        hashes.append(answer.adapter_sha256)
    assert texts[0] == texts[2] != texts[1]
    assert hashes[0] == hashes[2] != hashes[1]


def write_dora(tiny_folder: Path, folder: Path, seed: int = 3) -> Any:
    """An adapter that only peft's own modules can speak with; the model under it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    config = LoraConfig(
        r=2, lora_alpha=8, target_modules=["q_proj"], use_dora=True, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config).eval()
        wrapped.save_pretrained(folder)
    settings = folder / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"init_lora_weights": false', '"init_lora_weights": true'))
    return wrapped


def test_an_adapter_that_is_more_than_two_matrices_is_answered_by_peft(
    tiny: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    wrapped = write_dora(tiny_folder, tmp_path)
    engine = engine_of(tiny, tiny.model)
    answers = engine.generate(PROMPTS, Decoding(8), adapter=tmp_path)
    assert_same(tiny, answers, [generated(tiny, wrapped, prompt, 8) for prompt in PROMPTS])
    assert engine.generate(PROMPTS[:1], Decoding(8))[0].text != answers[0].text


def test_an_adapter_that_peft_answers_and_that_changes_before_its_turn_is_refused(
    tiny: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    write_dora(tiny_folder, tmp_path)
    heard = []

    def rewrite(place: int, answer: Generation) -> None:
        heard.append(place)
        write_dora(tiny_folder, tmp_path, seed=4)

    with pytest.raises(EngineError, match="changed while it was read"):
        requests = [Request(PROMPTS[0], Decoding(4)), Request(PROMPTS[0], Decoding(4), tmp_path)]
        engine_of(tiny, tiny.model).answer(requests, on_answer=rewrite)
    assert heard == [0]


def test_an_adapter_that_peft_answers_is_read_where_it_lies_now(tiny: LoadedModel, tiny_folder: Path, tmp_path: Path) -> None:
    engine = engine_of(tiny, tiny.model)
    write_dora(tiny_folder, tmp_path / "first")
    [before] = engine.generate(PROMPTS[:1], Decoding(9), adapter=tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    write_dora(tiny_folder, tmp_path / "first", seed=4)
    [after] = engine.generate(PROMPTS[:1], Decoding(9), adapter=tmp_path / "second")
    assert (after.text, after.adapter_sha256) == (before.text, before.adapter_sha256)


# Drafts


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_draft_never_changes_an_answer(tiny: LoadedModel, data: st.DataObject) -> None:
    decoding = Decoding(14, grammar=data.draw(st.sampled_from([None, GRAMMAR])))
    engine = engine_of(tiny, tiny.model, BatchLimits(rows=3, tokens=10_000))
    plain = engine.generate(PROMPTS, decoding)
    drafts: list[str | None] = []
    for answer in plain:
        cut = data.draw(st.integers(0, len(answer.text)))
        drafts.append(data.draw(st.sampled_from([
            None, "", answer.text, answer.text[:cut], answer.text[:cut] + "x refund", "refund " * 9, '{"kind": "delivery"',
        ])))  # fmt: skip
    drafted = engine.generate_drafted(PROMPTS, drafts, decoding)
    assert [(one.text, one.completion_tokens, one.cut) for one in drafted] == [
        (one.text, one.completion_tokens, one.cut) for one in plain
    ]


def test_a_true_draft_costs_one_pass(tiny: LoadedModel) -> None:
    engine = engine_of(tiny, tiny.model)
    truth = [answer.text for answer in engine.generate(PROMPTS[:1], Decoding(12))]
    writer = engine._answering.writer
    assert writer is not None
    passes: list[int] = []
    step = writer.decoder.step
    writer.decoder.step = lambda lanes, tokens, arrivals=(): passes.append(len(tokens)) or step(lanes, tokens, arrivals)  # type: ignore[method-assign, func-returns-value, assignment]
    engine.generate_drafted(PROMPTS[:1], truth, Decoding(12))
    drafted = len(passes)
    engine.generate(PROMPTS[:1], Decoding(12))
    assert drafted <= 2 < len(passes) - drafted


def test_drafts_are_left_aside_where_tokens_are_drawn(tiny: LoadedModel) -> None:
    engine = engine_of(tiny, tiny.model)
    decoding = Decoding(8, temperature=1.0, seed=3)
    plain = [answer.text for answer in engine.generate(PROMPTS, decoding)]
    assert [answer.text for answer in engine.generate_drafted(PROMPTS, plain[::-1], decoding)] == plain


def test_whoever_asks_through_a_drafted_engine_cannot_give_or_see_drafts(tiny: LoadedModel) -> None:
    local = engine_of(tiny, tiny.model)
    plain = local.generate(PROMPTS, Decoding(8))
    drafted = Drafted(local, {prompt.id: answer.text for prompt, answer in zip(PROMPTS, plain, strict=True)})
    assert [answer.text for answer in drafted.generate(PROMPTS, Decoding(8))] == [answer.text for answer in plain]
    assert isinstance(local, Drafting)
    assert not isinstance(drafted, Drafting)


def test_an_engine_with_a_memory_hands_no_drafts_on(tiny: LoadedModel, tmp_path: Path) -> None:
    assert not isinstance(RecordedEngine(engine_of(tiny, tiny.model), tmp_path / "answers.jsonl"), Drafting)


# Draws


def exact(tiny: LoadedModel, prompt: Prompt, temperature: float, top_p: float) -> dict[str, float]:
    """Probability of each text of a first token, by its definition."""
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([ids_of(tiny, prompt)])).logits[0, -1].double()
    ordered = sorted(enumerate(torch.softmax(logits / temperature, dim=-1).tolist()), key=lambda pair: -pair[1])
    kept: list[tuple[int, float]] = []
    while sum(value for _, value in kept) < top_p and len(kept) < len(ordered):
        kept.append(ordered[len(kept)])
    total = sum(value for _, value in kept)
    found: dict[str, float] = {}
    for token, value in kept:
        text = tiny.tokenizer.decode([token], keep_control_tokens=True) if token not in STOPS else "stop"
        found[text] = found.get(text, 0.0) + value / total
    return found


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.7), (0.5, 0.9)])
def test_draws_follow_the_exact_distribution(tiny: LoadedModel, temperature: float, top_p: float) -> None:
    engine = engine_of(tiny, tiny.model)
    decodings = [Decoding(1, temperature=temperature, seed=seed, top_p=top_p) for seed in range(1_500)]
    answers = engine.answer([Request(PROMPTS[0], decoding) for decoding in decodings])
    drawn = Counter("stop" if not answer.cut else answer.text for answer in answers)
    expected = exact(tiny, PROMPTS[0], temperature, top_p)
    assert set(drawn) <= set(expected)  # nothing from outside the nucleus
    common = [text for text, share in expected.items() if share * len(answers) >= 5]
    observed = [drawn[text] for text in common]
    wanted = [expected[text] * len(answers) for text in common]
    rest = len(answers) - sum(wanted)
    if rest > 1e-6:
        observed.append(len(answers) - sum(observed))
        wanted.append(rest)
    assert len(wanted) > 2
    assert stats.chisquare(observed, wanted, sum_check=False).pvalue > 1e-4


def test_draws_are_the_same_whatever_else_is_answered_meanwhile(tiny: LoadedModel, adapters: list[Path]) -> None:
    decodings = [Decoding(9, temperature=0.9, seed=seed, top_p=0.95) for seed in range(4)]
    requests = [Request(prompt, decoding) for prompt in PROMPTS[:4] for decoding in decodings]
    together = [answer.text for answer in engine_of(tiny, tiny.model).answer(requests)]
    others = [Request(PROMPTS[5], Decoding(20), adapters[0]), Request(PROMPTS[6], Decoding(3, temperature=2.0))]
    crowded = engine_of(tiny, tiny.model, BatchLimits(rows=3, tokens=900)).answer([*others, *requests[::-1]])
    assert [answer.text for answer in crowded[2:]][::-1] == together
    assert engine_of(tiny, tiny.model).answer(requests[5:6])[0].text == together[5]
    assert len(set(together)) > 10


# Log-probabilities and streams


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("grammar", [None, GRAMMAR], ids=["free", "grammar"])
def test_log_probabilities_are_the_models_own(tiny: LoadedModel, architecture: str, grammar: Grammar | None) -> None:
    model = build(architecture, vocab_size=400, max_position_embeddings=512)
    engine = engine_of(tiny, model)
    [answer] = engine.generate(PROMPTS[:1], Decoding(7, grammar=grammar, logprobs=3))
    [bare] = engine.generate(PROMPTS[:1], Decoding(7, grammar=grammar))
    assert (bare.text, bare.logprobs) == (answer.text, ())
    assert len(answer.logprobs) == answer.completion_tokens
    ids = ids_of(tiny, PROMPTS[0])
    for entry in answer.logprobs:
        with torch.inference_mode():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)
        best = logs.topk(3)
        assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        likely = [int(token) for token in range(400) if tiny.tokenizer.decode([token], keep_control_tokens=True) == entry.text]
        token = min(likely, key=lambda token: abs(float(logs[token]) - entry.logprob))
        assert float(logs[token]) == pytest.approx(entry.logprob, abs=1e-4)
        ids.append(token)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_pieces_come_as_they_are_written_and_together_are_the_answer(tiny: LoadedModel, architecture: str) -> None:
    engine = engine_of(tiny, build(architecture, vocab_size=400, max_position_embeddings=512))
    pieces: dict[int, list[str]] = {}
    finished: list[int] = []

    def hear(place: int, piece: str) -> None:
        assert place not in finished
        assert piece
        pieces.setdefault(place, []).append(piece)

    answers = engine.answer(
        [Request(prompt, Decoding(12)) for prompt in PROMPTS],
        on_text=hear,
        on_answer=lambda place, answer: finished.append(place),
    )
    assert ["".join(pieces.get(place, [])) for place in range(len(PROMPTS))] == [answer.text for answer in answers]
    assert max(map(len, pieces.values())) > 3
    assert isinstance(engine, Serving)


def test_a_character_of_several_tokens_is_sent_whole(tiny: LoadedModel) -> None:
    grammar = Grammar("labels", '["äöü ☃"]')
    pieces: list[str] = []
    [answer] = engine_of(tiny, tiny.model).answer(
        [Request(PROMPTS[0], Decoding(30, grammar=grammar))], on_text=lambda place, piece: pieces.append(piece)
    )
    assert answer.text == "".join(pieces) == "äöü ☃"
    assert answer.completion_tokens > len(pieces) > 2


def test_a_listener_that_fails_ends_the_call_and_not_the_engine(tiny: LoadedModel) -> None:
    engine = engine_of(tiny, tiny.model)

    def fail(place: int, piece: str) -> None:
        raise EngineError("The listener is gone.", "Nothing.")

    with pytest.raises(EngineError, match="gone"):
        engine.answer([Request(prompt, Decoding(12)) for prompt in PROMPTS], on_text=fail)
    assert_same(tiny, engine.generate(PROMPTS, Decoding(6)), [generated(tiny, tiny.model, prompt, 6) for prompt in PROMPTS])
