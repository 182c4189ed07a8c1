"""Exact forward passes over rows that share a prefix, with stock transformers models.

The prefix runs once; its keys and values are handed to every pass as the cache of tokens already seen, so positions,
causal masks and sliding windows are the model's own. For training, the keys and values become leaves of the passes'
graphs: each pass adds to their gradient and frees its own graph, and one backward through the prefix ends the step
(exact, because a backward pass is linear in what it is given). Memory holds one prefix and one pass, however many rows.

Rows are padded on the right without a mask: a causal model's real positions never see what comes after them. Where the
rotary embedding changes with the length of the text, only rows of one length stand side by side, and no prefix is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from stepladder.models.prefix.head import head_logits
from stepladder.models.prefix.losses import MEAN, Loss, Tally
from stepladder.models.prefix.ropes import forget_length, unsteady_rope
from stepladder.models.prefix.rows import EncodedRow, common_prefix_length, group_by_length

SHAREABLE_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
SHAREABLE_LAYER_TYPES = {"full_attention", "sliding_attention"}


def supports_sharing(model: Any) -> str | None:
    """Why rows of this architecture cannot continue from one prefix, in a sentence; None when they can."""
    config = model.config.get_text_config(decoder=True)
    if getattr(model.config, "is_encoder_decoder", False):
        return "it reads the prompt with an encoder"
    other = sorted(set(getattr(config, "layer_types", None) or ()) - SHAREABLE_LAYER_TYPES)
    if other:
        return f"its {other[0]} layers keep a state that is not keys and values per token"
    if getattr(config, "num_kv_shared_layers", 0):
        return "some of its layers reuse the keys and values of others"
    strange = [layer for layer in DynamicCache(config=config).layers if type(layer) not in SHAREABLE_LAYERS]
    if strange:
        return f"its cache keeps {type(strange[0]).__name__}, not keys and values per token"
    if _sees_ahead(config):
        return "its tokens see later tokens"
    rope = unsteady_rope(model)
    if rope is not None:
        return f"its rotary embedding is {rope}, which turns all tokens of a longer text otherwise"
    return None


def untrainable(model: Any) -> str | None:
    """Why no row of this architecture can be trained exactly, in a sentence; None when each can."""
    if _sees_ahead(model.config.get_text_config(decoder=True)):
        return "its tokens see later tokens, and so what they are to learn"
    if model.base_model is model:
        return "it does not say which of its modules is the decoder"
    return None


def _sees_ahead(config: Any) -> bool:
    return getattr(config, "is_causal", True) is False or bool(getattr(config, "use_bidirectional_attention", None))


class Prefix:
    """The tokens that all rows of a step begin with, run once.

    Attributes:
        length: Tokens of the prefix.
    """

    def __init__(self, model: Any, token_ids: Sequence[int]) -> None:
        self.length = len(token_ids)
        tokens = torch.tensor([list(token_ids)], device=model.device)
        output = model.base_model(input_ids=tokens, use_cache=True)
        self._cache = output.past_key_values
        self._roots: list[Tensor] = [part for layer in self._cache.layers for part in (layer.keys, layer.values)]
        self._leaves = [root.detach().requires_grad_(root.requires_grad) for root in self._roots]

    def fork(self, rows: int) -> Any:
        """A cache of `rows` rows that have all seen the prefix; growing it leaves the prefix as it is."""
        fork = copy.copy(self._cache)
        fork.layers = []
        for layer, keys, values in zip(self._cache.layers, self._leaves[0::2], self._leaves[1::2], strict=True):
            own = copy.copy(layer)  # keeps how many tokens a sliding window has let go of
            own.keys, own.values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
            fork.layers.append(own)
        return fork

    def backward(self) -> None:
        """Hand on to the prefix what the passes since the start left at its keys and values. Once, after the last pass."""
        reached = [(root, leaf.grad) for root, leaf in zip(self._roots, self._leaves, strict=True) if leaf.grad is not None]
        if reached:
            torch.autograd.backward([root for root, _ in reached], [grad for _, grad in reached])


@dataclass(frozen=True, slots=True)
class LabelledStates:
    """What the head needs of one pass, one entry a learned token, rows in order.

    `states` (labels, hidden) stand one position before the label; `labels`, `weights` and `rows` (number of the row in
    the pass) are (labels,).
    """

    states: Tensor
    labels: Tensor
    weights: Tensor
    rows: Tensor


def shared_forward(model: Any, rows: Sequence[EncodedRow], prefix: Prefix | None = None) -> LabelledStates:
    """One pass over `rows`, which all continue from `prefix`; without one they start at their own first token."""
    start = prefix.length if prefix is not None else 0
    own = [row.token_ids[start:] for row in rows]
    width = max(map(len, own))
    tokens = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in own], device=model.device)
    if prefix is None:
        forget_length(model)
        output = model.base_model(input_ids=tokens, use_cache=False)
    else:
        positions = torch.arange(start, start + width, device=model.device)[None].expand(len(rows), -1)
        output = model.base_model(
            input_ids=tokens, position_ids=positions, past_key_values=prefix.fork(len(rows)), use_cache=True
        )
    places = [(number, place) for number, row in enumerate(rows) for place in row.labelled]
    numbers = torch.tensor([number for number, _ in places], device=model.device)
    before = torch.tensor([place - 1 - start for _, place in places], device=model.device)
    return LabelledStates(
        states=output.last_hidden_state[numbers, before],
        labels=torch.tensor([rows[number].token_ids[place] for number, place in places], device=model.device),
        weights=torch.tensor([rows[number].weights[place] for number, place in places], device=model.device),
        rows=numbers,
    )


def token_nll(model: Any, states: LabelledStates, *, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of each label in nats, shape (labels,), in fp32 or the model's own wider type.

    Written out, because `cross_entropy` on a CPU adds up a large vocabulary one by one in fp32: with 49,000 tokens its
    gradients are ten times further from fp64 than these.

    Args:
        smoothing: As in `head.Head.nll`.
    """
    logits = head_logits(model, states.states)
    own = logits.gather(-1, states.labels[:, None])[:, 0]
    if smoothing:
        own = torch.lerp(own, logits.mean(dim=-1), smoothing)
    return logits.logsumexp(dim=-1) - own


def shared_prefix(model: Any, rows: Sequence[EncodedRow]) -> Prefix | None:
    """The common prefix of `rows`, run once; None when they share nothing that may be computed once."""
    length = common_prefix_length(rows)
    return Prefix(model, rows[0].token_ids[:length]) if length else None


def passes(
    model: Any, rows: Sequence[EncodedRow], prefix: Prefix | None, *, tokens_per_pass: int
) -> Iterator[tuple[list[int], LabelledStates]]:
    """Every row once, in groups of similar length: (row numbers, states). Turn each into gradients before the next."""
    start = prefix.length if prefix is not None else 0
    alike = unsteady_rope(model) is not None
    for group in group_by_length([len(row) - start for row in rows], tokens_per_pass, alike=alike):
        yield group, shared_forward(model, [rows[index] for index in group], prefix)


def backward_loss(model: Any, rows: Sequence[EncodedRow], *, share: bool, tokens_per_pass: int, loss: Loss = MEAN) -> float:
    """Add the gradient of `loss` over all `rows` to the trainable parameters; return that loss.

    A loss whose gradient depends on the losses costs a forward pass more.
    """
    tally = Tally(rows, loss)
    if not loss.linear:
        with torch.no_grad():
            _all_passes(model, rows, tally, None, share=share, tokens_per_pass=tokens_per_pass)
    _all_passes(model, rows, tally, tally.coefficients(), share=share, tokens_per_pass=tokens_per_pass)
    return tally.value


def _all_passes(
    model: Any, rows: Sequence[EncodedRow], tally: Tally, coefficients: Tensor | None, *, share: bool, tokens_per_pass: int
) -> None:
    """Put every token's loss into the tally; with coefficients also send Σ coefficient · nll back."""
    prefix = shared_prefix(model, rows) if share else None
    for group, states in passes(model, rows, prefix, tokens_per_pass=tokens_per_pass):
        nll = token_nll(model, states, smoothing=tally.loss.smoothing)
        numbers = [tally.places[index, place] for index in group for place in rows[index].labelled]
        tally.put(numbers, nll)
        if coefficients is not None:
            torch.autograd.backward((coefficients[numbers].to(nll) * nll).sum())
    if prefix is not None and coefficients is not None:
        prefix.backward()


@torch.no_grad()
def row_nll(model: Any, rows: Sequence[EncodedRow], *, share: bool, tokens_per_pass: int) -> list[float]:
    """Mean nats per learned token of every row, weighted, in the order given; the prefix is shared over all of them."""
    means = [0.0] * len(rows)
    prefix = shared_prefix(model, rows) if share else None
    for group, states in passes(model, rows, prefix, tokens_per_pass=tokens_per_pass):
        sums = torch.zeros(len(group), dtype=torch.float64)
        sums.index_add_(0, states.rows.cpu(), (states.weights * token_nll(model, states)).cpu().double())
        for index, value in zip(group, sums.tolist(), strict=True):
            means[index] = value / rows[index].weight
    return means
