"""Rotary embeddings whose angles change with how long the text is (longrope, dynamic NTK): a row's numbers then depend on
what it is computed with, unless nothing is kept from it and nothing longer stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

STEADY_ROPES = {"default", "linear", "llama3", "yarn", "proportional"}
"""Rotary embeddings whose angles depend on the position alone, not on how long the text has become."""


def unsteady_rope(model: Any) -> str | None:
    """The kind of rotary embedding that makes a row's numbers depend on how long it is; None without one."""
    settings = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    each = settings.values() if all(isinstance(value, Mapping) for value in settings.values()) else [settings]
    unsteady = {str(one.get("rope_type", "default")) for one in each} - STEADY_ROPES
    return min(unsteady, default=None)


@torch.no_grad()
def forget_length(model: Any) -> None:
    """Let no longer text from before reach the next rows: dynamic NTK keeps the angles of the longest one it has seen."""
    if unsteady_rope(model) is None:
        return
    states, first = torch.empty(1, device=model.device), torch.zeros((1, 1), dtype=torch.long, device=model.device)
    for rotary in [module for module in model.modules() if hasattr(module, "rope_type")]:
        kinds = rotary.rope_type if isinstance(rotary.rope_type, Mapping) else {None: rotary.rope_type}
        for layers in [layers for layers, rope in kinds.items() if "dynamic" in rope]:
            rotary(states, first, *filter(None, [layers]))  # a text of one token sets the angles back
