"""LoRA on a base model that others are using too: put in, saved, taken out again."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn import Linear

from stepladder.domain.errors import ModelError
from stepladder.files import write_text
from stepladder.training.presets import TrainSettings
from stepladder.training.record import SIDE_FILE

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
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
    trained_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training_before = model.training
    with torch.random.fork_rng(), _quiet_peft():
        torch.manual_seed(settings.seed)
        wrapped: Any = get_peft_model(model, lora_config(settings), autocast_adapter_dtype=True)
    wrapped.eval()  # no dropout of the base model either; gradients flow all the same
    try:
        yield wrapped
    finally:
        wrapped.unload()
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


def set_adapter_tensors(wrapped: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put saved values into the trained parameters.

    Raises:
        ModelError: The names are not exactly those of the adapter (a partly restored adapter must not go on training).
    """
    own = adapter_tensors(wrapped)
    if own.keys() != tensors.keys():
        raise ModelError(
            f"the checkpoint fits {len(own.keys() & tensors.keys())} of {len(own)} adapter tensors.",
            "Delete the folder '….checkpoints' beside the adapter to train from the start.",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def write_weights(folder: Path, wrapped: Any) -> None:
    """The adapter as plain `PeftModel.from_pretrained` loads it: its configuration and its weights."""
    with _quiet_peft():
        wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" may ask a hub
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT: another order in every process
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_papers(folder: Path, *, tokenizer_folder: Path | None, side: Mapping[str, Any], card: str) -> None:
    """What belongs beside the weights: the tokenizer with its template, the model card, the side file last."""
    for name in TOKENIZER_FILES if tokenizer_folder is not None else ():
        source = Path(tokenizer_folder or "") / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    write_text(folder / "README.md", card)
    write_text(folder / SIDE_FILE, json.dumps(side, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without PEFT's call of a property that transformers has renamed (nothing a user could act on)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
