"""A base model whose linear layers are held in 4 bits: NF4 with double quantisation, by bitsandbytes. Needs the `qlora` extra.

Source: Dettmers et al. (2023), QLoRA: Efficient finetuning of quantized LLMs, arXiv 2305.14314.
"""

from __future__ import annotations

import math
from typing import Any

import bitsandbytes
import torch
import transformers

DTYPE = "nf4"
"""How an identity names the number format; the other layers keep the one they are computed in."""


def quantisation(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    """What transformers is to do while it loads: every linear layer but the head, computed in `dtype`."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_layout(model: Any) -> None:
    """Keep bitsandbytes from laying the weights out anew.

    On a processor with AVX512-BF16 its first forward pass without gradients moves the packed weights into the order of a faster
    kernel, and nothing moves them back: who unpacks them afterwards, as every training step does, gets other numbers.
    """
    for module in four_bit_layers(model):
        module.support_avx512bf16_for_cpu = False


def four_bit_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def parameter_count(model: Any) -> int:
    """Numbers the weights stand for; packed tensors hold two to a byte."""
    return sum(
        math.prod(parameter.quant_state.shape) if getattr(parameter, "quant_state", None) is not None else parameter.numel()
        for parameter in model.parameters()
    )
