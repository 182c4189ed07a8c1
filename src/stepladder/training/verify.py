"""Before the first step: does our forward pass say what the stock model says?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.forward import row_nll, supports_sharing
from stepladder.models.prefix.rows import EncodedRow, common_prefix_length

TOLERANCE_NATS = {torch.bfloat16: 0.1, torch.float16: 0.1}  # a hidden prefix or a forgotten scale costs far more
TOLERANCE_NATS_ELSE = 1e-3


@torch.no_grad()
def sharing_is_exact(model: Any, rows: Sequence[EncodedRow], note: Callable[[str], None]) -> bool:
    """Whether rows of this model may continue from a shared prefix; the plain path is said aloud.

    The two shortest rows are run three ways: by the stock model, plainly, and from their common prefix.

    Raises:
        ModelError: Even the plain path differs from the stock model (an unknown scale or cap behind its head).
    """
    probe = sorted(rows, key=len)[:2]
    stock = [_stock_nll(model, row) for row in probe]
    tolerance = TOLERANCE_NATS.get(model.dtype, TOLERANCE_NATS_ELSE)
    plain = row_nll(model, probe, share=False, tokens_per_pass=max(map(len, rows)))
    if not _close(plain, stock, tolerance):
        raise ModelError(
            f"the loss of {type(model).__name__} cannot be computed from its last hidden states "
            f"({plain[0]:.3f} against {stock[0]:.3f} nats per token).",
            "This architecture cannot be tuned yet; please report it with the model's name.",
        )
    reason = supports_sharing(model)
    if reason is None and common_prefix_length(probe):
        shared = row_nll(model, probe, share=True, tokens_per_pass=max(map(len, rows)))
        if not _close(shared, stock, tolerance):
            reason = "a trial on two rows gave another loss"
    if reason is not None:
        note(f"The common prompt is computed anew for every row: {type(model).__name__} cannot share it, {reason}.")
    return reason is None


def _stock_nll(model: Any, row: EncodedRow) -> float:
    """Mean nats per learned token of one row through the stock model's own forward."""
    tokens = torch.tensor([row.token_ids], device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
    nll = F.cross_entropy(logits, tokens[0, 1:], reduction="none")
    weights = torch.tensor(row.weights[1:], device=model.device)
    return float((nll * weights).sum() / weights.sum())


def _close(left: Sequence[float], right: Sequence[float], tolerance: float) -> bool:
    return all(abs(one - other) <= tolerance * max(1.0, abs(other)) for one, other in zip(left, right, strict=True))
