"""Attention of rows that are being answered: each query sees the shared beginning, then its own row's tokens up to itself.

The shared keys and values stand once for all rows, in one product for all their queries. Both parts of the softmax are put
together at the end: Σ e^s v over the shared part plus that over the row's own, by the sum of both Σ e^s.

In 16 bits a score of 10 would be rounded by 0.03, which is felt in every weight. So the largest score of each query is found
first, and the scores are computed once more with it taken off before they are rounded: those that count are then near zero,
where rounding is fine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Side:
    """Keys (batch, dim, keys), values (batch, keys, dim), and what is added to scores (batch or 1, queries, keys): 0 or -inf."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None


def attend_rows(queries: Tensor, own: Side, shared: Side | None, scaling: float) -> Tensor:
    """Outputs like `queries`.

    Args:
        queries: (rows, key heads, queries, dim); query heads of a key head count as queries.
        own: Batch = rows · key heads. Each query sees at least one key.
        shared: Batch = key heads; its queries are those of all rows, row by row.
    """
    rows, heads, count, dim = queries.shape
    by_row = queries.reshape(rows * heads, count, dim)
    scores = _scores(by_row, own, scaling)
    top = scores.amax(dim=-1)
    if shared is None:
        output, total = _mix(by_row, own, scores, top, scaling)
        return output.div_(total[..., None]).to(queries.dtype).view(queries.shape)
    by_head = queries.transpose(0, 1).reshape(heads, rows * count, dim)
    others = _scores(by_head, shared, scaling)
    top = torch.maximum(top.view(rows, heads, count), others.amax(dim=-1).view(heads, rows, count).transpose(0, 1))
    output, total = _mix(by_row, own, scores, top.reshape(rows * heads, count), scaling)
    further, more = _mix(by_head, shared, others, top.transpose(0, 1).reshape(heads, rows * count), scaling)
    output = output.view(rows, heads, count, dim) + further.view(heads, rows, count, dim).transpose(0, 1)
    total = total.view(rows, heads, count) + more.view(heads, rows, count).transpose(0, 1)
    return output.div_(total[..., None]).to(queries.dtype)


def _scores(queries: Tensor, side: Side, scaling: float) -> Tensor:
    """(batch, queries, keys)."""
    if side.mask is not None:
        return torch.baddbmm(side.mask, queries, side.keys, alpha=scaling)
    blank = queries.new_empty((len(queries), queries.shape[1], side.keys.shape[2]))
    return torch.baddbmm(blank, queries, side.keys, beta=0, alpha=scaling)


def _mix(queries: Tensor, side: Side, scores: Tensor, top: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Σ e^(s - top) v, (batch, queries, dim), and Σ e^(s - top), (batch, queries), both in fp32 at least."""
    wide = torch.promote_types(queries.dtype, torch.float32)
    if queries.dtype == wide:
        scores = scores.sub_(top[..., None])
    else:
        start = -top[..., None].expand_as(scores) if side.mask is None else side.mask - top[..., None]
        scores = torch.baddbmm(start, queries, side.keys, alpha=scaling)
    scores = scores.exp_()
    return torch.bmm(scores, side.values).to(wide), scores.sum(dim=-1, dtype=wide)


def hidden(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Where a query must not look, from positions (…, queries) and (…, keys): what comes later, and what is too old."""
    ahead = keys[..., None, :] > queries[..., :, None]
    if window is None:
        return ahead
    return ahead | (keys[..., None, :] <= queries[..., :, None] - window)


def as_mask(unseen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(unseen.shape, dtype=dtype, device=unseen.device).masked_fill_(unseen, float("-inf"))
