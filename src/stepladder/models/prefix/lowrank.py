"""The adapters of linear layers that read the same input, as one LoRA, for training and for answering.

Their A stand side by side, and so do their B, each in its own block. Both are laid out so that the products with them, which are
narrow and bound by memory, read and write as little as they can.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import PRODUCTS, Layer, Linear, Lora


class Stacked:
    """The adapters of some linear layers, copied in the type the model computes in.

    Attributes:
        down: Aᵀ of all, (inputs, ranks).
        up: scale · Bᵀ of all, (ranks, outputs): a layer's ranks reach its own outputs only.
    """

    down: Tensor
    up: Tensor

    def __init__(self, linears: Sequence[Linear]) -> None:
        self._parts: list[tuple[Lora, slice, slice]] = []
        self._outputs = self._ranks = 0
        for linear in linears:
            if linear.lora is not None:
                ranks = len(linear.lora.down)
                outputs = slice(self._outputs, self._outputs + linear.outputs)
                self._parts.append((linear.lora, slice(self._ranks, self._ranks + ranks), outputs))
                self._ranks += ranks
            self._outputs += linear.outputs

    def __bool__(self) -> bool:
        """Whether any of the layers has an adapter."""
        return bool(self._parts)

    def refresh(self, dtype: torch.dtype) -> None:
        """Take over what the optimizer has changed."""
        first = self._parts[0][0].down
        self.down = first.new_empty((first.shape[1], self._ranks), dtype=dtype, requires_grad=False)
        self.up = first.new_zeros((self._ranks, self._outputs), dtype=dtype, requires_grad=False)
        for lora, ranks, outputs in self._parts:
            self.down[:, ranks] = lora.down.detach().t()
            self.up[ranks, outputs] = lora.up.detach().t() * lora.scale

    def accumulate(self, down: Tensor, to_down: Tensor, inputs: Tensor, gradient: Tensor) -> None:
        """Add the adapters' gradients to `grad` of their parameters.

        Args:
            down: inputs @ `down`, (tokens, ranks); `to_down`: its gradient.
            gradient: Of all outputs, (tokens, outputs).
        """
        to_up, to_inputs = down.t() @ gradient, to_down.t() @ inputs
        for lora, ranks, outputs in self._parts:
            _accumulate(lora.up, to_up[ranks, outputs].t(), lora.scale)
            _accumulate(lora.down, to_inputs[ranks], 1.0)


def stack_adapters(layer: Layer) -> dict[str, Stacked]:
    """The adapters of a decoder layer by product; products without one are left out."""
    stacked = {name: Stacked(layer.linears(name)) for name in PRODUCTS}
    return {name: one for name, one in stacked.items() if one}


def _accumulate(parameter: Tensor, gradient: Tensor, scale: float) -> None:
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(gradient, alpha=scale)
