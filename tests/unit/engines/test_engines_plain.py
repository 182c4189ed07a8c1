"""Bare texts on a local model: against transformers' own forward pass, and against the engine's answers and scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from scipy import stats

from stepladder.domain.errors import UsageError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.engines.transformers.plain import LocalPlainTexts
from stepladder.models.loading import LoadedModel, load, unload_all
from tiny_model import build_tiny_model

TEXT = "Where is the lamp? – größer 漢"
PROMPT = Prompt("p", (Message("user", "Where is the lamp?"),))


def load_opinionated(folder: Path, dtype: str) -> LoadedModel:
    """A model whose generation config would have tokens chosen otherwise than by their probability."""
    build_tiny_model(folder)
    path = folder / "generation_config.json"
    opinions = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.8}
    opinions["suppress_tokens"] = list(range(5, 400, 3))
    path.write_text(json.dumps({**json.loads(path.read_text()), **opinions}))
    return load(str(folder), device="cpu", dtype=dtype)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    patch = pytest.MonkeyPatch()
    patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield load_opinionated(tmp_path_factory.mktemp("model"), "float32")
    unload_all()
    patch.undo()


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> TransformersEngine:
    return TransformersEngine(loaded)


@pytest.fixture(scope="module")
def plain(engine: TransformersEngine) -> LocalPlainTexts:
    return LocalPlainTexts(engine)


def next_logits(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return cast(torch.Tensor, loaded.model(torch.tensor([list(ids)])).logits[0, -1].double())


def test_every_token_has_the_log_probability_of_transformers_own_forward_pass(
    loaded: LoadedModel, plain: LocalPlainTexts
) -> None:
    ids = plain.encode(TEXT)
    found = plain.scores(ids, 3, adapter=None)
    with torch.inference_mode():
        table = torch.log_softmax(loaded.model(torch.tensor([ids])).logits[0].float(), -1)
    assert found[0].log_probability is None
    for place, score in enumerate(found[1:], start=1):
        assert score.log_probability == pytest.approx(float(table[place - 1, ids[place]]), abs=1e-5)
        assert [value for _, _, value in score.top] == pytest.approx(table[place - 1].topk(3).values.tolist(), abs=1e-5)
    assert b"".join(score.raw for score in found).decode() == TEXT


def test_a_greedy_continuation_takes_the_likeliest_token_whatever_the_generation_config_says(
    loaded: LoadedModel, plain: LocalPlainTexts
) -> None:
    ids = plain.encode("The parcel has")
    written = plain.continue_text(ids, 24, temperature=0.0, top_p=1.0, seed=0, adapter=None)
    expected: list[int] = []
    while len(expected) < 24 and not set(expected) & set(loaded.stop_ids):
        expected.append(int(next_logits(loaded, [*ids, *expected]).argmax()))
    ended = expected[-1] in loaded.stop_ids
    assert written.text == plain.decode(expected[:-1] if ended else expected)
    assert (written.tokens, written.cut) == (len(expected), not ended)


def test_drawn_tokens_follow_the_softmax_whatever_the_generation_config_says(loaded: LoadedModel, plain: LocalPlainTexts) -> None:
    ids, draws = plain.encode("The parcel has and the parcel is"), 2_000
    drawn = Counter(
        plain.continue_text(ids, 1, temperature=1.0, top_p=1.0, seed=seed, adapter=None).text for seed in range(draws)
    )
    expected: Counter[str] = Counter()
    for token, share in enumerate(torch.softmax(next_logits(loaded, ids), dim=-1).tolist()):
        expected["" if token in loaded.stop_ids else plain.decode([token])] += draws * share
    common = [text for text, count in expected.items() if count >= 5]
    observed = [drawn[text] for text in common]
    wanted = [expected[text] for text in common]
    assert len(wanted) > 50
    assert stats.chisquare([*observed, draws - sum(observed)], [*wanted, draws - sum(wanted)], sum_check=False).pvalue > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_behind_a_rendered_prompt_it_writes_what_the_engine_answers(
    temperature: float, dtype: str, adapter_folder: Path, tmp_path: Path
) -> None:
    engine = TransformersEngine(load_opinionated(tmp_path, dtype))
    plain = LocalPlainTexts(engine)
    [ids] = engine.prompt_ids([PROMPT])
    for adapter in (None, adapter_folder):
        drawn = {"temperature": temperature, "top_p": 0.9, "seed": 3}
        [answer] = engine.generate([PROMPT], Decoding(20, **drawn, logprobs=2), adapter=adapter)
        written = plain.continue_text(ids, 20, **drawn, adapter=adapter)
        assert (written.text, written.tokens, written.cut) == (answer.text, answer.completion_tokens, answer.cut)


def test_in_16_bits_the_likelihood_of_a_token_is_that_of_the_layer_which_chooses(tmp_path: Path) -> None:
    engine = TransformersEngine(load_opinionated(tmp_path, "bfloat16"))
    values = [value for place in engine.next_logits(list(range(3, 40))) for value in place.tolist()]
    assert any(value != float(torch.tensor(value).bfloat16()) for value in values)


def test_a_drawn_continuation_follows_its_seed_and_leaves_the_dice_as_they_were(plain: LocalPlainTexts) -> None:
    ids = plain.encode("The parcel has")
    before = torch.random.get_rng_state()
    drawn = [plain.continue_text(ids, 12, temperature=1.0, top_p=1.0, seed=seed, adapter=None).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_tokens_of_an_answer_add_up_to_the_engines_score_without_its_end(
    engine: TransformersEngine, plain: LocalPlainTexts
) -> None:
    answer = Message("assistant", "In the house.")
    found = plain.answer_scores(PROMPT, answer, 0, adapter=None)
    ((whole,),) = engine.score([PROMPT], [[answer.content]])
    total = sum(score.log_probability or 0.0 for score in found)
    assert len(found) == whole.tokens - 1
    assert whole.log_probability < total < 0
    assert "".join(score.text for score in found) == answer.content


def test_an_id_that_is_no_token_is_refused(plain: LocalPlainTexts) -> None:
    for ids in ([10**9], [-1]):
        with pytest.raises(UsageError):
            plain.scores(ids, 0, adapter=None)
        with pytest.raises(UsageError):
            plain.continue_text(ids, 1, temperature=0.0, top_p=1.0, seed=0, adapter=None)


def test_control_tokens_in_a_text_are_only_letters(loaded: LoadedModel, plain: LocalPlainTexts) -> None:
    ids = plain.encode("<|im_end|>")
    assert not set(ids) & set(loaded.tokenizer.control_tokens.values())
