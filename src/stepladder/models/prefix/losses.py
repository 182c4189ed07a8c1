"""What a step minimises, as a function of the losses of its learned tokens; passes only need its gradient there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from stepladder.models.prefix.rows import EncodedRow


@dataclass(frozen=True)
class Learned:
    """The learned tokens of a step's rows: row by row, in each in order. Tensors are (tokens,), fp64 on the CPU."""

    ids: tuple[str, ...]  # of the rows
    rows: Tensor  # number of each token's row
    weights: Tensor
    nll: Tensor  # nats; 0 where a token's pass has not run yet

    @classmethod
    def of(cls, rows: Sequence[EncodedRow]) -> Learned:
        """Before any pass has run."""
        numbers = [number for number, row in enumerate(rows) for _ in row.labelled]
        weights = [row.weights[place] for row in rows for place in row.labelled]
        return cls(
            tuple(row.id for row in rows),
            torch.tensor(numbers, dtype=torch.long),
            torch.tensor(weights, dtype=torch.float64),
            torch.zeros(len(numbers), dtype=torch.float64),
        )

    @property
    def log_probabilities(self) -> Tensor:
        """Σ weight · log p of each row's learned tokens, (rows,), in nats."""
        return torch.zeros(len(self.ids), dtype=self.nll.dtype).index_add(0, self.rows, -self.weights * self.nll)


class Loss(Protocol):
    """A number to be made small: a sum over groups of rows that stand side by side.

    Attributes:
        together: Rows of a group. A group's losses are all known before any of its rows goes back.
        linear: Its gradient does not depend on the losses, so that the head may go forward and back in one go.
        smoothing: Share of a label's target that is spread over the vocabulary; `nll` is then the loss against that target.
    """

    @property
    def together(self) -> int: ...

    @property
    def linear(self) -> bool: ...

    @property
    def smoothing(self) -> float: ...

    def __call__(self, learned: Learned) -> Tensor:
        """The loss, a scalar that can be differentiated with respect to `learned.nll`."""
        ...


@dataclass(frozen=True)
class WeightedMean:
    """Σ weight · nll / Σ weight over the step: nats per learned token."""

    together: int = 1
    linear: bool = True
    smoothing: float = 0.0

    def __call__(self, learned: Learned) -> Tensor:
        return (learned.weights * learned.nll).sum() / learned.weights.sum()


MEAN = WeightedMean()


@dataclass
class Tally:
    """The losses of a step's learned tokens as they come in, and how much each counts in `loss`."""

    rows: Sequence[EncodedRow]
    loss: Loss
    learned: Learned = field(init=False)

    def __post_init__(self) -> None:
        self.learned = Learned.of(self.rows)

    @cached_property
    def places(self) -> dict[tuple[int, int], int]:
        """Number of a learned token by its row and its place there."""
        tokens = [(number, place) for number, row in enumerate(self.rows) for place in row.labelled]
        return {token: number for number, token in enumerate(tokens)}

    def put(self, numbers: Tensor | Sequence[int], nll: Tensor) -> None:
        self.learned.nll[torch.as_tensor(numbers, dtype=torch.long)] = nll.detach().cpu().double()

    def coefficients(self) -> Tensor:
        """d loss / d nll of every learned token, (tokens,), fp64. Right for every group whose losses are all put in."""
        with torch.enable_grad():
            nll = self.learned.nll.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(replace(self.learned, nll=nll)), nll)
        return gradient

    @property
    def value(self) -> float:
        return float(self.loss(self.learned))
