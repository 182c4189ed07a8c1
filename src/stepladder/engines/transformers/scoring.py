"""How likely given completions are, by teacher forcing: each prompt is computed once, its completions continue from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from stepladder.engines.transformers.caches import Prefix, continue_rows
from stepladder.engines.transformers.decode import align_right, forward

LOGIT_FLOATS = 64 * 1024 * 1024  # most logits (4 bytes each) at once: 256 MiB


@torch.inference_mode()
def score_batch(
    model: Any,
    prefix: Prefix,
    suffixes: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    *,
    token_budget: int,
) -> list[list[float]]:
    """Σ log p(token | prompt, tokens before) of every completion, natural log, softmax in fp32.

    Args:
        suffixes: Each prompt's tokens after the prefix; of one length when the model's cache is not plain.
        completions: For each prompt the token ids of its completions, the end-of-turn last, at least one token each.
        token_budget: Most tokens of keys and values held for the completions at once.
    """
    width = max(len(suffix) for suffix in suffixes)
    cache = continue_rows(model, prefix.cache, [0] * len(suffixes), width, keep=prefix.length)
    ids, mask, positions = align_right(suffixes, prefix.length, model)
    first = torch.log_softmax(forward(model, cache, ids, mask, positions), dim=-1)  # (prompts, vocabulary)
    sums = [[float(first[prompt, option[0]]) for option in options] for prompt, options in enumerate(completions)]
    longer = [
        (prompt, place) for prompt, options in enumerate(completions) for place, option in enumerate(options) if len(option) > 1
    ]
    longer.sort(key=lambda pair: len(completions[pair[0]][pair[1]]))
    lengths = [len(completions[prompt][place]) - 1 for prompt, place in longer]
    for chunk in _chunks(lengths, prefix.length + width, token_budget, first.shape[-1]):
        pairs = [longer[place] for place in chunk]
        options = [completions[prompt][place] for prompt, place in pairs]
        lanes = [prompt for prompt, _ in pairs]
        branch = continue_rows(model, cache, lanes, max(lengths[place] for place in chunk))
        index = torch.tensor(lanes, device=ids.device)
        rest = _score_rest(model, branch, options, None if mask is None else mask[index], positions[index, -1:] + 1)
        for (prompt, place), value in zip(pairs, rest, strict=True):
            sums[prompt][place] += value
    return sums


def _chunks(lengths: Sequence[int], before: int, token_budget: int, vocabulary: int) -> Iterator[list[int]]:
    """Consecutive places (lengths ascending) whose keys, values and logits fit at once."""
    chunk: list[int] = []
    for place, length in enumerate(lengths):
        rows = len(chunk) + 1
        if chunk and (rows * (before + length) > token_budget or rows * length * vocabulary > LOGIT_FLOATS):
            yield chunk
            chunk = []
        chunk.append(place)
    if chunk:
        yield chunk


def _score_rest(
    model: Any, cache: Any, options: Sequence[Sequence[int]], mask: torch.Tensor | None, next_position: torch.Tensor
) -> list[float]:
    """Σ log p of every token after the first. Padding stands on the right, where causality hides it from real tokens."""
    width = max(len(option) for option in options) - 1
    ids = torch.zeros((len(options), width), dtype=torch.long)
    targets = torch.zeros_like(ids)
    real = torch.zeros((len(options), width), dtype=torch.bool)
    for lane, option in enumerate(options):
        ids[lane, : len(option) - 1] = torch.tensor(option[:-1])
        targets[lane, : len(option) - 1] = torch.tensor(option[1:])
        real[lane, : len(option) - 1] = True
    device = next_position.device
    positions = next_position + torch.arange(width, device=device)
    mask = None if mask is None else torch.cat([mask, mask.new_ones((len(options), width))], dim=1)
    logits = forward(model, cache, ids.to(device), mask, positions, keep=width).view(len(options), width, -1)
    logs = torch.log_softmax(logits, dim=-1).gather(2, targets.to(device).unsqueeze(2)).squeeze(2)
    return [float(value) for value in (logs.double() * real.to(device)).sum(dim=1).tolist()]
