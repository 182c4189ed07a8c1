"""Base and tuned weights side by side: losses on texts, divergence, and adapters made weaker; transformers is the oracle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from stepladder.domain.errors import EngineError, ModelError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Comparing, Decoding, Prompt
from stepladder.engines.transformers.comparing import chunks
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.adapter_scale import write_scaled
from stepladder.models.conversation import encode_answer, encode_prompt
from stepladder.models.loading import LoadedModel

TEXTS = ("The parcel has not arrived.", "Where can I change my address? <|im_end|> is not a stop here.")
PROMPTS = [Prompt("a", (Message("user", "Where is it?"),)), Prompt("b", (Message("user", "The lamp came broken."),))]
ANSWERS = ["In the post.", "Thank you; one word."]


@pytest.fixture
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny)


def test_the_loss_on_a_text_is_that_of_transformers(engine: TransformersEngine, tiny: LoadedModel, tiny_folder: Path) -> None:
    oracle = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    for text, found in zip(TEXTS, engine.text_nll(TEXTS), strict=True):
        ids = torch.tensor([tiny.tokenizer.encode_plain(text)])
        assert found == pytest.approx(float(oracle(ids, labels=ids).loss.detach()), rel=1e-5)


def test_an_adapter_changes_the_loss_and_leaves_no_trace(engine: TransformersEngine, adapter_folder: Path) -> None:
    before = engine.text_nll(TEXTS)
    assert engine.text_nll(TEXTS, adapter=adapter_folder) != pytest.approx(before)
    assert engine.text_nll(TEXTS) == before


def test_the_divergence_is_that_of_the_two_distributions(
    engine: TransformersEngine, tiny: LoadedModel, adapter_folder: Path
) -> None:
    found = engine.divergence(PROMPTS, ANSWERS, adapter=adapter_folder)
    for prompt, answer, value in zip(PROMPTS, ANSWERS, found, strict=True):
        asked = encode_prompt(tiny.template, tiny.tokenizer, prompt.messages)
        said = encode_answer(tiny.template, tiny.tokenizer, prompt.messages, answer)
        ids = torch.tensor([[*asked, *said]])
        with torch.no_grad():
            base = F.softmax(tiny.model(ids).logits[0, len(asked) - 1 : -1].double(), dim=-1)
            with tiny.adapter(adapter_folder) as tuned:
                other = F.softmax(tuned(ids).logits[0, len(asked) - 1 : -1].double(), dim=-1)
        assert value == pytest.approx(float((base * (base / other).log()).sum(1).mean()), rel=1e-4)
        assert value > 0


def test_rows_that_do_not_fit_into_memory_together_are_compared_in_turns() -> None:
    answers = [[0] * length for length in (30, 30, 30, 100, 1)]
    assert list(chunks(answers, 1_000_000)) == [[0, 1], [2], [3], [4]]
    assert list(chunks(answers, 1)) == [[0, 1, 2, 3, 4]]
    assert list(chunks([], 1)) == []


def test_the_transformers_engine_can_compare_and_says_so(engine: TransformersEngine) -> None:
    assert isinstance(engine, Comparing)


def test_a_text_that_is_too_long_or_too_short_is_named(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError, match="text 2"):
        engine.text_nll(["Where is it?", "address " * 3000])
    with pytest.raises(EngineError, match="Text 1 has"):
        engine.text_nll([""])


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.0, 1.0])
def test_a_scaled_adapter_is_the_one_that_peft_scales(
    tiny: LoadedModel, adapter_folder: Path, tmp_path: Path, scale: float
) -> None:
    write_scaled(adapter_folder, tmp_path / "scaled", scale)
    by_alpha = shutil.copytree(adapter_folder, tmp_path / "alpha")
    config = json.loads((by_alpha / "adapter_config.json").read_text())
    (by_alpha / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * scale}))
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    with torch.no_grad(), tiny.adapter(tmp_path / "scaled") as model:
        scaled = model(ids).logits
    with torch.no_grad(), tiny.adapter(by_alpha) as model:
        expected = model(ids).logits
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)


def test_the_scaled_adapter_is_measured_under_its_own_hash(
    engine: TransformersEngine, adapter_folder: Path, tmp_path: Path
) -> None:
    digest = write_scaled(adapter_folder, tmp_path / "half", 0.5)
    whole, half = (engine.generate(PROMPTS[:1], Decoding(4), adapter=folder)[0] for folder in (adapter_folder, tmp_path / "half"))
    assert half.adapter_sha256 == digest != whole.adapter_sha256
    assert (
        engine.divergence(PROMPTS, ANSWERS, adapter=tmp_path / "half")[0]
        < engine.divergence(PROMPTS, ANSWERS, adapter=adapter_folder)[0]
    )
    assert write_scaled(adapter_folder, tmp_path / "again", 0.5) == digest


def test_the_papers_of_a_scaled_adapter_say_so(adapter_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(adapter_folder, tmp_path / "source")
    (source / "stepladder.json").write_text(json.dumps({"adapter_sha256": "abc", "pins": {}}))
    (source / "README.md").write_text("# LoRA\n")
    digest = write_scaled(source, tmp_path / "half", 0.5)
    side = json.loads((tmp_path / "half" / "stepladder.json").read_text())
    assert (side["adapter_sha256"], side["scaled_from_sha256"], side["scale"]) == (digest, "abc", 0.5)
    assert "scaled to 0.5" in (tmp_path / "half" / "README.md").read_text()
    assert json.loads((source / "stepladder.json").read_text())["adapter_sha256"] == "abc"


def test_what_is_no_plain_lora_is_not_scaled(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be read"):
        write_scaled(tmp_path, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()
