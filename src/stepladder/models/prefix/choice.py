"""The likeliest next token, and the logits of all, in fp32 also where the model computes in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Linear
from stepladder.models.prefix.head import Head, logit_cap, logit_scale
from stepladder.models.prefix.products import Product

CANDIDATES = 8
COLUMNS_AT_ONCE = 8_192  # of the vocabulary, while its weights are turned to fp32


class Chooser:
    """A model's output layer, for states behind the final norm.

    In 16 bits, two tokens whose logits differ by less than 0.06 may look alike. So the products are made in the model's own
    type, which is fast, and the best few tokens are computed again in fp32: as many as could be the likeliest.
    """

    def __init__(self, model: Any) -> None:
        output = model.get_output_embeddings()
        self._weight: Tensor = output.weight.detach()  # (vocabulary, hidden)
        bias = getattr(output, "bias", None)
        self._bias: Tensor | None = None if bias is None else bias.detach()
        self._scale, self._cap = logit_scale(model), logit_cap(model)
        self._wide = torch.promote_types(self._weight.dtype, torch.float32)
        rounded = self._weight.dtype != self._wide
        # Both sides of a comparison are rounded by half of eps at most, and once more where a bias is added.
        self._rounding = (1.1 if self._bias is None else 2.2) * torch.finfo(self._weight.dtype).eps if rounded else 0.0
        self._times = Product([Linear(output, len(self._weight), None)], joined=rounded)

    @property
    def vocabulary(self) -> int:
        return len(self._weight)

    @torch.inference_mode()
    def likeliest(self, states: Tensor, allowed: Tensor | None = None) -> list[int]:
        """The token with the highest logit for each state; of equal ones the first.

        Args:
            allowed: bool (states, vocabulary): the tokens to choose from.
        """
        if len(states) == 0:
            return []
        rough = self._times(states, None, None)
        if allowed is not None:
            rough.masked_fill_(~allowed, float("-inf"))
        if self._rounding == 0 or rough.shape[1] <= CANDIDATES:
            return [int(token) for token in self._finish(rough.to(self._wide)).argmax(dim=-1).tolist()]
        values, tokens = rough.topk(CANDIDATES)
        tokens, order = tokens.sort(dim=1)  # of equal logits the first token counts
        exact = torch.bmm(self._weight[tokens].to(self._wide), states.to(self._wide)[:, :, None])[:, :, 0]
        if self._bias is not None:
            exact += self._bias[tokens].to(self._wide)
        exact.masked_fill_(values.gather(1, order).isneginf(), float("-inf"))
        chosen: list[int] = tokens.gather(1, exact.argmax(dim=1, keepdim=True))[:, 0].tolist()
        last = values[:, -1].to(self._wide)
        error = self._rounding * torch.maximum(values[:, 0].abs(), torch.nan_to_num(last, neginf=0.0).abs())
        for row in (values[:, 0] - last <= error).nonzero()[:, 0].tolist():  # more than these could be the likeliest
            logits = self.logits(states[row : row + 1])[0]
            if allowed is not None:
                logits.masked_fill_(~allowed[row], float("-inf"))
            chosen[row] = int(logits.argmax())
        return chosen

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Of every token, (states, vocabulary), in fp32 at least."""
        wide = states.to(self._wide)
        logits = wide.new_empty((len(states), len(self._weight)))
        for first in range(0, len(self._weight), COLUMNS_AT_ONCE):
            piece = slice(first, first + COLUMNS_AT_ONCE)
            torch.mm(wide, self._weight[piece].to(self._wide).t(), out=logits[:, piece])
        if self._bias is not None:
            logits += self._bias.to(self._wide)
        return self._finish(logits)

    @torch.inference_mode()
    def log_probabilities(self, states: Tensor, tokens: Tensor) -> Tensor:
        """ln p of `tokens` (states, any number) after each state, in fp32 at least. The weights are turned to fp32 once."""
        wide = states.to(self._wide)
        total = wide.new_full((len(states),), float("-inf"))
        own = wide.new_zeros(tokens.shape)
        for first in range(0, len(self._weight), COLUMNS_AT_ONCE):
            piece = slice(first, first + COLUMNS_AT_ONCE)
            logits = torch.mm(wide, self._weight[piece].to(self._wide).t())
            if self._bias is not None:
                logits += self._bias[piece].to(self._wide)
            logits = self._finish(logits)
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
            places = tokens - first
            here = (places >= 0) & (places < logits.shape[1])
            own = torch.where(here, logits.gather(1, places.clamp(0, logits.shape[1] - 1)), own)
        return own - total[:, None]

    def _finish(self, logits: Tensor) -> Tensor:
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap


class FineLosses(Head):
    """Losses by a chooser, for answers that are scored; nothing is sent back."""

    def __init__(self, model: Any, chooser: Chooser) -> None:
        super().__init__(model)
        self._chooser = chooser

    def nll(
        self, states: Tensor, targets: Tensor, coefficients: Tensor | None, *, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        if coefficients is not None or smoothing:
            raise ValueError("these losses cannot be sent back")
        return -self._chooser.log_probabilities(states, targets[:, None])[:, 0], None
