"""Turn a GGUF file into a Hugging Face folder that every other part reads. Needs the `train` extra."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from stepladder.domain.errors import ModelError
from stepladder.models.gguf import GgufHeader

# Pre-tokenizers that split off every digit before the GPT-2 pattern; transformers' reader knows only the pattern, which
# gives other ids for white space before digits ("a  12").
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# Pre-tokenizers that transformers' reader builds as llama.cpp does.
_READ_RIGHT = frozenset({"gpt-2", "qwen2", "llama-bpe", "llama3", "llama-v3", "deepseek-r1-qwen", "tekken", "gpt-4o", "llama4"})
# Control tokens that end a turn or a text wherever they exist: a model that writes one has finished.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "</s>")


def dequantise(header: GgufHeader, folder: Path) -> str:
    """Write config, safetensors weights, tokenizer, chat template and generation config of a GGUF file to `folder`.

    Weights are written in fp32: a Q4_1 value is scale times four bits plus offset, which fp32 holds to the last bit
    while bf16 keeps eight bits of it and would make another model. The 270 MB it costs are read once by memory map.

    Returns:
        A warning about the tokenizer for the manifest, empty when its ids are known to be llama.cpp's.
    Raises:
        ModelError: The architecture or tokenizer cannot be read by transformers.
    """
    place, file_name = str(header.path.parent), header.path.name
    try:
        with redirect_stderr(StringIO()):  # transformers' own progress bar would cut through ours
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file_name)
            model = AutoModelForCausalLM.from_pretrained(place, gguf_file=file_name, dtype=torch.float32, **_fully())
    except (ValueError, KeyError, NotImplementedError, OSError, RuntimeError) as error:
        architecture = header.metadata.get("general.architecture", "unknown")
        raise ModelError(
            f"{header.path}: transformers cannot read this GGUF (architecture {architecture!r}): {error}",
            "Use the model's Hugging Face folder instead.",
        ) from error
    warning = _mend_pre_tokenizer(tokenizer, header)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(str(folder))
    _save_model(model, tokenizer, folder)
    return warning


def _fully() -> dict[str, Any]:
    """Ask for plain dense weights where this transformers could also keep the packed blocks."""
    settings = getattr(transformers, "GgufConfig", None)
    return {} if settings is None else {"quantization_config": settings(dequantize=True)}


def _mend_pre_tokenizer(tokenizer: Any, header: GgufHeader) -> str:
    kind = header.metadata.get("tokenizer.ggml.pre", "default")
    if header.metadata.get("tokenizer.ggml.model") != "gpt2" or kind in _READ_RIGHT:
        return ""
    if kind not in _DIGITS_FIRST:
        return f"pre-tokenizer {kind!r} is not among the checked ones: token ids may differ from llama.cpp's"
    backend: Tokenizer = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment,unused-ignore]
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    return ""


def _save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    # The weights are dense now; what says otherwise would make every later load unpack them again.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    vocabulary = tokenizer.get_vocab()
    stops = [model.config.eos_token_id] + [vocabulary[token] for token in _END_TOKENS if token in vocabulary]
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=list(dict.fromkeys(stop for stop in stops if stop is not None)),
        pad_token_id=model.config.pad_token_id,
    )
    with redirect_stderr(StringIO()):
        model.save_pretrained(str(folder), safe_serialization=True)
