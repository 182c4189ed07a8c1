"""Attention of rows that are being answered: each query sees the shared beginning, then its own row's tokens up to itself.

The shared keys and values stand once for all rows: one pass takes all queries over them, a second one each row's queries over
its own, and both are put together by the logarithms of their sums of e^score (Dao et al. 2022, FlashAttention, §3.1). Where a
window hides shared keys from some queries, or where rows begin and a copy costs less, each row gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

SUMMING_DEVICES = {"cpu"}
"""Where torch's fused attention tells the logarithms of its sums in a form that is used here; elsewhere it is written out."""
FEW_SHARED = 128
"""Shared tokens that are copied for rows of several queries: putting two results together costs more there."""
FEW_QUERIES = 1024
"""Queries of a row up to which a mask over all keys is small beside the scores' work."""


@dataclass(frozen=True, slots=True)
class Held:
    """Rotated keys and values, each (rows, key heads, tokens, dim)."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        return self.keys.shape[2]

    def behind(self, shared: Held) -> Held:
        """With the shared ones (one row) before each row's own."""
        rows = len(self.keys)
        return Held(
            torch.cat([shared.keys.expand(rows, -1, -1, -1), self.keys], dim=2),
            torch.cat([shared.values.expand(rows, -1, -1, -1), self.values], dim=2),
        )

    def repeated(self, group: int) -> Held:
        """A key head for each query head."""
        if group == 1:
            return self
        return Held(self.keys.repeat_interleave(group, dim=1), self.values.repeat_interleave(group, dim=1))


@dataclass(frozen=True)
class Sight:
    """What the queries of rows side by side see; its masks are made when asked for, and once for all layers.

    Attributes:
        queries: Positions (rows, queries), or (1, queries) where all rows stand alike.
        shared: Keys before the rows' own.
        own: Own keys of each row.
        window: Of how many positions up to its own a query sees the keys; None = all.
    """

    queries: Tensor
    shared: int
    own: int
    window: int | None
    dtype: torch.dtype

    @cached_property
    def sees_all_shared(self) -> bool:
        return self.window is None or int(self.queries.max()) < self.window

    @cached_property
    def own_mask(self) -> Tensor | None:
        """(rows or 1, 1, queries, own keys): 0, or -inf where a key is hidden.

        None where the own keys are those of the queries, more than one, which see each other up to themselves.
        """
        square = self.own > 1 and self.queries.shape == (1, self.own)
        return None if square and (self.window is None or self.own <= self.window) else self._mask(self.shared)

    @cached_property
    def whole_mask(self) -> Tensor:
        """As `own_mask`, over the shared keys too."""
        return self._mask(0)

    def _mask(self, first: int) -> Tensor:
        positions = torch.arange(first, self.shared + self.own, device=self.queries.device)
        unseen = hidden(self.queries, positions, self.window)
        return torch.zeros(unseen.shape, dtype=self.dtype, device=unseen.device).masked_fill_(unseen, float("-inf"))[:, None]


def hidden(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Where a query must not look, from positions (…, queries) and (…, keys): what comes later, and what is too old."""
    ahead = keys[..., None, :] > queries[..., :, None]
    if window is None:
        return ahead
    return ahead | (keys[..., None, :] <= queries[..., :, None] - window)


def attend_rows(queries: Tensor, own: Held, shared: Held | None, sight: Sight, scaling: float) -> Tensor:
    """Outputs like `queries`, (rows, queries, heads, dim).

    Args:
        own: Each query sees at least one key of it. Behind what a row holds may stand anything but NaN: it is hidden.
        shared: One row, which all rows see.
    """
    if shared is None:
        return _attend(queries, own, sight.own_mask, scaling)
    if not _apart(queries, shared, sight):
        return _attend(queries, own.behind(shared), sight.whole_mask, scaling)
    output, total = _attend_own(queries, own, sight.own_mask, scaling)
    further, more = _attend_shared(queries, shared, scaling)
    wide = torch.promote_types(queries.dtype, torch.float32)
    weight = torch.sigmoid(total - more)[..., None].to(wide)
    return further.to(wide).lerp_(output.to(wide), weight).to(queries.dtype)


def _apart(queries: Tensor, shared: Held, sight: Sight) -> bool:
    """Whether shared keys and own ones are gone over one after the other."""
    if not sight.sees_all_shared:
        return False
    many = queries.shape[1] > FEW_QUERIES or shared.length > FEW_SHARED
    return queries.shape[1] == 1 or (many and queries.device.type in SUMMING_DEVICES)


def _attend(queries: Tensor, seen: Held, mask: Tensor | None, scaling: float) -> Tensor:
    """Over one set of keys; without a mask each query sees those up to its own."""
    asked, held = _by_head(queries, seen)
    output = F.scaled_dot_product_attention(asked, held.keys, held.values, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return _by_row(output, queries)


def _attend_own(queries: Tensor, own: Held, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """Outputs (rows, queries, heads, dim) and logarithms of the sums of e^score (rows, queries, heads)."""
    asked, held = _by_head(queries, own)
    output, total = _with_sums(asked, held, mask, scaling, causal=mask is None)
    return _by_row(output, queries), _by_row(total[..., None], queries)[..., 0]


def _attend_shared(queries: Tensor, shared: Held, scaling: float) -> tuple[Tensor, Tensor]:
    """As `_attend_own`: the queries of all rows and of all heads that share a key head in one product."""
    rows, count, heads, dim = queries.shape
    key_heads = shared.keys.shape[1]
    asked = queries.reshape(rows, count, key_heads, -1, dim).permute(2, 0, 1, 3, 4).reshape(1, key_heads, -1, dim)
    output, total = _with_sums(asked, shared, None, scaling, causal=False)
    sizes = (key_heads, rows, count, heads // key_heads)
    return (
        output.reshape(*sizes, dim).permute(1, 2, 0, 3, 4).reshape(queries.shape),
        total.reshape(sizes).permute(1, 2, 0, 3).reshape(rows, count, heads),
    )


def _with_sums(asked: Tensor, seen: Held, mask: Tensor | None, scaling: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Outputs (rows, heads, queries, dim) and the logarithms of their sums (rows, heads, queries).

    Args:
        causal: As many queries as keys, each of which sees those up to its own; only where torch tells its sums.
    """
    if asked.device.type in SUMMING_DEVICES:
        output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            asked, seen.keys, seen.values, 0.0, causal, attn_mask=mask, scale=scaling
        )
        return output, total
    wide = torch.promote_types(asked.dtype, torch.float32)  # in 16 bits a score of 10 would be rounded by 0.03
    scores = torch.matmul(asked.to(wide), seen.keys.to(wide).transpose(2, 3)) * scaling
    if mask is not None:
        scores += mask
    total = scores.logsumexp(dim=-1)
    return torch.matmul((scores - total[..., None]).exp_().to(asked.dtype), seen.values), total


def _by_head(queries: Tensor, seen: Held) -> tuple[Tensor, Held]:
    """Queries (rows, heads, queries, dim) and as many heads of keys.

    Heads that share a key head are further queries of it where a row has one query only; else the keys are repeated, which costs
    little beside the scores of many queries.
    """
    rows, count, heads, dim = queries.shape
    key_heads = seen.keys.shape[1]
    if count == 1:
        return queries.reshape(rows, key_heads, heads // key_heads, dim), seen
    return queries.transpose(1, 2), seen.repeated(heads // key_heads)


def _by_row(output: Tensor, queries: Tensor) -> Tensor:
    """The way back from `_by_head`: (rows, queries, heads, …)."""
    rows, count, heads, _ = queries.shape
    return output.reshape(rows, 1, heads, -1) if count == 1 else output.transpose(1, 2)
