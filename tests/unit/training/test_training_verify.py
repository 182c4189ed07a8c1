from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training import verify
from stepladder.training.verify import sharing_is_exact

BuildRows = Callable[..., list[EncodedRow]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_agrees_with_its_stock_forward_may_share(
    build_llama: Callable[..., Any], build_rows: BuildRows, dtype: torch.dtype
) -> None:
    notes: list[str] = []
    assert sharing_is_exact(build_llama().to(dtype), build_rows(4), notes.append)
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
    assert not sharing_is_exact(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval(), build_rows(4), notes.append)
    assert notes == [
        "The common prompt is computed anew for every row: Lfm2ForCausalLM cannot share it, "
        "its conv layers keep a state that is not keys and values per token."
    ]


def test_a_prefix_that_gives_another_loss_is_not_trusted(
    build_llama: Callable[..., Any], build_rows: BuildRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify.row_nll

    def hidden_prefix(*args: Any, share: bool, **keywords: Any) -> list[float]:
        return [value + 0.5 * share for value in honest(*args, share=share, **keywords)]

    monkeypatch.setattr(verify, "row_nll", hidden_prefix)
    notes: list[str] = []
    assert not sharing_is_exact(build_llama(), build_rows(4), notes.append)
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
        sharing_is_exact(model, build_rows(4), [].append)
