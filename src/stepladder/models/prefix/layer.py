"""One decoder layer over a flat stream of tokens, forward and backward, with LoRA inside the products.

Written out instead of left to autograd: what is cheap to compute again (norms, activations) is not kept, LoRA adds to the
base's output in place, no tensor is cast per layer, and a pass holds a third of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy, Layer, Linear, Norm
from stepladder.models.prefix.attention import Attended, Past, Segment, attend, attend_backward


@dataclass(slots=True)
class Tape:
    """What a layer's backward pass needs of its forward pass."""

    entered: Tensor  # (tokens, hidden)
    attended: Attended
    unrotated: tuple[Tensor, Tensor] | None  # queries and keys before their norms, where a model has them
    mixed: Tensor  # the attention's output
    joined: Tensor | None  # after the output projection, where a norm follows
    middle: Tensor  # (tokens, hidden), what the MLP's norm reads
    spread: Tensor  # (tokens, 2 · intermediate): gate and up; (tokens, intermediate) without a gate
    folded: Tensor | None  # after the MLP, where a norm follows
    downs: dict[str, list[Tensor | None]] = field(default_factory=dict)  # x @ Aᵀ of each linear layer


@dataclass(frozen=True, slots=True)
class Stream:
    """What all layers of a pass share: its segments, and cosines and sines by kind of layer, each (tokens, half)."""

    segments: tuple[Segment, ...]
    keep_weights: bool  # of the attention, for the backward pass
    rotations: dict[str, tuple[Tensor, Tensor]]


def layer_forward(
    anatomy: Anatomy, layer: Layer, entered: Tensor, stream: Stream, past: Past | None, *, keep: bool
) -> tuple[Tensor, tuple[Tensor, Tensor], Tape | None]:
    """(tokens, hidden) to (tokens, hidden); also the rotated keys and values, and the tape when `keep`."""
    downs: dict[str, list[Tensor | None]] = {}
    normed = norm_forward(layer.norm_attention, entered)
    projected, downs["attention_in"] = project(layer.attention_in, normed)
    queries, keys, values = _split_heads(anatomy, projected)
    unrotated = (queries, keys) if layer.query_norm is not None else None
    if layer.query_norm is not None and layer.key_norm is not None:
        queries, keys = norm_forward(layer.query_norm, queries), norm_forward(layer.key_norm, keys)
    cosines, sines = stream.rotations[layer.kind]
    rotated = rotate(queries.permute(1, 2, 0, 3), cosines, sines)
    rotated_keys = rotate(keys.permute(1, 0, 2), cosines, sines)
    kept_values = values.permute(1, 0, 2).contiguous()
    mixed, attended = attend(
        rotated,
        rotated_keys,
        kept_values,
        stream.segments,
        past,
        scaling=anatomy.scaling,
        window=layer.window,
        keep=keep,
        keep_weights=stream.keep_weights,
    )
    joined, downs["attention_out"] = project((layer.attention_out,), mixed)
    added = joined if layer.norm_after_attention is None else norm_forward(layer.norm_after_attention, joined)
    middle = entered + added
    read = normed if layer.norm_mlp is None else norm_forward(layer.norm_mlp, middle)
    spread, downs["mlp_in"] = project(layer.mlp_in, read)
    folded, downs["mlp_out"] = project((layer.mlp_out,), open_forward(anatomy.activation, spread, gated=layer.gated))
    added = folded if layer.norm_after_mlp is None else norm_forward(layer.norm_after_mlp, folded)
    tape = None
    if attended is not None:
        tape = Tape(
            entered=entered,
            attended=attended,
            unrotated=unrotated,
            mixed=mixed,
            joined=joined if layer.norm_after_attention is not None else None,
            middle=middle,
            spread=spread,
            folded=folded if layer.norm_after_mlp is not None else None,
            downs=downs,
        )
    return middle + added, (rotated_keys, kept_values), tape


def layer_backward(
    anatomy: Anatomy,
    layer: Layer,
    tape: Tape,
    stream: Stream,
    past: Past | None,
    gradient: Tensor,
    passed_on: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Gradient of the layer's output to gradient of its input; LoRA gradients are added to their parameters.

    Args:
        passed_on: Gradients that later passes left at this pass's keys and values, (key heads, tokens, head dim).
    """
    tokens = gradient.shape[0]
    back = gradient
    if layer.norm_after_mlp is not None and tape.folded is not None:
        back = norm_backward(layer.norm_after_mlp, gradient, tape.folded)
    beside, middle = None, gradient
    if layer.norm_mlp is None:
        beside = _mlp_backward(anatomy, layer, tape, norm_forward(layer.norm_attention, tape.entered), back)
    else:
        back = _mlp_backward(anatomy, layer, tape, norm_forward(layer.norm_mlp, tape.middle), back)
        middle = gradient + norm_backward(layer.norm_mlp, back, tape.middle)
    back = middle
    if layer.norm_after_attention is not None and tape.joined is not None:
        back = norm_backward(layer.norm_after_attention, middle, tape.joined)
    back = project_backward((layer.attention_out,), tape.mixed, tape.downs["attention_out"], back)
    queries, keys, values = attend_backward(
        back, tape.attended, stream.segments, past, scaling=anatomy.scaling, window=layer.window
    )
    if passed_on is not None:
        keys, values = keys + passed_on[0].to(keys.dtype), values + passed_on[1].to(values.dtype)
    cosines, sines = stream.rotations[layer.kind]
    queries, keys = rotate(queries, cosines, -sines).permute(2, 0, 1, 3), rotate(keys, cosines, -sines).permute(1, 0, 2)
    if tape.unrotated is not None and layer.query_norm is not None and layer.key_norm is not None:
        queries = norm_backward(layer.query_norm, queries, tape.unrotated[0])
        keys = norm_backward(layer.key_norm, keys, tape.unrotated[1])
    joint = torch.cat([queries.reshape(tokens, -1), keys.reshape(tokens, -1), values.permute(1, 0, 2).reshape(tokens, -1)], dim=1)
    normed = norm_forward(layer.norm_attention, tape.entered)
    back = project_backward(layer.attention_in, normed, tape.downs["attention_in"], joint)
    if beside is not None:
        back = back.add_(beside)
    return middle + norm_backward(layer.norm_attention, back, tape.entered)


def _mlp_backward(anatomy: Anatomy, layer: Layer, tape: Tape, read: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of what the MLP gave to gradient of what it read."""
    if layer.gated:
        gate, up = _halves(tape.spread)
        opened = _activate(anatomy.activation, gate)
        back = project_backward((layer.mlp_out,), opened * up, tape.downs["mlp_out"], gradient)
        back = _gate_backward(anatomy.activation, back, tape.spread, opened)
    else:
        opened = _activate(anatomy.activation, tape.spread)
        back = project_backward((layer.mlp_out,), opened, tape.downs["mlp_out"], gradient)
        back = _activate_backward(anatomy.activation, back, tape.spread, torch.empty_like(tape.spread))
    return project_backward(layer.mlp_in, read, tape.downs["mlp_in"], back)


def project(linears: Sequence[Linear], inputs: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """All outputs side by side, (tokens, Σ outputs), and each adapter's x @ Aᵀ."""
    outputs = inputs.new_empty(inputs.shape[0], sum(linear.outputs for linear in linears))
    downs: list[Tensor | None] = []
    for linear, part in zip(linears, _parts(linears, outputs), strict=True):
        torch.mm(inputs, linear.weight(inputs.dtype).t(), out=part)
        if linear.bias is not None:
            part += linear.bias
        down = None
        if linear.lora is not None:
            down = inputs @ linear.lora.down_copy.t()
            part.addmm_(down, linear.lora.up_copy.t(), alpha=linear.lora.scale)
        downs.append(down)
    return outputs, downs


def project_backward(linears: Sequence[Linear], inputs: Tensor, downs: Sequence[Tensor | None], gradient: Tensor) -> Tensor:
    """Gradient of the inputs; the adapters' gradients are added to `grad` of their parameters."""
    back: Tensor | None = None
    for linear, down, part in zip(linears, downs, _parts(linears, gradient), strict=True):
        weight = linear.weight(gradient.dtype)
        back = part @ weight if back is None else back.addmm_(part, weight)
        if linear.lora is None or down is None:
            continue
        lora = linear.lora
        to_down = (part @ lora.up_copy).mul_(lora.scale)
        back.addmm_(to_down, lora.down_copy)
        _accumulate(lora.up, part.t() @ down, lora.scale)
        _accumulate(lora.down, to_down.t() @ inputs, 1.0)
    assert back is not None
    return back


def _parts(linears: Sequence[Linear], joint: Tensor) -> list[Tensor]:
    return list(torch.split(joint, [linear.outputs for linear in linears], dim=1))


def _accumulate(parameter: Tensor, gradient: Tensor, scale: float) -> None:
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(gradient, alpha=scale)


def norm_forward(norm: Norm, inputs: Tensor) -> Tensor:
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


def _split_heads(anatomy: Anatomy, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (tokens, key heads, group, head dim), keys and values (tokens, key heads, head dim), as views."""
    tokens, heads, key_heads, dim = projected.shape[0], anatomy.heads, anatomy.key_heads, anatomy.head_dim
    queries, keys, values = torch.split(projected, [heads * dim, key_heads * dim, key_heads * dim], dim=1)
    return (
        queries.view(tokens, key_heads, heads // key_heads, dim),
        keys.view(tokens, key_heads, dim),
        values.view(tokens, key_heads, dim),
    )


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


def _halves(spread: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = spread.chunk(2, dim=1)
    return gate, up


def _activate(activation: str, gate: Tensor) -> Tensor:
    if activation == "silu":
        return F.silu(gate)
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none")


def open_forward(activation: str, spread: Tensor, *, gated: bool) -> Tensor:
    if not gated:
        return _activate(activation, spread)
    gate, up = _halves(spread)
    return _activate(activation, gate).mul_(up)


def _gate_backward(activation: str, gradient: Tensor, spread: Tensor, opened: Tensor) -> Tensor:
    """Gradient of act(gate) · up, as (tokens, 2 · intermediate); `opened` = act(gate)."""
    gate, up = _halves(spread)
    result = torch.empty_like(spread)
    to_gate, to_up = _halves(result)
    torch.mul(gradient, opened, out=to_up)
    _activate_backward(activation, gradient.mul_(up), gate, to_gate)
    return result


def _activate_backward(activation: str, gradient: Tensor, gate: Tensor, into: Tensor) -> Tensor:
    """Gradient of act(gate), written `into` a tensor of its shape."""
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(gradient, gate, grad_input=into)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        torch.ops.aten.gelu_backward.grad_input(gradient, gate, approximate=approximate, grad_input=into)
    return into
