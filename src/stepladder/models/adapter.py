"""A LoRA adapter on a base model for a while: checked before, key by key, and gone without a trace after."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import ModelIdentity
from stepladder.files import hash_file

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
SIDE_FILE = "stepladder.json"

# Settings that import code, change the base for good, or train parts that taking the adapter off would not bring back.
_REFUSED = (
    "auto_mapping",
    "megatron_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "monteclora_config",
    "arrow_config",
    "kasa_config",
    "runtime_config",
    "use_bdlora",
    "use_qalora",
    "alora_invocation_tokens",
    "layer_replication",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "ensure_weight_tying",
)
_HARMLESS_STARTS = (True, False, "gaussian", "orthogonal")  # others rewrite the base weights when the adapter is put in
_PINNED = {
    "base_sha256": "base weights",
    "tokenizer_sha256": "tokenizer",
    "template_sha256": "chat template",
}


@contextmanager
def applied(model: Any, folder: Path, identity: ModelIdentity) -> Iterator[Any]:
    """`model` with the adapter of `folder` in it; afterwards its modules, weights and modes are the very ones as before.

    Raises:
        ModelError: As `LoadedModel.adapter`.
    """
    config = read_config(folder)
    check_pins(folder, identity)
    tensors = _read_weights(folder)
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ModelError("The model carries an adapter already.", "Use one adapter at a time.")
    wants_gradient = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was_training = model.training
    wrapped = _put_in(model, config, folder)
    try:
        _fill(wrapped, tensors, folder)
        wrapped.requires_grad_(False)
        wrapped.eval()
        yield model
    finally:
        wrapped.unload()
        for parameter, wanted in wants_gradient:
            parameter.requires_grad_(wanted)
        model.train(was_training)


def _put_in(model: Any, config: LoraConfig, folder: Path) -> Any:
    try:
        with torch.random.fork_rng(), _quiet_peft():  # fresh LoRA weights are drawn before the saved ones replace them
            return get_peft_model(model, config, autocast_adapter_dtype=True)
    except (ValueError, TypeError, RuntimeError) as error:
        if hasattr(model, "peft_config"):
            del model.peft_config
        raise ModelError(
            f"{folder}: the adapter does not fit this model ({error}).", "Load it on the base it was trained on."
        ) from error


def read_config(folder: Path) -> LoraConfig:
    """The LoRA settings of a PEFT folder, every key known and none able to run code.

    Raises:
        ModelError: There is none, it is not LoRA, or it holds a key that is unknown or could import code; named.
    """
    path = folder / CONFIG_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: no readable adapter settings.", "Give a PEFT folder, as `stepladder tune` writes.") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        raise ModelError(f"{path}: not a LoRA adapter.", "Other kinds of adapters are not supported.")
    known = {field.name for field in fields(LoraConfig)}
    refused = [key for key, value in raw.items() if value and (key in _REFUSED or key not in known)]
    if raw.get("bias", "none") != "none":
        refused.append("bias")
    if raw.get("init_lora_weights", True) not in _HARMLESS_STARTS:
        refused.append("init_lora_weights")
    if refused:
        raise ModelError(f"{path}: not plain LoRA ({', '.join(refused)}).", "Train or save the adapter without these settings.")
    # The base is the one in memory: a path or repository named here is never followed.
    unused = {*_REFUSED, "peft_version", "base_model_name_or_path", "revision", "megatron_core", "init_lora_weights"}
    raw = {key: value for key, value in raw.items() if key in known - unused}
    try:
        return LoraConfig(**{**raw, "inference_mode": True})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: PEFT does not accept the settings ({error}).", "Save the adapter anew.") from error


def check_pins(folder: Path, identity: ModelIdentity) -> None:
    """Whether an adapter that says what it was trained on was trained on this base, tokenizer and template, with these settings.

    Raises:
        ModelError: It was not, or the settings beside its weights were changed since; named.
    """
    path = folder / SIDE_FILE
    if not path.is_file():
        return  # an adapter from elsewhere: only its keys can be checked
    try:
        side = json.loads(path.read_text(encoding="utf-8"))
        recorded = {pin: str(side["pins"].get(pin, "")) for pin in _PINNED}
        settings = side.get("files_sha256", {}).get(CONFIG_FILE)  # not in those of earlier versions
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: the side file cannot be read.", "Restore it, or remove it to use the adapter unchecked."
        ) from error
    if settings and settings != hash_file(folder / CONFIG_FILE):
        raise ModelError(
            f"{folder / CONFIG_FILE}: the settings are not those that the adapter was saved with.",
            f"Restore the file, or remove {SIDE_FILE} to use the adapter unchecked.",
        )
    for pin, what in _PINNED.items():
        here = getattr(identity, pin)
        if recorded[pin] and here and recorded[pin] != here:
            raise ModelError(
                f"{folder}: the adapter was trained on another {what} (sha256 {recorded[pin][:12]}..., here {here[:12]}...).",
                "Load it on the base it was trained on.",
            )


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"{folder}: there is no {WEIGHTS_FILE} (pickled weights are never read).", "Save it as safetensors.")
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the weights cannot be read ({error}).", "Copy the adapter again.") from error
    return tensors


def fill(wrapped: Any, folder: Path) -> None:
    """Put the weights of an adapter folder in place of a fresh adapter's, which stays as trainable as it was.

    Raises:
        ModelError: They cannot be read, or do not fit it key by key.
    """
    _fill(wrapped, _read_weights(folder), folder)


def _fill(wrapped: Any, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Put the saved tensors in place of the fresh ones; every one of both sides must find its partner, of the same shape."""
    with _quiet_peft():
        own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misshapen = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if missing or unexpected or misshapen:
        first = (missing or unexpected or misshapen)[0]
        raise ModelError(
            f"{folder}: the adapter does not fit this model: {len(missing)} weights are missing, {len(unexpected)} are "
            f"unknown, {len(misshapen)} have another shape (first: {first}).",
            "Load it on the base it was trained on.",
        )
    with _quiet_peft():
        set_peft_model_state_dict(wrapped, tensors)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without PEFT's call of a property that transformers has renamed (nothing a user could act on)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
