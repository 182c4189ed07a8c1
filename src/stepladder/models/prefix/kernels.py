"""The functions between a layer's products, exchangeable: as they stand, or compiled (`compiled.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from stepladder.models.prefix import elementwise
from stepladder.models.prefix.anatomy import Norm


@dataclass(frozen=True, slots=True)
class Kernels:
    """See `elementwise` for what each does."""

    norm_forward: Callable[[Norm, Tensor], Tensor] = elementwise.norm_forward
    norm_backward: Callable[[Norm, Tensor, Tensor], Tensor] = elementwise.norm_backward
    norm_backward_beside: Callable[[Norm, Tensor, Tensor, Tensor], Tensor] = elementwise.norm_backward_beside
    split_heads: Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor, Tensor]] = elementwise.split_heads
    join_heads: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = elementwise.join_heads
    open_forward: Callable[[str, Tensor, bool], Tensor] = elementwise.open_forward
    open_backward: Callable[[str, Tensor, Tensor, bool], Tensor] = elementwise.open_backward
    name: str = ""


PLAIN = Kernels()
