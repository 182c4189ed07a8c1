"""Attention of one new token a row on a CPU, by the two products it stands for: torch's own is slow there in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "stepladder"
_HARMLESS = frozenset(
    {"scaling", "dropout", "is_causal", "sliding_window", "position_ids", "cache_position", "use_cache", "output_attentions"}
)
"""Settings that models hand on: obeyed here, held by the mask, or without a part in the products."""


def use_short_attention(model: Any) -> None:
    """Let a model on a CPU that runs torch's attention take ours wherever it is the same; everything else stays as it was."""
    if model.device.type == "cpu" and model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Shapes as transformers has them: `query` (rows, heads, tokens, width), `key` and `value` with fewer heads."""
    unknown = {name for name, setting in settings.items() if setting is not None} - _HARMLESS
    if query.shape[2] > 1 or query.requires_grad or settings.get("dropout") or unknown:
        attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return attended, None
    return attend_one(query, key, value, attention_mask, settings.get("scaling")), None


def attend_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Each row's one token over all keys that the mask leaves; the softmax in fp32.

    Args:
        query: (rows, heads, 1, width). Heads that share keys stand side by side.
        key: (rows, key heads, tokens, width), as `value`.
        mask: (rows, 1, 1, tokens), true or 0 where a key is seen; None sees all.
    Returns:
        (rows, 1, heads, width).
    """
    rows, heads, _, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(rows, shared, heads // shared, width)
    weights = torch.matmul(grouped, key.transpose(2, 3)).float() * (width**-0.5 if scaling is None else scaling)
    if mask is not None:
        weights = weights.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else weights + mask
    attended = torch.matmul(torch.softmax(weights, dim=-1).to(value.dtype), value)
    return attended.reshape(rows, 1, heads, value.shape[-1])
