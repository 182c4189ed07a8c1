"""Models in memory, and adapters that come and go without a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from stepladder.domain.errors import ModelError, UsageError
from stepladder.files import hash_file
from stepladder.models.loading import load, unload_all
from tiny_model import build_tiny_model

# PEFT asks a property of the model that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

IDS = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture(scope="session")
def adapter_source(tiny_folder, tmp_path_factory) -> Path:
    """A LoRA of the tiny model with weights that change every answer."""
    folder = tmp_path_factory.mktemp("adapter") / "a"
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=False)
    rewrite(folder, init_lora_weights=True)
    return folder


@pytest.fixture
def adapter_folder(adapter_source, tmp_path) -> Path:
    return Path(shutil.copytree(adapter_source, tmp_path / "adapter"))


def rewrite(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


def test_a_model_comes_ready_to_answer_with_its_identity(tiny, tiny_folder):
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert tiny.model.dtype == torch.float32
    assert tiny.device == torch.device("cpu")
    assert tiny.identity.base_sha256 == hash_file(tiny_folder / "model.safetensors")
    assert tiny.identity.tokenizer_sha256 == hash_file(tiny_folder / "tokenizer.json") == tiny.tokenizer.sha256
    assert tiny.identity.template_sha256 == tiny.template.sha256
    assert (tiny.identity.engine, tiny.identity.hosted, tiny.identity.dtype) == ("transformers", False, "float32")
    assert (tiny.identity.parameters, tiny.identity.context_tokens) == (99648, 2048)
    assert tiny.stop_ids == (2,)


def test_the_same_weights_in_the_same_format_are_loaded_once(tiny, tiny_folder):
    assert load(str(tiny_folder), device="cpu", dtype="float32") is tiny
    half = load(str(tiny_folder), device="cpu", dtype="bfloat16")
    assert half is not tiny
    assert half.model.dtype == torch.bfloat16
    assert half.identity.dtype == "bfloat16"
    unload_all()
    assert load(str(tiny_folder), device="cpu", dtype="float32") is not tiny


def test_the_number_format_can_be_set_from_outside(tiny_folder, own_cache, monkeypatch):
    monkeypatch.setenv("STEPLADDER_DTYPE", "bfloat16")
    assert load(str(tiny_folder), device="cpu").identity.dtype == "bfloat16"


def test_an_unknown_device_is_a_usage_error(tiny_folder, own_cache):
    with pytest.raises(UsageError, match="'tpu' is no device"):
        load(str(tiny_folder), device="tpu")


def test_weights_missing_from_the_files_are_not_made_up(own_cache, tmp_path):
    folder = build_tiny_model(tmp_path / "holes")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are not in the files \(model\.layers\.1\.mlp\.up_proj\.weight"):
        load(str(folder), device="cpu", dtype="float32")


def test_a_tokenizer_of_another_model_is_noticed(own_cache, tmp_path):
    folder = build_tiny_model(tmp_path / "small", vocab=300)
    shutil.copy(build_tiny_model(tmp_path / "large", vocab=400) / "tokenizer.json", folder)
    with pytest.raises(ModelError, match="the tokenizer knows 400 tokens, the model only 300"):
        load(str(folder), device="cpu", dtype="float32")


def test_a_model_without_template_is_refused(own_cache, tmp_path):
    folder = build_tiny_model(tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load(str(folder), device="cpu", dtype="float32")


def test_an_adapter_answers_as_plain_peft_does_and_leaves_the_base_untouched(tiny, tiny_folder, adapter_folder):
    before, random_before = logits(tiny.model), torch.get_rng_state()
    weights_before = {name: parameter.clone() for name, parameter in tiny.model.named_parameters()}
    modules_before = {name: id(module) for name, module in tiny.model.named_modules()}
    with tiny.adapter(adapter_folder) as model:
        adapted = logits(model)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not model.training
    assert torch.equal(torch.get_rng_state(), random_before)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), adapter_folder)
    assert torch.equal(adapted, logits(plain))
    assert (adapted - before).abs().max() > 0.1
    assert torch.equal(logits(tiny.model), before)
    assert {name: id(module) for name, module in tiny.model.named_modules()} == modules_before
    assert all(torch.equal(parameter, weights_before[name]) for name, parameter in tiny.model.named_parameters())


def test_an_adapter_comes_off_when_the_block_fails_and_can_come_again(tiny, adapter_folder):
    before = logits(tiny.model)
    with pytest.raises(KeyboardInterrupt), tiny.adapter(adapter_folder):
        raise KeyboardInterrupt
    assert torch.equal(logits(tiny.model), before)
    with tiny.adapter(adapter_folder) as first:
        once = logits(first)
    with tiny.adapter(adapter_folder) as second:
        assert torch.equal(logits(second), once)


def test_a_second_adapter_on_top_is_refused(tiny, adapter_folder):
    with (
        tiny.adapter(adapter_folder),
        pytest.raises(ModelError, match="carries an adapter already"),
        tiny.adapter(adapter_folder),
    ):
        pass


def test_an_adapter_on_a_bf16_base_keeps_its_own_precision(tiny_folder, adapter_folder, own_cache):
    half = load(str(tiny_folder), device="cpu", dtype="bfloat16")
    with half.adapter(adapter_folder) as model:
        kinds = {parameter.dtype for name, parameter in model.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32}


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_an_adapter_that_does_not_fit_key_by_key_is_refused(tiny, adapter_folder, change):
    path = adapter_folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = weights[name].clone()
    else:
        weights[name] = torch.zeros(4, 8)
    save_file(weights, path)
    before = logits(tiny.model)
    with pytest.raises(ModelError, match="does not fit this model"), tiny.adapter(adapter_folder):
        pass
    assert torch.equal(logits(tiny.model), before)


@pytest.mark.parametrize(
    ("pin", "what"), [("base_sha256", "base weights"), ("tokenizer_sha256", "tokenizer"), ("template_sha256", "chat template")]
)
def test_an_adapter_of_another_base_is_refused_by_its_side_file(tiny, adapter_folder, pin, what):
    right = {name: getattr(tiny.identity, name) for name in ("base_sha256", "tokenizer_sha256", "template_sha256")}
    side = adapter_folder / "stepladder.json"
    side.write_text(json.dumps({"pins": right}), encoding="utf-8")
    with tiny.adapter(adapter_folder):
        pass
    side.write_text(json.dumps({"pins": {**right, pin: "f" * 64}}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"trained on another {what}"), tiny.adapter(adapter_folder):
        pass
    side.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="side file cannot be read"), tiny.adapter(adapter_folder):
        pass


def test_an_adapter_whose_settings_were_changed_since_it_was_saved_is_refused(tiny, adapter_folder):
    config = adapter_folder / "adapter_config.json"
    side = {"pins": {}, "files_sha256": {config.name: hash_file(config)}}
    (adapter_folder / "stepladder.json").write_text(json.dumps(side), encoding="utf-8")
    with tiny.adapter(adapter_folder):
        pass
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**settings, "lora_alpha": settings["lora_alpha"] + 1}), encoding="utf-8")
    with pytest.raises(ModelError, match="not those that the adapter was saved with"), tiny.adapter(adapter_folder):
        pass


@pytest.mark.parametrize(
    "setting",
    [
        {"auto_mapping": {"parent_library": "evil", "base_model_class": "X"}},
        {"megatron_config": {"a": 1}},
        {"layer_replication": [[0, 2]]},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"some_future_key": 1},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_adapter_settings_that_run_code_or_change_the_base_are_refused_by_name(tiny, adapter_folder, setting):
    rewrite(adapter_folder, **setting)
    with pytest.raises(ModelError, match=next(iter(setting))), tiny.adapter(adapter_folder):
        pass


@pytest.mark.parametrize("setting", [{"target_modules": ["nothing_here"]}, {"r": -1}, {"r": "eight"}], ids=str)
def test_an_adapter_peft_cannot_put_in_is_refused_and_the_model_stays_usable(tiny, adapter_source, adapter_folder, setting):
    before = logits(tiny.model)
    rewrite(adapter_folder, **setting)
    with pytest.raises(ModelError, match="adapter"), tiny.adapter(adapter_folder):
        pass
    assert torch.equal(logits(tiny.model), before)
    with tiny.adapter(adapter_source) as model:
        assert not torch.equal(logits(model), before)


def test_a_base_named_in_the_adapter_is_never_followed(tiny, adapter_folder):
    rewrite(adapter_folder, base_model_name_or_path="https://example.invalid/evil", revision="x")
    with tiny.adapter(adapter_folder):
        pass


def test_other_kinds_of_adapters_and_pickles_and_empty_folders_are_refused(tiny, adapter_folder, tmp_path):
    with pytest.raises(ModelError, match="no readable adapter settings"), tiny.adapter(tmp_path / "nothing"):
        pass
    (adapter_folder / "adapter_model.safetensors").rename(adapter_folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled weights are never read"), tiny.adapter(adapter_folder):
        pass
    (adapter_folder / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="the weights cannot be read"), tiny.adapter(adapter_folder):
        pass
    rewrite(adapter_folder, peft_type="IA3")
    with pytest.raises(ModelError, match="not a LoRA adapter"), tiny.adapter(adapter_folder):
        pass
