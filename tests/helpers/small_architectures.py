"""Small random decoders of every class whose arithmetic is written out, and of some that are not."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING

VOCAB = 61
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LOCAL = ["sliding_attention", "full_attention", "sliding_attention"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-without-groups": {"num_key_value_heads": 4},
    "mistral": {"sliding_window": 7},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 6, "layer_types": LOCAL, "query_pre_attn_scalar": 8},
    "phi3": {"partial_rotary_factor": 0.5},
    "phi": {"partial_rotary_factor": 0.5, "hidden_act": "gelu_new", "num_key_value_heads": 4},
}
STOCK: dict[str, dict[str, Any]] = {
    "gpt_neox": {},
    "olmo2": {},
    "starcoder2": {"sliding_window": 7},
}
"""Answered with their own modules."""
UNSTEADY: dict[str, dict[str, Any]] = {
    "phi3-longrope": {
        "original_max_position_embeddings": 20,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 1.0,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0, 4.0, 5.0, 6.0],
            "original_max_position_embeddings": 20,
            "factor": 6.4,
        },
    },
    "llama-dynamic": {
        "max_position_embeddings": 20,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0},
    },
    "gemma3_text-dynamic": {
        "max_position_embeddings": 20,
        "sliding_window": 6,
        "layer_types": LOCAL,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0},
        },
    },
}
"""Rotary embeddings that turn all tokens otherwise where a text has more than 20."""


def build(architecture: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    """A random model, always the same."""
    settings = {**SIZES, **(ARCHITECTURES | STOCK | UNSTEADY)[architecture], **sizes}
    config = CONFIG_MAPPING[architecture.split("-")[0]](**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).to(dtype).eval()
