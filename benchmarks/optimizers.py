"""Does one flat buffer for all of an adapter's numbers make the optimizer's part of a step faster? Milliseconds a step, each way.

    .venv/bin/python benchmarks/optimizers.py

The numbers are those of LoRA of rank 16 on every linear layer of the starter model, in fp32, with random gradients: no model is
loaded. A step is what the training loop does behind its backward pass (norm, clipping, AdamW, gradients let go of), and
giving the gradients of one pass to the parameters. Ways are interleaved; medians are printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from training.flops import Shape
from training.systems import RANK

STARTER = Shape(layers=30, hidden=576, intermediate=1536, heads=9, key_heads=3, head_size=64, vocabulary=49_152)
STEPS, WARM_UP_STEPS = 60, 5
CLIP = 1.0
Step = Callable[[Sequence[Tensor]], None]


def adapter_shapes(shape: Shape, rank: int) -> list[tuple[int, int]]:
    """(rows, columns) of every A and B, layer by layer."""
    layer = [size for inputs, outputs, count in shape.products for size in [(rank, inputs), (outputs, rank)] * count]
    return layer * shape.layers


def separate(shapes: Sequence[tuple[int, int]], **options: bool) -> Step:
    """A parameter a matrix, as PEFT has them; gradients come and go."""
    parameters = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)

    def step(gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(gradient)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def flat(shapes: Sequence[tuple[int, int]]) -> Step:
    """One parameter and one gradient for all; each matrix and its gradient are views of them, and stay."""
    whole = torch.zeros(sum(rows * columns for rows, columns in shapes), requires_grad=True)
    whole.grad = torch.zeros_like(whole)
    pieces = whole.grad.split([rows * columns for rows, columns in shapes])
    views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    optimizer = torch.optim.AdamW([whole], lr=1e-4, fused=True)

    def step(gradients: Sequence[Tensor]) -> None:
        for view, gradient in zip(views, gradients, strict=True):
            view.add_(gradient)
        torch.nn.utils.clip_grad_norm_([whole], CLIP).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def main() -> int:
    shapes = adapter_shapes(STARTER, RANK)
    ways = {
        "a tensor each, fused": separate(shapes, fused=True),
        "a tensor each, foreach": separate(shapes, foreach=True),
        "a tensor each, one by one": separate(shapes, foreach=False),
        "one flat tensor, fused": flat(shapes),
    }
    draw = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=draw) for shape in shapes]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP_STEPS + STEPS):
        for name, step in ways.items():
            started = time.perf_counter()
            step(gradients)
            if number >= WARM_UP_STEPS:
                taken[name].append(time.perf_counter() - started)
    numbers = sum(rows * columns for rows, columns in shapes)
    print(
        f"{len(shapes)} tensors, {numbers / 1e6:.1f} million numbers, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    for name, seconds in taken.items():
        print(f"{name:<26} {1000 * median(seconds):6.1f} ms a step (best {1000 * min(seconds):.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
