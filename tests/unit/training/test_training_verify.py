from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training import verify
from stepladder.training.verify import choose_path

BuildRows = Callable[..., list[EncodedRow]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_agrees_with_its_stock_forward_may_share(
    build_llama: Callable[..., Any], build_rows: BuildRows, dtype: torch.dtype
) -> None:
    notes: list[str] = []
    assert choose_path(build_llama().to(dtype), build_rows(4), notes.append).name == "fused"
    assert notes == []


def test_an_architecture_with_other_states_takes_the_plain_path_and_says_so(build_rows: BuildRows) -> None:
    config = CONFIG_MAPPING["lfm2"](
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    notes: list[str] = []
    path = choose_path(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval(), build_rows(4), notes.append)
    assert path.name == "stock"
    assert notes == [
        "The common prompt is computed anew for every row: Lfm2ForCausalLM cannot share it, "
        "its conv layers keep a state that is not keys and values per token."
    ]


def test_an_architecture_that_cannot_be_read_shares_through_its_own_modules_and_says_so(build_rows: BuildRows) -> None:
    config = CONFIG_MAPPING["gpt2"](vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    notes: list[str] = []
    path = choose_path(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval(), build_rows(4), notes.append)
    assert path.name == "stock, shared prefix"
    assert notes == [
        "Training runs through the stock modules of GPT2LMHeadModel, which is slower: its layers are of class GPT2Model."
    ]


@pytest.mark.parametrize(("wrong", "left"), [("fused", "stock, shared prefix"), ("shared", "stock")])
def test_a_path_that_gives_another_loss_is_not_trusted(
    build_llama: Callable[..., Any], build_rows: BuildRows, monkeypatch: pytest.MonkeyPatch, wrong: str, left: str
) -> None:
    def spoilt(self: Any, rows: Any, **keywords: Any) -> list[float]:
        return [nats + 0.5 for nats in honest(self, rows, **keywords)]

    honest = verify.FusedPath.row_nll
    monkeypatch.setattr(verify.FusedPath, "row_nll", spoilt)
    if wrong == "shared":
        stock = verify.StockPath.row_nll
        monkeypatch.setattr(
            verify.StockPath,
            "row_nll",
            lambda self, rows, **keywords: [nats + 0.5 * (self.name != "stock") for nats in stock(self, rows, **keywords)],
        )
    notes: list[str] = []
    assert choose_path(build_llama(), build_rows(4), notes.append).name == left
    assert "a trial on two rows gave another loss" in notes[0]


def test_a_head_with_an_unknown_scale_is_refused(build_llama: Callable[..., Any], build_rows: BuildRows) -> None:
    model = build_llama()
    stock = model.forward

    def scaled(*args: Any, **keywords: Any) -> Any:
        output = stock(*args, **keywords)
        output.logits = output.logits * 2
        return output

    model.forward = scaled
    with pytest.raises(ModelError, match="the loss of LlamaForCausalLM cannot be computed from its last hidden states"):
        choose_path(model, build_rows(4), [].append)
