"""Answers, many rows at a time: one forward a token for all, rows leave as they finish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers.cache_utils import DynamicCache

from stepladder.engines.transformers.caches import Prefix, continue_rows
from stepladder.engines.transformers.grammar import RowGrammar


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
    width = max(len(row.suffix) for row in rows)
    cache = continue_rows(model, prefix.cache, [0] * len(rows), width + max_new_tokens, keep=prefix.length)
    ids, mask, positions = align_right([row.suffix for row in rows], prefix.length, model)
    lanes = list(rows)  # lane r of every tensor belongs to lanes[r]
    live = list(rows)
    weights = [len(row.suffix) for row in rows]
    while True:
        started = time.perf_counter()
        logits = forward(model, cache, ids, mask, positions)
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
        if 2 * len(live) <= len(lanes):  # finished lanes cost as much as live ones: drop them once they are half
            kept = [lane for lane, row in enumerate(lanes) if not row.end]
            index = torch.tensor(kept, device=ids.device)
            cache.batch_select_indices(index)
            mask = None if mask is None else mask[index]
            positions = positions[index]
            lanes, tokens = live, [tokens[lane] for lane in kept]
        ids = torch.tensor(tokens, device=positions.device).unsqueeze(1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones((len(lanes), 1))], dim=1)
        positions = positions[:, -1:] + 1


def align_right(
    suffixes: Sequence[Sequence[int]], prefix_length: int, model: Any
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Token ids, attention mask over prefix and suffixes, and positions, padded on the left so that all rows end together.

    Returns:
        ids (rows, width); mask (rows, prefix + width), 0 on padding, or None when nothing is padded; positions (rows, width),
        counted in real tokens. What stands on padding is never seen: any id and position will do.
    """
    width = max(len(suffix) for suffix in suffixes)
    device = next(model.parameters()).device
    ids = torch.zeros((len(suffixes), width), dtype=torch.long)
    mask = torch.ones((len(suffixes), prefix_length + width), dtype=torch.long)
    positions = torch.zeros_like(ids)
    for lane, suffix in enumerate(suffixes):
        padding = width - len(suffix)
        ids[lane, padding:] = torch.tensor(suffix)
        mask[lane, prefix_length : prefix_length + padding] = 0
        positions[lane, padding:] = torch.arange(prefix_length, prefix_length + len(suffix))
    padded = any(len(suffix) < width for suffix in suffixes)
    return ids.to(device), mask.to(device) if padded else None, positions.to(device)


def forward(
    model: Any, cache: DynamicCache, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, keep: int = 1
) -> torch.Tensor:
    """Logits of the last `keep` positions in fp32: (rows, vocabulary) for 1, else (rows, keep, vocabulary); grows `cache`."""
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits
    return logits[:, -1].float() if keep == 1 else logits[:, -keep:].float()


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
