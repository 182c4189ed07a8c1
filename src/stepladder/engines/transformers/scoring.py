"""How likely given completions are, by teacher forcing: what prompts and completions share is computed once.

Many prompts go through the trie that trains, where the decoder is one that can be read (`score_trie`); a single one, whose
beginning may be remembered, and any other decoder through the model's own modules (`score_batch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stepladder.engines.transformers import attention
from stepladder.engines.transformers.caches import Prefix, continue_rows, is_plain
from stepladder.engines.transformers.heads import Head
from stepladder.engines.transformers.prefill import Prefilled, forward, prefill
from stepladder.models.prefix.choice import Chooser, FineLosses
from stepladder.models.prefix.paths import FusedPath, Path, StockPath
from stepladder.models.prefix.ropes import unsteady_rope
from stepladder.models.prefix.rows import EncodedRow

LOGIT_FLOATS = 64 * 1024 * 1024  # most logits (4 bytes each) at once: 256 MiB

TRIE_TOKENS = 2_048
"""Tokens of one pass over the trie: what is held at once."""

Options = Sequence[Sequence[int]]  # completions of one prompt as token ids, the end-of-turn last


@torch.inference_mode()
def score_trie(
    model: Any, chooser: Chooser, prompts: Sequence[Sequence[int]], completions: Sequence[Options]
) -> list[list[float]]:
    """As `score_batch`, through the passes of a training step.

    Args:
        chooser: The model's output layer, which no adapter has changed.
    Raises:
        NotRead: The decoder is of no class whose arithmetic is written out.
    """
    return _by_rows(FusedPath(model, FineLosses(model, chooser)), prompts, completions)


@torch.inference_mode()
def score_batch(
    model: Any, head: Head, prefix: Prefix, suffixes: Sequence[Sequence[int]], completions: Sequence[Options]
) -> list[list[float]]:
    """Σ log p(token | prompt, tokens before) of every completion, natural log, softmax in fp32.

    Args:
        suffixes: Each prompt's tokens after the prefix; of one length when the model's cache is not plain.
        completions: For each prompt the token ids of its completions, the end-of-turn last, at least one token each.
    """
    if unsteady_rope(model) is not None:  # keys of a prompt would not be those of the prompt with its completion
        prompts = [(*prefix.ids, *suffix) for suffix in suffixes]
        return _by_rows(StockPath(model, share=False), prompts, completions)
    longest = max((len(option) - 1 for options in completions for option in options), default=0)
    most = max(1, LOGIT_FLOATS // model.config.get_text_config().vocab_size)  # positions at once
    if len(suffixes) > 1 and len(suffixes) * longest > most:
        half = len(suffixes) // 2
        return [
            *score_batch(model, head, prefix, suffixes[:half], completions[:half]),
            *score_batch(model, head, prefix, suffixes[half:], completions[half:]),
        ]
    width = max(longest, most // len(suffixes))  # positions of one row at once
    room = min(width, max(_inputs(options) for options in completions))
    ready = prefill(model, head, prefix, suffixes, room)
    most_options = max(map(len, completions))
    begun = [[option[0] for option in options] + [0] * (most_options - len(options)) for options in completions]
    firsts = torch.tensor(begun, dtype=torch.long, device=ready.states.device).view(len(begun), most_options)
    first = head.log_probabilities(ready.states, firsts).tolist()
    sums = [own[: len(options)] for own, options in zip(first, completions, strict=True)]
    if longest > 0 and _can_pack(model):
        _add_packed(model, head, ready, completions, width, sums)
    elif longest > 0:
        _add_one_by_one(model, head, ready, completions, sums)
    return sums


@torch.inference_mode()
def place_logits(model: Any, head: Head, ids: Sequence[int]) -> Iterator[torch.Tensor]:
    """Logits of the token after each of `ids`, (vocabulary,), in fp32 at least; the whole table may be gigabytes."""
    device = next(model.parameters()).device
    places = torch.arange(len(ids), device=device)
    states = head.read(model, places, input_ids=torch.tensor([list(ids)], device=device), use_cache=False)[0]
    for part in torch.split(states, max(1, LOGIT_FLOATS // head.vocabulary)):
        yield from head.logits(part)


def _by_rows(path: Path, prompts: Sequence[Sequence[int]], completions: Sequence[Options]) -> list[list[float]]:
    """Every completion behind its prompt as a row of a training step."""
    rows = [
        EncodedRow(f"{number}", (*prompt, *option), (0.0,) * len(prompt) + (1.0,) * len(option))
        for number, (prompt, options) in enumerate(zip(prompts, completions, strict=True))
        for option in options
    ]
    means = iter(path.row_nll(rows, tokens_per_pass=TRIE_TOKENS))
    return [[-next(means) * len(option) for option in options] for options in completions]


def _inputs(options: Options) -> int:
    """Tokens a forward reads to score `options`: all but each one's last."""
    return sum(len(option) - 1 for option in options)


def _can_pack(model: Any) -> bool:
    """Whether any mask may be laid over the attention."""
    return is_plain(model) and model.config.get_text_config()._attn_implementation in {"sdpa", "eager", attention.NAME}


@dataclass(frozen=True, slots=True)
class _Packed:
    """Completions side by side in their prompt's row: ids, targets, owner (place of the completion, -1 on padding), offset.

    All of shape (prompts, width); `offset` counts tokens within a completion.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    offset: torch.Tensor


def _add_packed(
    model: Any, head: Head, ready: Prefilled, completions: Sequence[Options], width: int, sums: list[list[float]]
) -> None:
    """Add log p of all tokens after the first, the completions of a prompt side by side behind its keys and values.

    A mask hides them from each other, so nothing of the prompt is copied for them.
    """
    done = [0] * len(completions)
    held = ready.cache.get_seq_length()
    while any(place < len(options) for place, options in zip(done, completions, strict=True)):
        done, packed = _pack(completions, done, width)
        if packed is None:
            continue
        logs = _log_probabilities(model, head, ready, packed, held)
        for layer in ready.cache.layers:
            layer.rewind(held)
        for row, (owners, values) in enumerate(zip(packed.owner.tolist(), logs.tolist(), strict=True)):
            for owner, value in zip(owners, values, strict=True):
                if owner >= 0:
                    sums[row][owner] += value


def _pack(completions: Sequence[Options], done: Sequence[int], width: int) -> tuple[list[int], _Packed | None]:
    """The next completions of every prompt, as many as fit into `width` tokens (one at least), and where that leaves us."""
    rows: list[list[tuple[int, int, int, int]]] = []  # id, target, owner, offset of each token
    reached = []
    for options, place in zip(completions, done, strict=True):
        row: list[tuple[int, int, int, int]] = []
        while place < len(options) and (not row or len(row) + len(options[place]) - 1 <= width):
            option = options[place]
            row += [(option[at], option[at + 1], place, at) for at in range(len(option) - 1)]
            place += 1
        rows.append(row)
        reached.append(place)
    longest = max(map(len, rows))
    if longest == 0:
        return reached, None
    padded = torch.tensor([row + [(0, 0, -1, 0)] * (longest - len(row)) for row in rows])
    return reached, _Packed(*padded.unbind(dim=2))


def _log_probabilities(model: Any, head: Head, ready: Prefilled, packed: _Packed, held: int) -> torch.Tensor:
    """log p of every packed target, (prompts, width), fp64."""
    device = ready.states.device
    rows, width = packed.ids.shape
    owner = packed.owner.to(device)
    prompt = torch.ones((rows, held), dtype=torch.long, device=device) if ready.mask is None else ready.mask
    visible = torch.cat(
        [
            prompt.bool()[:, None, :].expand(-1, width, -1),
            (owner[:, :, None] == owner[:, None, :]) & torch.ones((width, width), dtype=torch.bool, device=device).tril(),
        ],
        dim=2,
    )
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=device)
    mask = mask.masked_fill(~visible, torch.finfo(model.dtype).min).unsqueeze(1)  # added to the scores: fits every attention
    positions = ready.next_position + packed.offset.to(device)
    states = forward(model, head, ready.cache, packed.ids.to(device), mask, positions, keep=width)
    logs = head.log_probabilities(states.flatten(0, 1), packed.targets.to(device).view(-1, 1))
    return logs.view(rows, width).double()


def _add_one_by_one(model: Any, head: Head, ready: Prefilled, completions: Sequence[Options], sums: list[list[float]]) -> None:
    """As `_add_packed` for models that know only the plain causal mask: one completion a forward, on a copy of its row."""
    for prompt, options in enumerate(completions):
        for place, option in enumerate(options):
            if len(option) == 1:
                continue
            ids = torch.tensor([option[:-1]], device=ready.states.device)
            cache = continue_rows(model, ready.cache, [prompt], ids.shape[1])
            positions = ready.next_position[prompt : prompt + 1] + torch.arange(ids.shape[1], device=ids.device)
            mask = None
            if ready.mask is not None:
                mask = torch.cat([ready.mask[prompt : prompt + 1], ready.mask.new_ones((1, ids.shape[1]))], dim=1)
            states = forward(model, head, cache, ids, mask, positions, keep=ids.shape[1])[0]
            targets = torch.tensor(option[1:], device=ids.device)
            sums[prompt][place] += float(head.log_probabilities(states, targets.unsqueeze(1)).double().sum())
