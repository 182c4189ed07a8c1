"""The functions between a layer's products made by torch's compiler: each reads and writes memory once, whatever it computes.

The formulas are those of `elementwise` written plainly: all within a function stays in fp32 and is rounded once, at its end.
Compiling needs a C++ compiler and some time; what comes of it stays in the cache folder, where the next process finds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.models.catalog import cache_folder
from stepladder.models.prefix.anatomy import Anatomy
from stepladder.models.prefix.elementwise import head_views, side_by_side
from stepladder.models.prefix.kernels import PLAIN, Kernels

COMPILED_DTYPES = (torch.bfloat16, torch.float16)
"""In wider types a training is to be repeated to the last bit wherever it runs, with a C++ compiler or without."""
COMPILED_DEVICES = ("cpu",)
"""Nothing was measured on others."""
TRIAL_TOKENS = 1024  # of many: the compiler spreads work over cores only where it is much
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
TOLERANCE = 0.02  # ‖compiled - plain‖ / ‖plain‖ that rounding to 16 bits may make


class NotCompiled(Exception):
    """Why nothing was compiled, in a sentence."""


def provided_for(anatomy: Anatomy) -> bool:
    """Whether this decoder, here, is one of those that compiled kernels are for."""
    norms = (anatomy.layers[0].norm_attention, anatomy.final_norm)
    plain = anatomy.layers[0].gated and all(norm.bias is None for norm in norms)
    return plain and anatomy.dtype in COMPILED_DTYPES and anatomy.model.device.type in COMPILED_DEVICES


def compiled_kernels(anatomy: Anatomy) -> Kernels:
    """Kernels of one loop each, compiled for a decoder that they are for, and compared with the plain ones on random tokens.

    Raises:
        NotCompiled: No C++ compiler is at hand, it fails, or the results differ.
    """
    try:
        _settle_compiler()
        kernels = _kernels()
        gap = _largest_gap(kernels, anatomy)
    except Exception as error:
        # Whatever a foreign compiler may fail with: a training goes on without it.
        raise NotCompiled(f"torch's compiler failed ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from error
    if gap > TOLERANCE:
        raise NotCompiled(f"compiled and plain results differ by {gap:.0%}")
    return kernels


def _settle_compiler() -> None:
    """Compiled code goes to our cache folder unless the user has named another; no worker processes, which would stay."""
    import torch._inductor.config as config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(CACHE_VARIABLE, default_cache_dir()) == default_cache_dir():  # torch itself sets it to its default
        os.environ[CACHE_VARIABLE] = str(cache_folder() / "compiled")
    config.compile_threads = 1


@lru_cache(maxsize=1)
def _kernels() -> Kernels:
    normed = _compiled(rms_norm, (0, 0))
    back = _compiled(rms_norm_backward, (0, 0), (1, 0))
    back_beside = _compiled(rms_norm_backward_beside, (0, 0), (1, 0), (4, 0))
    opened = _compiled(open_gate, (1, 0))
    opened_back = _compiled(open_gate_backward, (1, 0), (2, 0))
    return Kernels(
        norm_forward=lambda norm, inputs: normed(inputs, norm.weight, norm.eps),
        norm_backward=lambda norm, gradient, inputs: back(gradient, inputs, norm.weight, norm.eps),
        norm_backward_beside=lambda norm, gradient, inputs, beside: back_beside(gradient, inputs, norm.weight, norm.eps, beside),
        split_heads=_compiled(split_heads, (0, 0), (1, 0), (2, 0)),
        join_heads=_compiled(join_heads, (0, 2), (1, 1), (2, 1), (3, 0), (4, 0)),
        open_forward=lambda activation, spread, gated: opened(activation, spread),
        open_backward=lambda activation, gradient, spread, gated: opened_back(activation, gradient, spread),
        name="compiled",
    )


def _compiled(function: Callable[..., Any], *tokens: tuple[int, int]) -> Callable[..., Any]:
    """`function` made one loop for any number of tokens. `tokens`: (argument, its dimension) that counts them."""
    fast = torch.compile(function)

    def call(*arguments: Any) -> Any:
        for argument, dimension in tokens:
            torch._dynamo.maybe_mark_dynamic(arguments[argument], dimension)
        return fast(*arguments)

    return call


def _largest_gap(kernels: Kernels, anatomy: Anatomy) -> float:
    """Of every kernel on random numbers of the decoder's widths: ‖compiled - plain‖ / ‖plain‖."""
    draw = torch.Generator().manual_seed(0)
    layer = anatomy.layers[0]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(anatomy.model.device, anatomy.dtype)

    hidden, heads, key_heads = len(layer.norm_attention.weight), anatomy.heads, anatomy.key_heads
    spread = sum(linear.outputs for linear in layer.mlp_in)
    positions = torch.arange(TRIAL_TOKENS, device=anatomy.model.device)
    cosines, sines = (angles[:, : angles.shape[1] // 2].to(anatomy.dtype) for angles in anatomy.rotations(positions)[layer.kind])
    inputs, gradient, beside = (random(TRIAL_TOKENS, hidden) for _ in range(3))
    projected = random(TRIAL_TOKENS, (heads + 2 * key_heads) * anatomy.head_dim)
    opened, gates = random(TRIAL_TOKENS, spread // 2), random(TRIAL_TOKENS, spread)

    def results(side: Kernels) -> Sequence[Tensor]:
        parts = PLAIN.split_heads(projected, cosines, sines, heads, key_heads)
        return (
            side.norm_forward(layer.norm_attention, inputs),
            side.norm_backward(layer.norm_attention, gradient, inputs),
            side.norm_backward_beside(layer.norm_attention, gradient, inputs, beside),
            *side.split_heads(projected, cosines, sines, heads, key_heads),
            side.join_heads(*parts, cosines, sines),
            side.open_forward(anatomy.activation, gates, layer.gated),
            side.open_backward(anatomy.activation, opened.clone(), gates, layer.gated),
        )

    pairs = zip(results(kernels), results(PLAIN), strict=True)
    return max(float((ours.float() - plain.float()).norm() / plain.float().norm()) for ours, plain in pairs)


def rms_norm(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = inputs.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()).to(inputs.dtype)


def rms_norm_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _norm_gradient(gradient, inputs, weight, eps).to(inputs.dtype)


def rms_norm_backward_beside(gradient: Tensor, inputs: Tensor, weight: Tensor, eps: float, beside: Tensor) -> Tensor:
    return (_norm_gradient(gradient, inputs, weight, eps) + beside.float()).to(inputs.dtype)


def _norm_gradient(gradient: Tensor, inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide, weighted = inputs.float(), gradient.float() * weight.float()
    root = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return root * (weighted - wide * root.square() * (weighted * wide).mean(dim=-1, keepdim=True))


def split_heads(projected: Tensor, cosines: Tensor, sines: Tensor, heads: int, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = head_views(projected, heads, key_heads)
    return (
        _turn(queries.permute(1, 2, 0, 3), cosines, sines),
        _turn(keys.permute(1, 0, 2), cosines, sines),
        values.permute(1, 0, 2).contiguous(),
    )


def join_heads(queries: Tensor, keys: Tensor, values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return side_by_side(
        _turn(queries, cosines, -sines).permute(2, 0, 1, 3),
        _turn(keys, cosines, -sines).permute(1, 0, 2),
        values.permute(1, 0, 2),
    )


def _turn(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    half = cosines.shape[-1]
    left, right = heads[..., :half].float(), heads[..., half : 2 * half].float()
    turned = [left * cosines - right * sines, right * cosines + left * sines]
    return torch.cat([*(part.to(heads.dtype) for part in turned), heads[..., 2 * half :]], dim=-1).contiguous()


def open_gate(activation: str, spread: Tensor) -> Tensor:
    gate, up = spread.float().chunk(2, dim=1)
    return (_activate(activation, gate) * up).to(spread.dtype)


def open_gate_backward(activation: str, gradient: Tensor, spread: Tensor) -> Tensor:
    gate, up = spread.float().chunk(2, dim=1)
    wide = gradient.float()
    if activation == "silu":
        share = torch.sigmoid(gate)
        opened = gate * share
        slope = share + opened * (1 - share)
        return torch.cat([wide * up * slope, wide * opened], dim=1).to(spread.dtype)
    approximate = _approximate(activation)
    to_gate = torch.ops.aten.gelu_backward(wide * up, gate, approximate=approximate)
    return torch.cat([to_gate, wide * F.gelu(gate, approximate=approximate)], dim=1).to(spread.dtype)


def _activate(activation: str, gate: Tensor) -> Tensor:
    return F.silu(gate) if activation == "silu" else F.gelu(gate, approximate=_approximate(activation))


def _approximate(activation: str) -> str:
    return "tanh" if activation == "gelu_tanh" else "none"
