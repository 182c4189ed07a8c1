from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from small_architectures import SIZES, build
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


def test_a_fault_of_long_rows_alone_is_found(
    build_llama: Callable[..., Any], build_rows: BuildRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify.FusedPath.row_nll
    rows = build_rows(6)
    longest = max(map(len, rows))

    def spoilt(self: Any, rows: Any, **keywords: Any) -> list[float]:
        found = honest(self, rows, **keywords)
        return [nats + 0.5 * (len(row) == longest) for nats, row in zip(found, rows, strict=True)]

    monkeypatch.setattr(verify.FusedPath, "row_nll", spoilt)
    assert choose_path(build_llama(), rows, [].append).name == "stock, shared prefix"


def test_of_a_row_with_many_labels_the_last_ones_are_tried(build_llama: Callable[..., Any]) -> None:
    rows = [EncodedRow(f"row-{size}", (*range(3, 3 + size), 2), (0.0, *(1.0,) * size)) for size in (8, 80)]
    kept: list[int] = []
    model = build_llama(vocab=100)
    stock = model.forward

    def counting(input_ids: Any, use_cache: bool, logits_to_keep: int = 0) -> Any:
        output = stock(input_ids=input_ids, use_cache=use_cache, logits_to_keep=logits_to_keep)
        kept.append(output.logits.shape[1])
        return output

    model.forward = counting
    assert choose_path(model, rows, [].append).name == "fused"
    assert kept == [9, verify.TRIAL_LABELS + 1]


@pytest.mark.parametrize("architecture", ["phi3-longrope", "llama-dynamic"])
def test_a_rotary_embedding_that_depends_on_the_length_takes_the_plain_path_and_says_so(architecture: str) -> None:
    rows = [EncodedRow(f"row-{size}", (*range(3, 3 + size), 2), (0.0,) * size + (1.0,)) for size in (15, 16, 40)]
    notes: list[str] = []
    assert choose_path(build(architecture), rows, notes.append).name == "stock"
    assert "cannot share it, its rotary embedding is" in notes[0]


@pytest.mark.parametrize(
    ("architecture", "settings", "why"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}, "Gemma3ForCausalLM cannot be tuned: its tokens see later tokens"),
        ("llama4_text", {}, "Llama4ForCausalLM cannot be tuned: it does not say which of its modules is the decoder"),
    ],
)
def test_a_model_that_no_path_computes_exactly_is_refused_by_name(
    build_rows: BuildRows, architecture: str, settings: dict[str, Any], why: str
) -> None:
    config = CONFIG_MAPPING[architecture](**{**SIZES, **settings})
    with pytest.raises(ModelError, match=why):
        choose_path(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval(), build_rows(4), [].append)
