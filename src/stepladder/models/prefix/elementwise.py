"""What a decoder layer computes between its matrix products, forward and backward: norms, rotary embeddings, activations.

As they stand they round where transformers' modules round. A training may use others in their place (`kernels.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.models.prefix.anatomy import Norm


def norm_forward(norm: Norm, inputs: Tensor) -> Tensor:
    """(…, width) to the same, normed."""
    if norm.bias is not None:
        return F.layer_norm(inputs, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    if inputs.dtype in (torch.bfloat16, torch.float16):
        return _rms_norm_rounded(norm, inputs)
    if norm.wide:
        return F.rms_norm(inputs.to(norm.weight.dtype), norm.weight.shape, norm.weight, norm.eps).to(inputs.dtype)
    return F.rms_norm(inputs, norm.weight.shape, norm.weight, norm.eps)


def _rms_norm_rounded(norm: Norm, inputs: Tensor) -> Tensor:
    """In 16 bits, rounded where transformers' modules round; torch's own rounds elsewhere, and takes several times as long."""
    wide = inputs.float()
    root = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1]).add_(norm.eps).rsqrt_()
    normed = wide.mul_(root)
    return normed.mul_(norm.weight).to(inputs.dtype) if norm.wide else normed.to(inputs.dtype).mul_(norm.weight)


def norm_backward(norm: Norm, gradient: Tensor, inputs: Tensor) -> Tensor:
    """d/dx of x · r · w with r = rsqrt(mean x² + eps): r · (g·w − x · r² · mean(g·w·x)); of a layer norm by torch's own."""
    if norm.bias is not None:
        _, mean, root = torch.native_layer_norm(inputs, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        back: Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient, inputs, norm.weight.shape, mean, root, norm.weight, norm.bias, [True, False, False]
        )[0]
        return back
    wide = torch.promote_types(inputs.dtype, torch.float32)
    width = inputs.shape[-1]
    squares = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True, dtype=wide).square_()
    root = squares.div_(width).add_(norm.eps).rsqrt_()
    weighted = (gradient.to(norm.weight.dtype) * norm.weight).to(inputs.dtype) if norm.wide else gradient * norm.weight
    along = (weighted * inputs).sum(dim=-1, keepdim=True, dtype=wide)
    share = along.mul_(root.pow(3)).div_(width).to(inputs.dtype)
    return weighted.mul_(root.to(inputs.dtype)).addcmul_(inputs, share, value=-1)


def norm_backward_beside(norm: Norm, gradient: Tensor, inputs: Tensor, beside: Tensor) -> Tensor:
    """The gradient before a norm, with that of the connection around it."""
    return beside + norm_backward(norm, gradient, inputs)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of (…, tokens, head dim) by (tokens, half); dimensions beyond the two halves stay as they are.

    Each product is rounded by itself, as transformers' modules do it.
    """
    half = cosines.shape[-1]
    rotated = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    left, right = heads[..., :half], heads[..., half : 2 * half]
    torch.mul(left, cosines, out=rotated[..., :half]).sub_(right * sines)
    torch.mul(right, cosines, out=rotated[..., half : 2 * half]).add_(left * sines)
    if 2 * half < heads.shape[-1]:
        rotated[..., 2 * half :] = heads[..., 2 * half :]
    return rotated


def split_heads(
    projected: Tensor, cosines: Tensor, sines: Tensor, heads: int, key_heads: int
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Rotated queries (key heads, group, tokens, head dim) and keys (key heads, tokens, head dim), and values like the keys."""
    queries, keys, values = head_views(projected, heads, key_heads)
    return (
        rotate(queries.permute(1, 2, 0, 3), cosines, sines),
        rotate(keys.permute(1, 0, 2), cosines, sines),
        values.permute(1, 0, 2).contiguous(),
    )


def join_heads(queries: Tensor, keys: Tensor, values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Gradients of what `split_heads` gave to that of what it was given, (tokens, all heads · head dim)."""
    return side_by_side(
        rotate(queries, cosines, -sines).permute(2, 0, 1, 3),
        rotate(keys, cosines, -sines).permute(1, 0, 2),
        values.permute(1, 0, 2),
    )


def head_views(projected: Tensor, heads: int, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (tokens, key heads, group, head dim), keys and values (tokens, key heads, head dim), as views."""
    tokens, width = projected.shape
    dim = width // (heads + 2 * key_heads)
    queries, keys, values = torch.split(projected, [heads * dim, key_heads * dim, key_heads * dim], dim=1)
    return (
        queries.view(tokens, key_heads, heads // key_heads, dim),
        keys.view(tokens, key_heads, dim),
        values.view(tokens, key_heads, dim),
    )


def side_by_side(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What `head_views` took apart, as one tensor."""
    tokens = len(queries)
    return torch.cat([part.reshape(tokens, -1) for part in (queries, keys, values)], dim=1)


def open_forward(activation: str, spread: Tensor, gated: bool) -> Tensor:
    """act(gate) · up of (tokens, 2 · intermediate), or act of (tokens, intermediate)."""
    if not gated:
        return _activate(activation, spread)
    gate, up = spread.chunk(2, dim=1)
    return _activate(activation, gate).mul_(up)


def open_backward(activation: str, gradient: Tensor, spread: Tensor, gated: bool) -> Tensor:
    """Gradient of what `open_forward` gave to that of `spread`; `gradient` may be written over."""
    result = torch.empty_like(spread)
    if not gated:
        return _activate_backward(activation, gradient, spread, result)
    gate, up = spread.chunk(2, dim=1)
    to_gate, to_up = result.chunk(2, dim=1)
    torch.mul(gradient, _activate(activation, gate), out=to_up)
    _activate_backward(activation, gradient.mul_(up), gate, to_gate)
    return result


def _activate(activation: str, gate: Tensor) -> Tensor:
    if activation == "silu":
        return F.silu(gate)
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none")


def _activate_backward(activation: str, gradient: Tensor, gate: Tensor, into: Tensor) -> Tensor:
    """Gradient of act(gate), written `into` a tensor of its shape."""
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(gradient, gate, grad_input=into)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        torch.ops.aten.gelu_backward.grad_input(gradient, gate, approximate=approximate, grad_input=into)
    return into
