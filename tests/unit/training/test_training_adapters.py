from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file

from stepladder.domain.errors import ModelError
from stepladder.training.adapters import (
    adapted,
    adapter_files,
    adapter_tensors,
    fast_attention,
    lora_config,
    reloaded,
    set_adapter_tensors,
    short_targets,
    silenced,
)
from stepladder.training.presets import TrainSettings

TOKENS = torch.tensor([[3, 4, 5, 6]])
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def fill(wrapped: Any) -> None:
    with torch.no_grad():
        for value in adapter_tensors(wrapped).values():
            value.fill_(0.05)


def write(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def test_the_base_is_bit_for_bit_as_before_and_as_trainable_as_before(
    build_llama: Callable[..., Any], quick_settings: TrainSettings
) -> None:
    model = build_llama()
    model.model.norm.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    logits = model(input_ids=TOKENS).logits
    with adapted(model, quick_settings) as wrapped:
        fill(wrapped)
        assert not torch.equal(model(input_ids=TOKENS).logits, logits)
    assert torch.equal(model(input_ids=TOKENS).logits, logits)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, _ in model.named_modules()] == modules
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert not hasattr(model, "peft_config")


def test_the_base_is_restored_when_training_fails(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    model = build_llama()
    logits = model(input_ids=TOKENS).logits
    with pytest.raises(RuntimeError, match="stop"), adapted(model, quick_settings) as wrapped:
        fill(wrapped)
        raise RuntimeError("stop")
    assert torch.equal(model(input_ids=TOKENS).logits, logits)


def test_every_linear_layer_but_the_head_is_adapted(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    with adapted(build_llama(), quick_settings) as wrapped:
        names = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter_tensors(wrapped)}
    assert names == LINEAR


def test_chosen_layers_alone_are_adapted(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    with adapted(build_llama(), replace(quick_settings, target_modules=("q_proj", "down_proj"))) as wrapped:
        names = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter_tensors(wrapped)}
    assert names == {"q_proj", "down_proj"}


@pytest.mark.parametrize("name", ["q_porj", "lm_head", "norm"])
def test_a_layer_that_is_not_there_is_refused_by_name(
    build_llama: Callable[..., Any], quick_settings: TrainSettings, name: str
) -> None:
    model = build_llama()
    wrong = adapted(model, replace(quick_settings, target_modules=("q_proj", name)))
    with pytest.raises(ModelError, match=f"names '{name}', which is no linear layer of LlamaForCausalLM. Choose among .*q_proj"):
        wrong.__enter__()
    assert not hasattr(model, "peft_config")


def test_layers_are_named_as_briefly_as_they_can_be(build_llama: Callable[..., Any]) -> None:
    model = build_llama()
    everything = [name for name, module in model.named_modules() if name.rpartition(".")[2] in LINEAR]
    assert short_targets(model, everything) == ()
    assert short_targets(model, sorted(LINEAR)) == ()
    assert short_targets(model, [name for name in everything if "q_proj" in name]) == ("q_proj",)
    one = "model.layers.0.self_attn.q_proj"
    assert short_targets(model, [one]) == (one,)


def test_a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank(
    build_llama: Callable[..., Any], quick_settings: TrainSettings
) -> None:
    with adapted(build_llama(), replace(quick_settings, alpha=6, rank_stabilised=True)) as wrapped:
        layer = wrapped.get_base_model().model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == pytest.approx(6 / 4**0.5)


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_its_start(
    build_llama: Callable[..., Any], quick_settings: TrainSettings
) -> None:
    model, starts = build_llama(), []
    logits = model(input_ids=TOKENS).logits
    for seed in (0, 0, 1):
        with adapted(model, replace(quick_settings, seed=seed)) as wrapped:
            assert torch.equal(model(input_ids=TOKENS).logits, logits)
            starts.append(torch.cat([value.flatten().clone() for value in adapter_tensors(wrapped).values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_adapters_are_kept_in_fp32_over_a_bf16_base(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    with adapted(build_llama().to(torch.bfloat16), quick_settings) as wrapped:
        assert {value.dtype for value in adapter_tensors(wrapped).values()} == {torch.float32}


def test_the_callers_random_numbers_are_left_alone(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    model = build_llama()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with adapted(model, quick_settings):
        assert torch.equal(torch.rand(3), expected)


def test_a_model_with_an_adapter_in_it_is_refused(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    model = build_llama()
    again = adapted(model, quick_settings)
    with adapted(model, quick_settings), pytest.raises(ModelError, match="has an adapter loaded"):
        again.__enter__()


def test_a_checkpoint_of_another_shape_is_refused(build_llama: Callable[..., Any], quick_settings: TrainSettings) -> None:
    with adapted(build_llama(), quick_settings) as wrapped:
        tensors = {name: value.clone() for name, value in adapter_tensors(wrapped).items()}
        first = next(iter(tensors))
        with pytest.raises(ModelError, match="fits 27 of 28 adapter tensors"):
            set_adapter_tensors(wrapped, {**tensors, first: tensors[first][:1]})
        del tensors[first]
        with pytest.raises(ModelError, match="fits 27 of 28 adapter tensors"):
            set_adapter_tensors(wrapped, tensors)


def test_the_alpha_is_recorded_as_given(quick_settings: TrainSettings) -> None:
    config = lora_config(quick_settings)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8, 0.0)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_peft_loads_the_folder_with_equal_logits(
    build_llama: Callable[..., Any], quick_settings: TrainSettings, tmp_path: Path, dtype: torch.dtype
) -> None:
    from peft import PeftModel

    with adapted(build_llama().to(dtype), quick_settings) as wrapped:
        fill(wrapped)
        logits = wrapped(input_ids=TOKENS).logits
        write(tmp_path, adapter_files(wrapped, "the-base"))
    loaded = PeftModel.from_pretrained(build_llama().to(dtype), str(tmp_path))
    assert torch.equal(loaded(input_ids=TOKENS).logits, logits)


def test_bf16_on_a_cpu_trains_with_plain_products_and_goes_back(build_llama: Callable[..., Any]) -> None:
    half, full = build_llama().to(torch.bfloat16), build_llama()
    for model, expected in ((half, "eager"), (full, "sdpa")):
        with fast_attention(model, longest=50, tokens_per_pass=100) as used:
            assert used == model.config._attn_implementation == model.model.layers[0].self_attn.config._attn_implementation
            assert used == expected
        assert model.config._attn_implementation == "sdpa"


def test_rows_too_long_for_plain_products_keep_the_fused_attention(build_llama: Callable[..., Any]) -> None:
    with fast_attention(build_llama().to(torch.bfloat16), longest=10_000, tokens_per_pass=2_000) as used:
        assert used == "sdpa"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_files_are_pefts_own_but_for_the_place_of_the_base(
    build_llama: Callable[..., Any], quick_settings: TrainSettings, tmp_path: Path
) -> None:
    with adapted(build_llama(), quick_settings) as wrapped:
        fill(wrapped)
        files = adapter_files(wrapped, "the-base")
        assert adapter_files(wrapped, "the-base") == files
        wrapped.save_pretrained(str(tmp_path))
    own, theirs = json.loads(files["adapter_config.json"]), json.loads((tmp_path / "adapter_config.json").read_text())
    assert own.pop("base_model_name_or_path") == "the-base"
    theirs.pop("base_model_name_or_path")
    theirs["target_modules"].sort()
    assert own == theirs
    ours, saved = load(files["adapter_model.safetensors"]), load_file(tmp_path / "adapter_model.safetensors")
    assert ours.keys() == saved.keys()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)


def test_a_reloaded_adapter_is_gone_without_a_trace(
    build_llama: Callable[..., Any], quick_settings: TrainSettings, tmp_path: Path
) -> None:
    model = build_llama()
    with adapted(model, quick_settings) as wrapped:
        fill(wrapped)
        write(tmp_path, adapter_files(wrapped, "the-base"))
    trained, logits = [parameter.requires_grad for parameter in model.parameters()], model(input_ids=TOKENS).logits
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with reloaded(model, tmp_path) as loaded:
        assert not torch.equal(loaded(input_ids=TOKENS).logits, logits)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(model(input_ids=TOKENS).logits, logits)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert not hasattr(model, "peft_config")


def test_a_silenced_adapter_is_the_base_and_speaks_again_after(
    build_llama: Callable[..., Any], quick_settings: TrainSettings
) -> None:
    model = build_llama()
    logits = model(input_ids=TOKENS).logits
    with adapted(model, quick_settings) as wrapped:
        fill(wrapped)
        spoken = wrapped(input_ids=TOKENS).logits
        with silenced(wrapped):
            assert torch.equal(wrapped(input_ids=TOKENS).logits, logits)
        assert torch.equal(wrapped(input_ids=TOKENS).logits, spoken)
