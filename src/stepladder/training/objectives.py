"""What a training makes small: functions of the log-probabilities of learned tokens, and what belongs to each.

A new objective is one class here: how the losses of a step's rows become one number, and how held-out rows are judged.
Everything else (tries, passes, checkpoints, stopping) is shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.domain.errors import ModelError
from stepladder.files import hash_file
from stepladder.models.adapter import WEIGHTS_FILE, fill
from stepladder.models.prefix.losses import Learned, Loss, WeightedMean
from stepladder.models.prefix.paths import Path
from stepladder.models.prefix.rows import EncodedRow


class Objective(Protocol):
    """What is made small, and by what a training is stopped."""

    @property
    def loss(self) -> Loss: ...

    @property
    def pins(self) -> Mapping[str, Any]:
        """What the adapter depends on besides rows, base and settings; `objective` names this one."""
        ...

    @property
    def loss_at_start(self) -> float | None:
        """The loss of every group before the first step, where it is known without asking the model."""
        ...

    def prepare(self, wrapped: Any) -> None:
        """Put the adapter where the training starts from; it comes fresh."""
        ...

    def begin(self, path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> Objective:
        """The objective with what it must know of all rows, held-out ones too, while the adapter is as it starts."""
        ...

    def judge(self, path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> list[float]:
        """The loss of every group of held-out rows, in order."""
        ...


@dataclass(frozen=True)
class Sft:
    """Supervised: nats per learned token, Σ weight · nll / Σ weight over the rows of a step.

    Labels may be smoothed while training; held-out rows are judged by the plain loss.
    """

    smoothing: float = 0.0
    start: FilePath | None = None  # an adapter folder to go on from

    @property
    def loss(self) -> Loss:
        return WeightedMean(smoothing=self.smoothing)

    @property
    def pins(self) -> Mapping[str, Any]:
        begun = {} if self.start is None else {"start_sha256": hash_file(self.start / WEIGHTS_FILE)}
        return {"objective": "sft", **begun}

    @property
    def loss_at_start(self) -> None:
        return None

    def prepare(self, wrapped: Any) -> None:
        if self.start is not None:
            fill(wrapped, self.start)

    def begin(self, path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> Sft:
        return self

    def judge(self, path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> list[float]:
        return path.row_nll(rows, tokens_per_pass=tokens_per_pass)


def dpo_losses(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Loss of each pair, (rows / 2,): -log σ(β · (what the policy gained on the chosen row - what it gained on the rejected)).

    Args:
        policy, reference: Log-probability of each whole answer in nats, (rows,): chosen and rejected by turns.
    Source:
        Rafailov et al. (2023), Direct Preference Optimization, arXiv 2305.18290, equation 7.
    """
    gained = policy - reference
    return F.softplus(-beta * (gained[0::2] - gained[1::2]))


@dataclass(frozen=True)
class DpoLoss:
    """The mean of `dpo_losses` over the pairs of a step."""

    beta: float
    reference: Mapping[str, float]  # by row
    together: int = 2
    linear: bool = False
    smoothing: float = 0.0

    def __call__(self, learned: Learned) -> Tensor:
        reference = torch.tensor([self.reference[id] for id in learned.ids], dtype=torch.float64)
        return dpo_losses(learned.log_probabilities, reference, self.beta).mean()


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimisation from an adapter that is also, frozen, its reference.

    Rows come in pairs, chosen and rejected by turns. The reference's log-probabilities are computed once, before the first
    step, by the path that trains.
    """

    beta: float
    start: FilePath  # the adapter folder
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> Loss:
        return DpoLoss(self.beta, self.reference)

    @property
    def pins(self) -> Mapping[str, Any]:
        return {"objective": "dpo", "beta": self.beta, "start_sha256": hash_file(self.start / WEIGHTS_FILE)}

    @property
    def loss_at_start(self) -> float:
        return math.log(2)  # policy and reference are one

    def prepare(self, wrapped: Any) -> None:
        fill(wrapped, self.start)

    def begin(self, path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> Dpo:
        found = log_probabilities(path, rows, tokens_per_pass=tokens_per_pass)
        return replace(self, reference={row.id: value for row, value in zip(rows, found.tolist(), strict=True)})

    def judge(self, path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> list[float]:
        if not rows:
            return []
        policy = log_probabilities(path, rows, tokens_per_pass=tokens_per_pass)
        reference = torch.tensor([self.reference[row.id] for row in rows], dtype=torch.float64)
        losses: list[float] = dpo_losses(policy, reference, self.beta).tolist()
        return losses


def log_probabilities(path: Path, rows: Sequence[EncodedRow], *, tokens_per_pass: int) -> Tensor:
    """Σ weight · log p of the learned tokens of each row, (rows,), fp64, in nats."""
    means = path.row_nll(rows, tokens_per_pass=tokens_per_pass)
    return torch.tensor([-mean * row.weight for mean, row in zip(means, rows, strict=True)], dtype=torch.float64)


def check_pairs(rows: Sequence[EncodedRow]) -> None:
    """Whether the rows are pairs that say something: two different answers to one prompt, chosen and rejected by turns.

    Raises:
        ModelError: A pair's answers are equal, so that nothing is preferred; named.
    """
    for chosen, rejected in zip(rows[0::2], rows[1::2], strict=True):
        if chosen.token_ids == rejected.token_ids:
            raise ModelError(
                f"preference row {chosen.id} has the same answer twice.",
                "Give two answers of which one is better, or drop the row.",
            )
