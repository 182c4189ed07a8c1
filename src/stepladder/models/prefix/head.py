"""From hidden states to the losses of labels and back, a few labels at a time in buffers that are used again.

The head of a small model is its largest matrix: 49,000 to 262,000 columns for each label. Logits of all labels at once would take
more memory than the rest of the pass, and fresh memory for each piece costs more time than the arithmetic in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepladder.models.prefix.rows import LOGITS_AT_ONCE

LABELS_A_CORE = 4
"""Logits of so many labels in fp32 stay in a core's own cache between the ten times they are read and written."""


def head_logits(model: Any, states: Tensor) -> Tensor:
    """Logits of (…, hidden) states behind the final norm, in fp32 or the model's own wider type."""
    logits: Tensor = model.get_output_embeddings()(states)
    scale, cap = logit_scale(model), logit_cap(model)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if scale == 1 else logits * scale
    return logits if cap is None else torch.tanh(logits / cap) * cap


def logit_scale(model: Any) -> float:
    """What some architectures multiply their logits by."""
    config = model.config.get_text_config(decoder=True)
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        return float(scale)
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        return 1 / float(divisor)
    return 1.0


def logit_cap(model: Any) -> float | None:
    """The bound that Gemma 2 bends its logits to."""
    cap: float | None = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return cap


@dataclass(slots=True)
class _Buffers:
    raw: Tensor  # (labels, vocabulary), in the model's type
    wide: Tensor  # fewer of them, in fp32 at least


class Head:
    """The losses of labels from their states, and the gradient at the states."""

    def __init__(self, model: Any) -> None:
        embeddings = model.get_output_embeddings()
        self.weight: Tensor = embeddings.weight.detach()  # (vocabulary, hidden)
        self.bias: Tensor | None = getattr(embeddings, "bias", None)
        self.scale, self.cap = logit_scale(model), logit_cap(model)
        self.labels_at_once = max(1, LOGITS_AT_ONCE // self.weight.shape[0])
        self._buffers: _Buffers | None = None

    def nll(
        self, states: Tensor, targets: Tensor, coefficients: Tensor | None, *, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """Nats of every label (labels,), and d Σ coefficient · nll / d states when there are coefficients.

        Args:
            states: Behind the final norm, (labels, hidden). targets: Token ids, (labels,). coefficients: (labels,).
            smoothing: With ε, a label's loss is its cross-entropy against a target of 1 - ε on the label and ε spread evenly
                over the whole vocabulary, the label included: log Σ exp(z) - (1 - ε) · z_label - ε · mean(z).
        Source:
            Szegedy et al. (2016), Rethinking the Inception architecture, section 7; as torch's `label_smoothing`.
        """
        nll = torch.empty(len(targets), dtype=torch.promote_types(states.dtype, torch.float32), device=states.device)
        gradient = None if coefficients is None else torch.empty_like(states)
        for first in range(0, len(targets), self.labels_at_once):
            piece = slice(first, min(first + self.labels_at_once, len(targets)))
            share = None if coefficients is None else coefficients[piece]
            nll[piece], back = self._piece(states[piece], targets[piece], share, smoothing)
            if gradient is not None and back is not None:
                gradient[piece] = back
        return nll, gradient

    def _piece(
        self, states: Tensor, targets: Tensor, coefficients: Tensor | None, smoothing: float
    ) -> tuple[Tensor, Tensor | None]:
        raw, wide = self._views(states)
        torch.mm(states, self.weight.t(), out=raw)
        if self.bias is not None:
            raw += self.bias
        nll = wide.new_empty(len(targets))
        for first in range(0, len(targets), len(wide)):
            piece = slice(first, min(first + len(wide), len(targets)))
            share = None if coefficients is None else coefficients[piece, None].to(wide.dtype)
            nll[piece] = self._losses(raw[piece], wide, targets[piece], share, smoothing)
        return nll, None if coefficients is None else raw @ self.weight

    def _losses(self, raw: Tensor, wide: Tensor, targets: Tensor, share: Tensor | None, smoothing: float) -> Tensor:
        """Nats of a few labels; with a `share` (labels, 1), the gradient of Σ share · nll takes the place of `raw`."""
        logits = raw if raw.dtype == wide.dtype else wide[: len(raw)].copy_(raw)
        if self.scale != 1:
            logits.mul_(self.scale)
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        bent = None if self.cap is None or share is None else logits.square().div_(-self.cap * self.cap).add_(1)
        own = logits.gather(1, targets[:, None])
        if smoothing:
            own = torch.lerp(own, logits.mean(dim=1, keepdim=True), smoothing)
        highest = logits.amax(dim=1, keepdim=True)
        sums = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
        nll = (sums.log() + highest - own)[:, 0]
        if share is None:
            return nll
        logits.mul_(share / sums)
        logits.scatter_add_(1, targets[:, None], -share * (1 - smoothing))
        if smoothing:
            logits.sub_(share * (smoothing / logits.shape[1]))
        if bent is not None:
            logits.mul_(bent)
        if self.scale != 1:
            logits.mul_(self.scale)
        if logits is not raw:
            raw.copy_(logits)
        return nll

    def _views(self, states: Tensor) -> tuple[Tensor, Tensor]:
        labels, vocabulary = len(states), self.weight.shape[0]
        if self._buffers is None or len(self._buffers.raw) < labels:
            raw = torch.empty(labels, vocabulary, dtype=states.dtype, device=states.device)
            at_once = LABELS_A_CORE * torch.get_num_threads() if raw.device.type == "cpu" else labels
            wide = raw.new_empty(min(labels, at_once), vocabulary, dtype=torch.promote_types(states.dtype, torch.float32))
            self._buffers = _Buffers(raw, wide)
        return self._buffers.raw[:labels], self._buffers.wide
