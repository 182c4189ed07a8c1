"""Bare texts on a local model: against transformers' own forward pass and generation, and against the engine's scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stepladder.domain.errors import UsageError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Prompt
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.engines.transformers.plain import LocalPlainTexts
from stepladder.models.loading import LoadedModel, load, unload_all
from tiny_model import build_tiny_model

TEXT = "Where is the lamp? – größer 漢"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    patch = pytest.MonkeyPatch()
    patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield load(str(build_tiny_model(tmp_path_factory.mktemp("model"))), device="cpu", dtype="float32")
    unload_all()
    patch.undo()


def test_every_token_has_the_log_probability_of_transformers_own_forward_pass(loaded: LoadedModel) -> None:
    plain = LocalPlainTexts(loaded)
    ids = plain.encode(TEXT)
    found = plain.scores(ids, 3, adapter=None)
    with torch.inference_mode():
        table = torch.log_softmax(loaded.model(torch.tensor([ids])).logits[0].float(), -1)
    assert found[0].log_probability is None
    for place, score in enumerate(found[1:], start=1):
        assert score.log_probability == pytest.approx(float(table[place - 1, ids[place]]), abs=1e-5)
        assert [value for _, _, value in score.top] == pytest.approx(table[place - 1].topk(3).values.tolist(), abs=1e-5)
    assert b"".join(score.raw for score in found).decode() == TEXT


def test_a_greedy_continuation_is_transformers_own(loaded: LoadedModel) -> None:
    plain = LocalPlainTexts(loaded)
    ids = plain.encode("The parcel has")
    written = plain.continue_text(ids, 12, temperature=0.0, top_p=1.0, seed=0, adapter=None)
    expected = loaded.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=12, do_sample=False
    )[0, len(ids) :].tolist()
    stops = [place for place, id in enumerate(expected) if id in loaded.stop_ids]
    assert written.text == loaded.tokenizer.decode(expected[: stops[0]] if stops else expected, keep_control_tokens=True)
    assert written.cut == (not stops)


def test_a_drawn_continuation_follows_its_seed_and_leaves_the_dice_as_they_were(loaded: LoadedModel) -> None:
    plain = LocalPlainTexts(loaded)
    ids = plain.encode("The parcel has")
    before = torch.random.get_rng_state()
    drawn = [plain.continue_text(ids, 12, temperature=1.0, top_p=1.0, seed=seed, adapter=None).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_tokens_of_an_answer_add_up_to_the_engines_score_without_its_end(loaded: LoadedModel) -> None:
    prompt = Prompt("p", (Message("user", "Where is the lamp?"),))
    answer = Message("assistant", "In the house.")
    found = LocalPlainTexts(loaded).answer_scores(prompt, answer, 0, adapter=None)
    ((whole,),) = TransformersEngine(loaded).score([prompt], [[answer.content]])
    total = sum(score.log_probability or 0.0 for score in found)
    assert len(found) == whole.tokens - 1
    assert whole.log_probability < total < 0
    assert "".join(score.text for score in found) == answer.content


def test_an_id_that_is_no_token_is_refused(loaded: LoadedModel) -> None:
    plain = LocalPlainTexts(loaded)
    for ids in ([10**9], [-1]):
        with pytest.raises(UsageError):
            plain.scores(ids, 0, adapter=None)
        with pytest.raises(UsageError):
            plain.continue_text(ids, 1, temperature=0.0, top_p=1.0, seed=0, adapter=None)


def test_control_tokens_in_a_text_are_only_letters(loaded: LoadedModel, tmp_path: Path) -> None:
    ids = LocalPlainTexts(loaded).encode("<|im_end|>")
    assert not set(ids) & set(loaded.tokenizer.control_tokens.values())
