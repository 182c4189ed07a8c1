"""Weights into memory, with tokenizer, template and identity; and adapters put on a base for a while. Needs the `train` extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from stepladder.domain.errors import MissingExtra, ModelError
from stepladder.domain.protocols import ModelIdentity, Progress
from stepladder.files import hash_text
from stepladder.models.adapter import applied
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.conversation import stop_ids
from stepladder.models.hardware import choose_device, choose_dtype
from stepladder.models.manifest import ModelManifest
from stepladder.models.pull import pull_manifest
from stepladder.models.tokenizer import Tokenizer

_TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model ready to answer: in eval mode, no gradients wanted, on its device.

    `model` is transformers' own class; whoever changes it puts it back, since all rooms share it.
    """

    model: Any
    tokenizer: Tokenizer
    template: ChatTemplate
    identity: ModelIdentity
    folder: Path
    device: torch.device

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token id that ends an answer."""
        return stop_ids(self.template, self.tokenizer)

    @contextmanager
    def adapter(self, folder: Path) -> Iterator[Any]:
        """The model with the LoRA of a PEFT folder on it, for the time of the block; the base is exactly as before after it.

        Raises:
            ModelError: The folder is no safe LoRA adapter, was trained on another base, or does not fit this one key by key.
        """
        with applied(self.model, folder, self.identity) as model:
            yield model


_loaded: dict[tuple[str, str, str, str, bool], LoadedModel] = {}


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
    four_bit: bool = False,
) -> LoadedModel:
    """A model by name, fetched first if need be. The same weights on the same device in the same format are loaded once.

    Args:
        four_bit: Hold the linear layers but the head in 4 bits; they are quantised as they are read.
    Raises:
        MissingExtra: `four_bit` without bitsandbytes.
        ModelError: The model cannot be had or loaded, or has no chat template.
        UsageError: The device or the number format does not exist here.
    """
    manifest = pull_manifest(name, revision=revision, progress=progress)
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(chosen_device, dtype)
    weights = manifest.weights_sha256 + manifest.template_sha256
    key = (str(manifest.folder), weights, chosen_device, chosen_dtype, four_bit)
    if key not in _loaded:
        _loaded[key] = _load(manifest, chosen_device, chosen_dtype, four_bit=four_bit)
    return _loaded[key]


def unload_all() -> None:
    """Forget every loaded model, so that its memory is freed once nobody else holds it."""
    _loaded.clear()


def _load(manifest: ModelManifest, device: str, dtype: str, *, four_bit: bool) -> LoadedModel:
    folder = manifest.folder
    template = ChatTemplate.from_folder(folder, model=manifest.name)
    tokenizer = Tokenizer.from_folder(folder, model=manifest.name, sha256=manifest.tokenizer_sha256)
    if four_bit:
        model, parameters = _load_four_bit(folder, manifest.name, _TORCH_DTYPES[dtype], device)
    else:
        model = _load_weights(folder, manifest.name, _TORCH_DTYPES[dtype]).to(device)
        parameters = sum(parameter.numel() for parameter in model.parameters())
    model.eval()
    model.requires_grad_(False)
    if tokenizer.vocabulary_size > model.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"{manifest.name}: the tokenizer knows {tokenizer.vocabulary_size} tokens, the model only "
            f"{model.get_input_embeddings().num_embeddings}.",
            "Tokenizer and weights are from different models; download them together.",
        )
    identity = ModelIdentity(
        name=manifest.name,
        engine="transformers",
        base_sha256=hash_text(f"nf4 double {manifest.weights_sha256}") if four_bit else manifest.weights_sha256,
        tokenizer_sha256=manifest.tokenizer_sha256,
        template_sha256=manifest.template_sha256,
        parameters=parameters,
        context_tokens=int(getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", 0) or 0),
        dtype=f"nf4 ({dtype})" if four_bit else dtype,
        revision=manifest.revision,
    )
    return LoadedModel(model, tokenizer, template, identity, folder, torch.device(device))


def _load_four_bit(folder: Path, name: str, dtype: torch.dtype, device: str) -> tuple[Any, int]:
    """The model, and how many numbers its weights stand for."""
    try:
        from stepladder.models import four_bit
    except ModuleNotFoundError as error:
        raise MissingExtra("qlora", f"{error.name}, which holds weights in 4 bits,") from error
    model = _load_weights(folder, name, dtype, quantization_config=four_bit.quantisation(dtype), device_map={"": device})
    four_bit.keep_layout(model)
    return model, four_bit.parameter_count(model)


def _load_weights(folder: Path, name: str, dtype: torch.dtype, **options: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()  # our own progress is on the screen
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{name} cannot be loaded: {error}", "Check the folder, or pull it again.") from error
    absent = sorted(report["missing_keys"])
    if absent:  # transformers would fill these with random numbers and go on
        raise ModelError(
            f"{name}: {len(absent)} weights are not in the files ({', '.join(absent[:3])} ...).",
            "The files do not fit the config; download them together.",
        )
    return model
