"""Answers, many rows at a time: one forward a token for all, rows leave as they finish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from stepladder.engines.transformers.caches import Prefix
from stepladder.engines.transformers.grammar import RowGrammar
from stepladder.engines.transformers.prefill import forward, prefill


@dataclass(slots=True)
class Row:
    """One prompt on its way to an answer.

    `suffix` = its tokens after the shared prefix, at least one. `seconds` adds up its share of every forward's wall time.
    """

    index: int
    suffix: Sequence[int]
    seed: int = 0
    grammar: RowGrammar | None = None
    answer: list[int] = field(default_factory=list)
    completion_tokens: int = 0
    seconds: float = 0.0
    end: Literal["", "stop", "length"] = ""
    generator: torch.Generator | None = None


def draw_seed(seed: int, prompt_ids: Sequence[int]) -> int:
    """A row's own seed: the same for the same prompt, wherever it stands and whoever shares its batch."""
    digest = hashlib.sha256(f"{seed}:{','.join(map(str, prompt_ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.inference_mode()
def decode(
    model: Any, prefix: Prefix, rows: Sequence[Row], *, stop_ids: frozenset[int], max_new_tokens: int, temperature: float
) -> Iterator[Row]:
    """Yield each row as it finishes, its `answer` without the end-of-turn.

    Rows of a model whose cache is not plain must have suffixes of one length (see `is_plain`).
    """
    started = time.perf_counter()
    ready = prefill(model, prefix, [row.suffix for row in rows], max_new_tokens)
    cache, logits, mask, positions = ready.cache, ready.logits, ready.mask, ready.next_position
    lanes = list(rows)  # lane r of every tensor belongs to lanes[r]
    live = list(rows)
    weights = [len(row.suffix) for row in rows]
    while True:
        tokens = choose(logits, lanes, temperature)
        for row, token in zip(lanes, tokens, strict=True):
            if not row.end:
                _take(row, token, stop_ids, max_new_tokens)
        _share(time.perf_counter() - started, live, weights)
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
        logits = forward(model, cache, ids, mask, positions)[:, -1]
        positions = positions + 1


def choose(logits: torch.Tensor, lanes: Sequence[Row], temperature: float) -> list[int]:
    """The next token of every lane: the likeliest, or at a temperature a draw from its own generator."""
    logits = _obey_grammar(logits, lanes)
    if temperature == 0:
        return [int(token) for token in logits.argmax(dim=-1).tolist()]
    probabilities = torch.softmax(logits / temperature, dim=-1).cpu()
    return [_draw(probabilities[lane], row) for lane, row in enumerate(lanes)]


def _obey_grammar(logits: torch.Tensor, lanes: Sequence[Row]) -> torch.Tensor:
    if all(row.grammar is None for row in lanes):
        return logits
    everything = torch.ones(logits.shape[-1], dtype=torch.bool)
    allowed = [everything if row.end or row.grammar is None else row.grammar.allowed() for row in lanes]
    return logits.masked_fill(~torch.stack(allowed).to(logits.device), float("-inf"))


def _draw(probabilities: torch.Tensor, row: Row) -> int:
    if row.end:
        return 0  # nobody looks at a finished row's tokens
    if row.generator is None:
        row.generator = torch.Generator().manual_seed(row.seed)
    return int(torch.multinomial(probabilities, 1, generator=row.generator))


def _take(row: Row, token: int, stop_ids: frozenset[int], max_new_tokens: int) -> None:
    row.completion_tokens += 1
    if token in stop_ids:
        row.end = "stop"
        return
    row.answer.append(token)
    if row.grammar is not None:
        row.grammar.take(token)
        if row.grammar.complete:  # only the end of the turn may follow: no need to compute it
            row.end = "stop"
            return
    if row.completion_tokens >= max_new_tokens:
        row.end = "length"


def _share(seconds: float, rows: Sequence[Row], weights: Sequence[int]) -> None:
    for row, weight in zip(rows, weights, strict=True):
        row.seconds += seconds * weight / sum(weights)
