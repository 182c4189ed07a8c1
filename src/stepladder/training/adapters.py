"""LoRA on a base model that others are using too: put in, saved, taken out again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save
from torch import Tensor
from torch.nn import Linear

from stepladder.domain.errors import ModelError
from stepladder.training.presets import TrainSettings

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SILENCED = "stepladder_silenced"
SCORE_BYTES = 8  # of one attention score in an eager pass: kept in bf16 and in fp32, and a mask
SCORE_BUDGET_BYTES = 2**30


def lora_config(settings: TrainSettings) -> LoraConfig:
    """LoRA on the chosen linear layers, by default all but the head.

    Without dropout: a prefix that is shared could not drop what each row drops.
    """
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        use_rslora=settings.rank_stabilised,
        target_modules=list(settings.target_modules) or "all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )


@contextmanager
def adapted(model: Any, settings: TrainSettings) -> Iterator[Any]:
    """`model` with a fresh seeded LoRA in fp32 inside; when the block ends, well or not, the base is exactly as it was.

    Raises:
        ModelError: An adapter is loaded in the model already, or a target module is none of its linear layers.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ModelError(f"{model.name_or_path or 'the model'} has an adapter loaded.", "Unload it before tuning.")
    _check_targets(model, settings.target_modules)
    with _left_as_it_is(model):
        with torch.random.fork_rng(), _quiet_peft():
            torch.manual_seed(settings.seed)
            wrapped: Any = get_peft_model(model, lora_config(settings), autocast_adapter_dtype=True)
        wrapped.eval()  # no dropout of the base model either; gradients flow all the same
        try:
            yield wrapped
        finally:
            wrapped.unload()


@contextmanager
def reloaded(model: Any, folder: Path) -> Iterator[Any]:
    """`model` with the adapter of `folder` as plain PEFT loads it, as its users will; gone again after the block."""
    with _left_as_it_is(model):
        with torch.random.fork_rng(), _quiet_peft():  # PEFT draws fresh weights before it reads the saved ones
            wrapped: Any = PeftModel.from_pretrained(model, str(folder))
        wrapped.eval()
        try:
            yield wrapped.get_base_model()
        finally:
            wrapped.unload()


@contextmanager
def _left_as_it_is(model: Any) -> Iterator[None]:
    """Afterwards the model's parameters want gradients, and its modules are in the mode, as before."""
    trained_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training_before = model.training
    try:
        yield
    finally:
        for parameter, trained in trained_before:
            parameter.requires_grad_(trained)
            parameter.grad = None
        model.train(training_before)


def _linear_layers(model: Any) -> list[str]:
    """Full names of all linear layers but the head."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, Linear) and module is not head]


def _hit(names: Sequence[str], targets: Sequence[str]) -> set[str]:
    """The names that PEFT would adapt: a target is a full name, or the end of one behind a dot."""
    return {name for name in names if any(name == target or name.endswith(f".{target}") for target in targets)}


def _check_targets(model: Any, wanted: Sequence[str]) -> None:
    """PEFT passes silently over a name that fits nothing, as long as another one does."""
    names = _linear_layers(model)
    unknown = [target for target in wanted if not _hit(names, [target])]
    if unknown:
        raise ModelError(
            f"`[rungs.lora] target_modules` names '{unknown[0]}', which is no linear layer of {type(model).__name__}.",
            f"Choose among {', '.join(sorted({name.rpartition('.')[2] for name in names}))}.",
        )


def short_targets(model: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """The same layers in as few names as may be: none for all of them, kinds where whole kinds are meant."""
    names = _linear_layers(model)
    kinds = sorted({target.rpartition(".")[2] for target in targets})
    if _hit(names, targets) == set(names):
        return ()
    return tuple(kinds if _hit(names, kinds) == _hit(names, targets) else sorted(targets))


@contextmanager
def fast_attention(model: Any, *, longest: int, tokens_per_pass: int) -> Iterator[str]:
    """The attention that trains fastest here, for the time of the block; yields its name.

    On a CPU in bf16 the backward pass of torch's fused attention is slow, and plain matrix products (softmax in fp32) win,
    as long as the scores of all layers fit in memory.
    """
    config = model.config.get_text_config(decoder=True)
    scores = config.num_hidden_layers * config.num_attention_heads * max(tokens_per_pass, longest) * longest * SCORE_BYTES
    before = model.config._attn_implementation
    eager = model.device.type == "cpu" and model.dtype == torch.bfloat16 and before == "sdpa" and scores <= SCORE_BUDGET_BYTES
    if eager:
        model.set_attn_implementation("eager")
    try:
        yield str(model.config._attn_implementation)
    finally:
        if eager:
            model.set_attn_implementation(before)


def adapter_tensors(wrapped: Any) -> dict[str, Tensor]:
    """The trained parameters by name; the tensors themselves, not copies."""
    return {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}


def tensors_read_back(loaded: Any) -> dict[str, Tensor]:
    """The LoRA matrices of a base that `reloaded` has put them into, by their names in the file of weights."""
    return {
        f"base_model.model.{name.replace('.default.weight', '.weight')}": parameter.detach()
        for name, parameter in loaded.named_parameters()
        if ".lora_" in name
    }


def set_adapter_tensors(wrapped: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put saved values into the trained parameters.

    Raises:
        ModelError: The names are not exactly those of the adapter (a partly restored adapter must not go on training).
    """
    own = adapter_tensors(wrapped)
    fitting = [name for name in own.keys() & tensors.keys() if own[name].shape == tensors[name].shape]
    if not len(own) == len(tensors) == len(fitting):
        raise ModelError(
            f"the checkpoint fits {len(fitting)} of {len(own)} adapter tensors.",
            "Move the folder '….checkpoints' beside the adapter away to train from the start.",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


@contextmanager
def silenced(wrapped: Any) -> Iterator[None]:
    """The base as it is without its adapter, for the time of the block: every B is zero.

    `is_silenced` until each has its value back, also when an interruption comes in between.
    """
    matrices = [value for name, value in adapter_tensors(wrapped).items() if ".lora_B." in name]
    before = [value.detach().clone() for value in matrices]
    setattr(wrapped, SILENCED, True)
    with torch.no_grad():
        try:
            for value in matrices:
                value.zero_()
            yield
        finally:
            for value, kept in zip(matrices, before, strict=True):
                value.copy_(kept)
            setattr(wrapped, SILENCED, False)


def is_silenced(wrapped: Any) -> bool:
    """Whether some B may be zero that was trained: such an adapter is not to be saved."""
    return bool(getattr(wrapped, SILENCED, False))


def adapter_files(wrapped: Any, base_name: str) -> dict[str, bytes]:
    """The adapter as plain `PeftModel.from_pretrained` loads it, by file name: its configuration and its weights.

    Args:
        base_name: What the configuration calls the base; PEFT itself would write where the base lies on this machine.
    """
    with _quiet_peft():
        tensors: dict[str, Tensor] = get_peft_model_state_dict(wrapped, save_embedding_layers=False)  # "auto" may ask a hub
    config = {**wrapped.peft_config["default"].to_dict(), "inference_mode": True, "base_model_name_or_path": base_name}
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    weights = save({name: value.contiguous() for name, value in tensors.items()}, metadata={"format": "pt"})
    return {CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode("utf-8"), WEIGHTS: weights}


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without PEFT's call of a property that transformers has renamed (nothing a user could act on)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
