"""Prompts into keys and values: after the shared prefix, each row's own tokens, computed in groups of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from stepladder.engines.transformers.caches import Prefix, continue_rows, is_plain
from stepladder.engines.transformers.heads import Head
from stepladder.models.prefix.ropes import forget_length

SMALLEST_GROUP = 4  # rows; below it, reading the weights once more costs more than the padding saved
SHORTEST_IN_GROUP = 0.85  # of the group's longest row


@dataclass(slots=True)
class Prefilled:
    """Rows whose prompts are computed.

    `states` (rows, width) are what the head reads the first answer token from; `mask` (rows, tokens held) is 0 on padding,
    None without any; `next_position` (rows, 1) counts real tokens.
    """

    cache: DynamicCache
    states: torch.Tensor
    mask: torch.Tensor | None
    next_position: torch.Tensor


def prefill(model: Any, head: Head, prefix: Prefix, suffixes: Sequence[Sequence[int]], room: int) -> Prefilled:
    """Compute every row's own tokens after the prefix; all rows end at the same slot of the cache, padding before them.

    Args:
        suffixes: At least one token each; all of one length when the model's cache is not plain.
        room: Tokens the rows will still add.
    """
    forget_length(model)
    width = max(len(suffix) for suffix in suffixes)
    device = next(model.parameters()).device
    lengths = torch.tensor([len(suffix) for suffix in suffixes])
    slots = torch.arange(prefix.length + width)
    padding = (slots >= prefix.length) & (slots < prefix.length + width - lengths[:, None])
    mask = (~padding).long().to(device) if bool(padding.any()) else None
    next_position = (prefix.length + lengths[:, None]).to(device)
    groups = _groups(lengths.tolist()) if is_plain(model) else [list(range(len(suffixes)))]
    if len(groups) == 1:
        cache, states = _compute(model, head, prefix, suffixes, room)
        return Prefilled(cache, states, mask, next_position)
    cache = continue_rows(model, prefix.held, [0] * len(suffixes), width + room, keep=prefix.length)
    parts = []
    for group in groups:
        part, states = _compute(model, head, prefix, [suffixes[row] for row in group], 0)
        lanes = torch.tensor(group, device=device)
        span = {"rows": len(suffixes), "start": prefix.length, "end": prefix.length + width}
        for layer, computed in zip(cache.layers, part.layers, strict=True):
            own = slice(prefix.length, None)
            layer.place(computed.keys[:, :, own], computed.values[:, :, own], lanes=lanes, **span)
        parts.append(states)
    order = torch.tensor([row for group in groups for row in group], device=device)
    return Prefilled(cache, torch.cat(parts)[order.argsort()], mask, next_position)


def forward(
    model: Any,
    head: Head,
    cache: DynamicCache,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor,
    keep: int = 1,
) -> torch.Tensor:
    """What the head reads at the last `keep` positions, (rows, keep, width); `cache` grows by the tokens given."""
    last = torch.arange(ids.shape[1] - keep, ids.shape[1], device=ids.device)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    return head.read(model, last, **inputs, use_cache=True)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of like length together, the longest first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        group = groups[-1] if groups else []
        if not group or (len(group) >= SMALLEST_GROUP and lengths[row] < SHORTEST_IN_GROUP * lengths[group[0]]):
            groups.append([row])
        else:
            group.append(row)
    return groups


def _compute(
    model: Any, head: Head, prefix: Prefix, suffixes: Sequence[Sequence[int]], room: int
) -> tuple[DynamicCache, torch.Tensor]:
    """One forward over rows padded on the left. What stands on padding is never seen: any id and position will do."""
    width = max(len(suffix) for suffix in suffixes)
    device = next(model.parameters()).device
    ids = torch.zeros((len(suffixes), width), dtype=torch.long)
    mask = torch.ones((len(suffixes), prefix.length + width), dtype=torch.long)
    positions = torch.zeros_like(ids)
    for row, suffix in enumerate(suffixes):
        padding = width - len(suffix)
        ids[row, padding:] = torch.tensor(suffix)
        mask[row, prefix.length : prefix.length + padding] = 0
        positions[row, padding:] = torch.arange(prefix.length, prefix.length + len(suffix))
    padded = any(len(suffix) < width for suffix in suffixes)
    cache = continue_rows(model, prefix.held, [0] * len(suffixes), width + room, keep=prefix.length)
    states = forward(model, head, cache, ids.to(device), mask.to(device) if padded else None, positions.to(device))
    return cache, states[:, -1]
