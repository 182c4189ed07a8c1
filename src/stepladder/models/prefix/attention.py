"""Attention over a flat stream of trie nodes, forward and backward: in plain matrix products, on a GPU in torch's fused kernels.

A node's queries see the kept tokens before the pass, the nodes above it, and its own tokens up to themselves. Put side by
side these are exactly the logical positions 0, 1, 2 … of one row, so causal order and sliding windows are ordinary ones;
nothing is padded, and no row pays for another's tokens.

Query heads that share a key head stand together as rows of one product: keys and values are never repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from stepladder.models.prefix.rows import KEPT_WEIGHTS_BYTES
from stepladder.models.prefix.trie import ROOT, Node

QUERIES_AT_ONCE = 256  # scores of more do not stay in a core's cache, and half of a causal square is never needed
FUSED_DEVICES = {"cuda"}
"""Where torch's fused attention is flash attention. On a CPU its bf16 backward pass is slower than plain products."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A node in the stream: its tokens first … stop - 1, the logical place of its first, and the nodes above it in the pass."""

    first: int
    stop: int
    start: int
    above: tuple[tuple[int, int], ...]


def lay_out(trie: Sequence[Node], nodes: Sequence[int]) -> tuple[Segment, ...]:
    """The nodes of a pass one behind the other, as one flat stream."""
    placed: dict[int, Segment] = {}
    first = 0
    for number in nodes:
        node = trie[number]
        parent = placed.get(node.parent) if node.parent != ROOT else None
        above = () if parent is None else (*parent.above, (parent.first, parent.stop))
        placed[number] = Segment(first, first + len(node.token_ids), node.start, above)
        first += len(node.token_ids)
    return tuple(placed.values())


@dataclass(frozen=True, slots=True)
class Past:
    """Rotated keys and values of the kept tokens before a pass, each (key heads, tokens, head dim); where gradients gather.

    The gradients are in fp32 at least: many passes add to them.
    """

    keys: Tensor
    values: Tensor
    keys_gradient: Tensor | None = None
    values_gradient: Tensor | None = None


@dataclass(slots=True)
class Attended:
    """What backward needs: the rotated inputs and, chunk by chunk in the order of the forward pass, the softmax weights.

    `weights` is None where they took too much memory to keep, or never were (fused kernels).
    """

    queries: Tensor  # (key heads, group, tokens, head dim)
    keys: Tensor  # (key heads, tokens, head dim)
    values: Tensor
    weights: list[Tensor] | None


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    segments: Sequence[Segment],
    past: Past | None,
    *,
    scaling: float,
    window: int | None,
    keep: bool,
    keep_weights: bool,
) -> tuple[Tensor, Attended | None]:
    """Outputs (tokens, key heads · group · head dim), and what `attend_backward` needs when `keep`."""
    key_heads, group, tokens, dim = queries.shape
    output = queries.new_empty(tokens, key_heads, group, dim)
    if _is_fused(queries, window):
        for segment in segments:
            answer = _fused(*_fused_inputs(queries, keys, values, segment, past), scaling)
            output[segment.first : segment.stop] = answer.reshape(key_heads, group, -1, dim).permute(2, 0, 1, 3)
        return output.view(tokens, -1), Attended(queries, keys, values, None) if keep else None
    weights: list[Tensor] = []
    for segment in segments:
        seen_keys, seen_values = _seen(keys, values, segment, past)
        for first, stop, low, high in _chunks(segment, window):
            rows = queries[:, :, first:stop].reshape(key_heads, -1, dim)
            chunk = _weights(rows, seen_keys[:, low:high], group, _place(segment, first) - low, scaling, window)
            answer = torch.bmm(chunk, seen_values[:, low:high])
            output[first:stop] = answer.view(key_heads, group, stop - first, dim).permute(2, 0, 1, 3)
            if keep and keep_weights:
                weights.append(chunk)
    attended = Attended(queries, keys, values, weights if keep_weights else None) if keep else None
    return output.view(tokens, -1), attended


def attend_backward(
    gradient: Tensor, attended: Attended, segments: Sequence[Segment], past: Past | None, *, scaling: float, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, shaped like them; what belongs to kept tokens is added to `past`.

    Args:
        gradient: Of the output, (tokens, key heads · group · head dim).
    """
    if _is_fused(attended.queries, window):
        return _fused_backward(gradient, attended, segments, past, scaling)
    queries, keys, values = attended.queries, attended.keys, attended.values
    key_heads, group, tokens, dim = queries.shape
    wide = torch.promote_types(keys.dtype, torch.float32)
    by_head = gradient.view(tokens, key_heads, group, dim).permute(1, 2, 0, 3)
    queries_gradient = torch.empty_like(queries)
    keys_gradient, values_gradient = torch.zeros_like(keys, dtype=wide), torch.zeros_like(values, dtype=wide)
    kept = None if attended.weights is None else iter(attended.weights)
    for segment in segments:
        seen_keys, seen_values = _seen(keys, values, segment, past)
        for first, stop, low, high in _chunks(segment, window):
            rows = queries[:, :, first:stop].reshape(key_heads, -1, dim)
            if kept is not None:
                chunk = next(kept)
            else:
                chunk = _weights(rows, seen_keys[:, low:high], group, _place(segment, first) - low, scaling, window)
            answer = by_head[:, :, first:stop].reshape(key_heads, -1, dim)
            spread = torch.ops.aten._softmax_backward_data(
                torch.bmm(answer, seen_values[:, low:high].transpose(1, 2)), chunk, -1, chunk.dtype
            )
            queries_gradient[:, :, first:stop] = _product(spread, seen_keys[:, low:high], scaling).view(
                key_heads, group, stop - first, dim
            )
            to_keys = _product(spread.transpose(1, 2), rows, scaling)
            to_values = torch.bmm(chunk.transpose(1, 2), answer)
            _hand_out(to_keys, low, segment, keys_gradient, None if past is None else past.keys_gradient)
            _hand_out(to_values, low, segment, values_gradient, None if past is None else past.values_gradient)
    return queries_gradient, keys_gradient.to(keys.dtype), values_gradient.to(values.dtype)


def _is_fused(queries: Tensor, window: int | None) -> bool:
    """Sliding windows stay with plain products: for them the fused kernels would want a mask as large as the scores."""
    return queries.device.type in FUSED_DEVICES and window is None


def _fused_inputs(
    queries: Tensor, keys: Tensor, values: Tensor, segment: Segment, past: Past | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A segment's queries and all it sees: (1, heads, queries, head dim), twice (1, key heads, keys, head dim)."""
    key_heads, group, _, dim = queries.shape
    rows = queries[:, :, segment.first : segment.stop].reshape(1, key_heads * group, -1, dim)
    seen_keys, seen_values = _seen(keys, values, segment, past)
    return rows, seen_keys[None], seen_values[None]


def _fused(rows: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """The last query sees every key, the one before it all but the last, and so on."""
    order = causal_lower_right(rows.shape[2], keys.shape[2])
    return F.scaled_dot_product_attention(rows, keys, values, attn_mask=order, scale=scaling, enable_gqa=True)


def _fused_backward(
    gradient: Tensor, attended: Attended, segments: Sequence[Segment], past: Past | None, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `attend_backward`. The forward pass runs again: keys that many segments see are not kept for each of them."""
    queries, keys, values = attended.queries, attended.keys, attended.values
    key_heads, group, tokens, dim = queries.shape
    wide = torch.promote_types(keys.dtype, torch.float32)
    by_head = gradient.view(tokens, key_heads, group, dim).permute(1, 2, 0, 3)
    queries_gradient = torch.empty_like(queries)
    keys_gradient, values_gradient = torch.zeros_like(keys, dtype=wide), torch.zeros_like(values, dtype=wide)
    for segment in segments:
        span = slice(segment.first, segment.stop)
        leaves = [part.detach().requires_grad_() for part in _fused_inputs(queries, keys, values, segment, past)]
        with torch.enable_grad():
            answer = _fused(leaves[0], leaves[1], leaves[2], scaling)
        arrived = by_head[:, :, span].reshape(answer.shape)
        to_queries, to_keys, to_values = torch.autograd.grad(answer, leaves, arrived)
        queries_gradient[:, :, span] = to_queries.reshape(key_heads, group, -1, dim)
        _hand_out(to_keys[0], 0, segment, keys_gradient, None if past is None else past.keys_gradient)
        _hand_out(to_values[0], 0, segment, values_gradient, None if past is None else past.values_gradient)
    return queries_gradient, keys_gradient.to(keys.dtype), values_gradient.to(values.dtype)


def weights_fit(segments: Sequence[Segment], *, heads: int, layers: int, bytes_per_number: int) -> bool:
    """Whether the softmax weights of a pass may be kept, all layers together."""
    pairs = sum((segment.stop - segment.first) * (segment.start + segment.stop - segment.first) for segment in segments)
    return pairs * heads * layers * bytes_per_number <= KEPT_WEIGHTS_BYTES


def _place(segment: Segment, index: int) -> int:
    """Logical place of a token of the stream."""
    return segment.start + index - segment.first


def _chunks(segment: Segment, window: int | None) -> list[tuple[int, int, int, int]]:
    """(first, stop) queries of the stream and (low, high) logical places they may see, a few hundred queries at a time."""
    found = []
    for first in range(segment.first, segment.stop, QUERIES_AT_ONCE):
        stop = min(first + QUERIES_AT_ONCE, segment.stop)
        low = 0 if window is None else max(0, _place(segment, first) - window + 1)
        found.append((first, stop, low, _place(segment, stop)))
    return found


def _seen(keys: Tensor, values: Tensor, segment: Segment, past: Past | None) -> tuple[Tensor, Tensor]:
    """Keys and values at the logical places 0 … of the segment's row."""
    spans = [*segment.above, (segment.first, segment.stop)]
    if past is None and len(spans) == 1:
        return keys[:, segment.first : segment.stop], values[:, segment.first : segment.stop]
    before_keys = [] if past is None else [past.keys]
    before_values = [] if past is None else [past.values]
    return (
        torch.cat([*before_keys, *(keys[:, first:stop] for first, stop in spans)], dim=1),
        torch.cat([*before_values, *(values[:, first:stop] for first, stop in spans)], dim=1),
    )


def _hand_out(gradient: Tensor, low: int, segment: Segment, own: Tensor, kept: Tensor | None) -> None:
    """Add the gradient of logical places `low` … to those they stand for: kept tokens, nodes above, the node itself."""
    high = low + gradient.shape[1]
    place = 0 if kept is None else kept.shape[1]
    if kept is not None and low < place:
        kept[:, low : min(place, high)] += gradient[:, : min(place, high) - low]
    for first, stop in (*segment.above, (segment.first, segment.stop)):
        begin, end = max(low, place), min(high, place + stop - first)
        if begin < end:
            own[:, first + begin - place : first + end - place] += gradient[:, begin - low : end - low]
        place += stop - first


def _weights(rows: Tensor, keys: Tensor, group: int, place: int, scaling: float, window: int | None) -> Tensor:
    """Softmax weights of the queries over the keys they may see. `place`: the first query's, counted from the first key."""
    scores = _product(rows, keys.transpose(1, 2), scaling)
    _hide(scores, group, rows.shape[1] // group, place, window)
    return torch.softmax(scores, dim=-1)


def _product(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """scaling · left @ right, in one call."""
    blank = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return torch.baddbmm(blank, left, right, beta=0, alpha=scaling)


def _hide(scores: Tensor, group: int, queries: int, place: int, window: int | None) -> None:
    """Set what a query must not see to -inf."""
    shown = scores.view(scores.shape[0], group, queries, -1)
    if queries > 1:
        shown[..., place:] += _later(queries, scores.dtype, scores.device)
    if window is not None and place + queries > window:
        positions = torch.arange(place, place + queries, device=scores.device)
        too_old = torch.arange(shown.shape[-1], device=scores.device)[None] <= (positions - window)[:, None]
        shown.masked_fill_(too_old, float("-inf"))


@lru_cache(maxsize=1024)
def _later(queries: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(queries, queries): -inf above the diagonal, 0 elsewhere."""
    return torch.full((queries, queries), float("-inf"), dtype=dtype, device=device).triu(1)
