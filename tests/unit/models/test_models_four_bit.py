"""A base in 4 bits: loaded by quantising, trained through unpacked weights, and never laid out anew behind our back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from stepladder.models.four_bit import four_bit_layers, parameter_count
from stepladder.models.loading import LoadedModel, load, unload_all
from stepladder.models.prefix.anatomy import read_anatomy
from stepladder.models.prefix.paths import FusedPath, StockPath
from stepladder.models.prefix.rows import EncodedRow
from tiny_model import build_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield build_tiny_model(tmp_path_factory.mktemp("four-bit") / "tiny", hidden=64)
    unload_all()


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    unload_all()
    return load(str(folder), device="cpu", dtype="float32", four_bit=True)


def unpacked(model: Any) -> list[Tensor]:
    return [
        bitsandbytes.functional.dequantize_4bit(one.weight.data, one.weight.quant_state).clone() for one in four_bit_layers(model)
    ]


def with_adapter(model: Any) -> Any:
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.1)
    return wrapped


def gradients(wrapped: Any) -> dict[str, Tensor]:
    found = {name: value.grad.clone() for name, value in wrapped.named_parameters() if value.requires_grad}
    wrapped.zero_grad(set_to_none=True)
    return found


ROWS = [EncodedRow(str(number), (1, 5, 6, 7, 8, 9, 10 + number, 30, 31, 2), (0.0,) * 7 + (1.0,) * 3) for number in range(5)]


def test_every_linear_layer_but_the_head_is_in_nf4_with_double_quantisation(loaded: LoadedModel) -> None:
    layers = four_bit_layers(loaded.model)
    assert len(layers) == 7 * 2
    assert all(one.weight.quant_state.nested and one.weight.quant_state.quant_type == "nf4" for one in layers)
    assert not isinstance(loaded.model.get_output_embeddings(), bitsandbytes.nn.Linear4bit)


def test_it_has_an_identity_of_its_own_and_counts_its_parameters_unpacked(loaded: LoadedModel, folder: Path) -> None:
    plain = load(str(folder), device="cpu", dtype="float32")
    assert loaded.identity.dtype == "nf4 (float32)"
    assert loaded.identity.base_sha256 != plain.identity.base_sha256
    assert loaded.identity.parameters == parameter_count(plain.model) == plain.identity.parameters
    assert load(str(folder), device="cpu", dtype="float32", four_bit=True) is loaded


def test_answers_and_evaluations_leave_the_weights_where_later_steps_find_them(loaded: LoadedModel) -> None:
    before = unpacked(loaded.model)
    with torch.no_grad():
        loaded.model(input_ids=torch.tensor([[1, 2, 3]]))  # the stock forward, as the generation engine's
    for old, new in zip(before, unpacked(loaded.model), strict=True):
        assert torch.equal(old, new)


def test_without_the_guard_the_weights_would_be_others_where_the_processor_has_the_kernel(loaded: LoadedModel) -> None:
    from bitsandbytes.functional import _convert_weight_packed_for_cpu  # what the guarded forward would call

    layer = four_bit_layers(loaded.model)[0]
    before = unpacked(loaded.model)[0]
    packed, state = _convert_weight_packed_for_cpu(layer.weight.data.clone(), layer.weight.quant_state)
    wrong = bitsandbytes.functional.dequantize_4bit(packed.reshape(-1, 1), state)
    assert not torch.equal(wrong.reshape(before.shape), before)


def test_the_fused_path_gives_the_stock_modules_loss_and_gradients_before_and_after_an_answer(loaded: LoadedModel) -> None:
    wrapped = with_adapter(loaded.model)
    model = wrapped.get_base_model()
    stock = StockPath(model, share=False).backward_loss(ROWS, tokens_per_pass=1000)
    right = gradients(wrapped)
    for _ in range(2):
        loss = FusedPath(model).backward_loss(ROWS, tokens_per_pass=30)
        assert loss == pytest.approx(stock, rel=1e-5)
        for name, gradient in gradients(wrapped).items():
            assert (gradient - right[name]).norm() <= 1e-4 * right[name].norm(), name
        with torch.no_grad():
            model(input_ids=torch.tensor([[1, 2, 3]]))
    wrapped.unload()


def test_weights_are_unpacked_for_each_use_and_not_kept(loaded: LoadedModel) -> None:
    wrapped = with_adapter(loaded.model)
    linear = read_anatomy(wrapped.get_base_model()).layers[0].mlp_out
    first, second = linear.weight(torch.float32), linear.weight(torch.float32)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)
    assert linear.module.weight.dtype == torch.uint8
    wrapped.unload()
