"""The matrix products of a decoder layer for answering: linear layers that read the same input as one, with LoRA on top.

Rows of different adapters may stand in one product: every adapter's A and B are stacked along the rank, and a row's share of the
ranks that are not its own is set to zero. What is zero adds nothing, so a row's answer is that of its own adapter, and a row
without one gets the base's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import PRODUCTS, Anatomy, Linear
from stepladder.models.prefix.lowrank import Stacked
from stepladder.models.shape import LAID_OUT_BYTES


@dataclass(frozen=True, slots=True)
class LowRank:
    """LoRA on one product: A (ranks, inputs), B with its scale (outputs, ranks), and whose each rank is (ranks,)."""

    down: Tensor
    up: Tensor
    owners: Tensor


Voice = tuple[Mapping[str, LowRank], ...]
"""An adapter's share in every layer, by product; or that of several adapters, stacked."""


class Product:
    """One or several linear layers of the same input, their outputs side by side."""

    def __init__(self, linears: Sequence[Linear], *, joined: bool) -> None:
        weights = [linear.module.weight.detach() for linear in linears]
        biases = [linear.bias for linear in linears]
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            filled = [
                weight.new_zeros(len(weight)) if bias is None else bias.detach()
                for weight, bias in zip(weights, biases, strict=True)
            ]
            self.bias = torch.cat(filled)
        self._times = _joined_times(weights) if joined else _times(weights)

    def __call__(self, inputs: Tensor, low_rank: LowRank | None, speakers: Tensor | None) -> Tensor:
        """(tokens, inputs) to (tokens, Σ outputs).

        Args:
            speakers: The adapter of every token (tokens,); None when all tokens have the same.
        """
        outputs = self._times(inputs)
        if self.bias is not None:
            outputs += self.bias
        if low_rank is not None:
            down = inputs @ low_rank.down.t()
            if speakers is not None:
                down = down * (speakers[:, None] == low_rank.owners)
            outputs.addmm_(down, low_rank.up.t())
        return outputs


def layer_products(anatomy: Anatomy) -> tuple[dict[str, Product], ...]:
    """The products of every layer by name."""
    linears = [linear for layer in anatomy.layers for name in PRODUCTS for linear in layer.linears(name)]
    held = sum(linear.module.weight.numel() * linear.module.weight.element_size() for linear in linears)
    joined = held <= LAID_OUT_BYTES  # larger ones are read as they are
    return tuple({name: Product(layer.linears(name), joined=joined) for name in PRODUCTS} for layer in anatomy.layers)


def weights_plain(anatomy: Anatomy) -> bool:
    """Whether all weights are numbers of the model's own type, not quantised ones."""
    linears = [linear for layer in anatomy.layers for name in PRODUCTS for linear in layer.linears(name)]
    return all(linear.module.weight.dtype == anatomy.dtype for linear in linears)


def read_voice(anatomy: Anatomy) -> Voice:
    """The adapter that stands on a model, copied: what comes of the model's own modules later does not change it."""
    return tuple(
        {
            name: low_rank
            for name in PRODUCTS
            if (low_rank := _low_rank(layer.linears(name), anatomy.dtype)) is not None
        }
        for layer in anatomy.layers
    )  # fmt: skip


def stack(voices: Sequence[Voice | None]) -> Voice | None:
    """Several adapters as one, rank behind rank; number i in `voices` is the owner of its ranks. None when none has any."""
    there = [(number, voice) for number, voice in enumerate(voices) if voice is not None]
    if not there:
        return None
    layers = []
    for layer in range(len(there[0][1])):
        stacked: dict[str, LowRank] = {}
        for name in PRODUCTS:
            found = [(number, voice[layer][name]) for number, voice in there if name in voice[layer]]
            if found:
                stacked[name] = LowRank(
                    torch.cat([one.down for _, one in found]),
                    torch.cat([one.up for _, one in found], dim=1),
                    torch.cat([torch.full_like(one.owners, number) for number, one in found]),
                )
        layers.append(stacked)
    return tuple(layers)


def _low_rank(linears: Sequence[Linear], dtype: torch.dtype) -> LowRank | None:
    """The LoRA of linear layers side by side; each one's ranks reach its own outputs only."""
    stacked = Stacked(linears)
    if not stacked:
        return None
    stacked.refresh(dtype)
    owners = torch.zeros(len(stacked.up), dtype=torch.long, device=stacked.up.device)
    return LowRank(stacked.down.t(), stacked.up.t(), owners)


def _joined_times(weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    weight = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return lambda inputs: torch.mm(inputs, weight.t())
    # oneDNN multiplies in a layout of its own, and would bring the whole weight into it again for every product: with few rows
    # that costs as much as the product. torch's compiler keeps weights in that layout by the same two calls.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return lambda inputs: torch.ops.mkldnn._linear_pointwise(inputs, packed, None, "none", [], "")


def _times(weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    if len(weights) == 1:
        return lambda inputs: torch.mm(inputs, weights[0].t())
    return lambda inputs: torch.cat([torch.mm(inputs, weight.t()) for weight in weights], dim=1)
