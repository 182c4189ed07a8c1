"""Before the first step: which way through the model is fast, and does it say what the stock model says?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.forward import supports_sharing, untrainable
from stepladder.models.prefix.paths import FusedPath, NotRead, Path, StockPath
from stepladder.models.prefix.ropes import forget_length
from stepladder.models.prefix.rows import EncodedRow, common_prefix_length

TOLERANCE_NATS = {torch.bfloat16: 0.1, torch.float16: 0.1}  # a hidden prefix or a forgotten scale costs far more
TOLERANCE_NATS_ELSE = 1e-3
ANOTHER_LOSS = "a trial on two rows gave another loss"
TRIAL_LABELS = 64
"""Learned tokens of a row that is tried, its last ones: their logits over the whole vocabulary stand in memory at once."""


@torch.no_grad()
def choose_path(model: Any, rows: Sequence[EncodedRow], note: Callable[[str], None], *, room: int | None = None) -> Path:
    """The fastest path whose losses of the shortest and the longest row are the stock model's; a slower one is said aloud.

    Args:
        model: A causal language model with its adapter in it.
        room: Tokens whose layers the fused path computes once only, None = of all; see `FusedStep`.
    Raises:
        ModelError: Even the plain path differs from the stock model (an unknown scale or cap behind its head), or no
            path can be exact.
    """
    obstacle = untrainable(model)
    if obstacle is not None:
        raise ModelError(f"{type(model).__name__} cannot be tuned: {obstacle}.", "Use another model.")
    ordered = sorted(rows, key=len)
    probe = [_cut(row) for row in (*ordered[:1], *ordered[1:][-1:])]
    stock = [_stock_nll(model, row) for row in probe]
    tolerance = TOLERANCE_NATS.get(model.dtype, TOLERANCE_NATS_ELSE)

    def agrees(path: Path) -> bool:
        found = path.row_nll(probe, tokens_per_pass=2 * len(probe[-1]))  # side by side, so that the short one is padded
        return all(abs(own - right) <= tolerance * max(1.0, abs(right)) for own, right in zip(found, stock, strict=True))

    try:
        fused = FusedPath(model, room=room)
    except NotRead as error:
        unread = str(error)
    else:
        if agrees(fused):
            return fused
        unread = ANOTHER_LOSS
    plain = StockPath(model, share=False)
    if not agrees(plain):
        raise ModelError(
            f"the loss of {type(model).__name__} cannot be computed from its last hidden states "
            f"(not the stock model's {stock[0]:.3f} nats per token).",
            "This architecture cannot be tuned yet; please report it with the model's name.",
        )
    reason = supports_sharing(model)
    shared = StockPath(model, share=True)
    if reason is None and common_prefix_length(probe) and not agrees(shared):
        reason = ANOTHER_LOSS
    if reason is not None:
        note(f"The common prompt is computed anew for every row: {type(model).__name__} cannot share it, {reason}.")
        return plain
    note(f"Training runs through the stock modules of {type(model).__name__}, which is slower: {unread}.")
    return shared


def _stock_nll(model: Any, row: EncodedRow) -> float:
    """Mean nats per learned token of one row through the stock model's own forward."""
    first = row.labelled[0]
    tokens = torch.tensor([row.token_ids], device=model.device)
    wanted = len(row) - first + 1  # from the token before the first label on
    few = {"logits_to_keep": wanted} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    forget_length(model)
    logits = model(input_ids=tokens, use_cache=False, **few).logits[0, -wanted:-1].float()
    nll = F.cross_entropy(logits, tokens[0, first:], reduction="none")
    weights = torch.tensor(row.weights[first:], device=model.device)
    return float((nll * weights).sum() / weights.sum())


def _cut(row: EncodedRow) -> EncodedRow:
    """The row with its last `TRIAL_LABELS` labels alone."""
    first = row.labelled[-TRIAL_LABELS:][0]
    return replace(row, weights=(0.0,) * first + row.weights[first:])
