"""Answers with a model's own modules, many rows at a time: for models whose arithmetic is not written out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from stepladder.engines.transformers.caches import Prefix
from stepladder.engines.transformers.grammar import allowed_tokens
from stepladder.engines.transformers.heads import Head, next_tokens
from stepladder.engines.transformers.prefill import forward, prefill
from stepladder.engines.transformers.rows import Row


@torch.inference_mode()
def decode(model: Any, head: Head, prefix: Prefix, rows: Sequence[Row], *, stop_ids: frozenset[int]) -> Iterator[Row]:
    """Yield each row as it finishes, its `answer` without the end-of-turn. Drafts are left aside.

    Rows of a model whose cache is not plain must have suffixes of one length (see `is_plain`).
    """
    started = time.perf_counter()
    ready = prefill(model, head, prefix, [row.suffix for row in rows], max(row.decoding.max_new_tokens for row in rows))
    cache, states, mask, positions = ready.cache, ready.states, ready.mask, ready.next_position
    lanes = list(rows)  # lane r of every tensor belongs to lanes[r]
    live = list(rows)
    weights = [len(row.suffix) for row in rows]
    while True:
        allowed = allowed_tokens([None if row.end else row.grammar for row in lanes], head.vocabulary)
        tokens = next_tokens(head, states, lanes, allowed)
        for row, token in zip(lanes, tokens, strict=True):
            if not row.end:
                row.take(token, stop_ids)
        share_seconds(time.perf_counter() - started, live, weights)
        yield from (row for row in live if row.end)
        live = [row for row in live if not row.end]
        weights = [1] * len(live)
        if not live:
            return
        started = time.perf_counter()
        if 2 * len(live) <= len(lanes):  # finished lanes cost as much as live ones: drop them once they are half
            kept = [lane for lane, row in enumerate(lanes) if not row.end]
            index = torch.tensor(kept, device=positions.device)
            cache.batch_select_indices(index)
            mask = None if mask is None else mask[index]
            positions = positions[index]
            lanes, tokens = live, [tokens[lane] for lane in kept]
        ids = torch.tensor(tokens, device=positions.device).unsqueeze(1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones((len(lanes), 1))], dim=1)
        states = forward(model, head, cache, ids, mask, positions)[:, -1]
        positions = positions + 1


def share_seconds(seconds: float, rows: Sequence[Row], weights: Sequence[int]) -> None:
    """Add a forward's wall time to its rows, by the tokens each had in it."""
    for row, weight in zip(rows, weights, strict=True):
        row.seconds += seconds * weight / sum(weights)
