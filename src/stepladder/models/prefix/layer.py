"""One decoder layer over a flat stream of tokens, forward and backward, with LoRA inside the products.

Written out instead of left to autograd: what is cheap to compute again (norms, activations) is not kept, LoRA adds to the
base's output in place, no tensor is cast per layer, and a pass holds a third of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy, Layer, Linear
from stepladder.models.prefix.attention import Attended, Past, Segment, attend, attend_backward
from stepladder.models.prefix.elementwise import head_views, side_by_side
from stepladder.models.prefix.kernels import Kernels
from stepladder.models.prefix.lowrank import Stacked


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
    downs: dict[str, Tensor | None] = field(default_factory=dict)  # x @ Aᵀ of each product


@dataclass(frozen=True, slots=True)
class Stream:
    """What all layers of a pass share: its segments, cosines and sines by kind of layer, each (tokens, half), and kernels."""

    segments: tuple[Segment, ...]
    keep_weights: bool  # of the attention, for the backward pass
    rotations: dict[str, tuple[Tensor, Tensor]]
    kernels: Kernels


def layer_forward(
    anatomy: Anatomy,
    layer: Layer,
    loras: Mapping[str, Stacked],
    entered: Tensor,
    stream: Stream,
    past: Past | None,
    *,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tape | None]:
    """(tokens, hidden) to (tokens, hidden); also the rotated keys and values, and the tape when `keep`."""
    kernels = stream.kernels
    downs: dict[str, Tensor | None] = {}
    unrotated: tuple[Tensor, Tensor] | None = None
    normed = kernels.norm_forward(layer.norm_attention, entered)
    projected, downs["attention_in"] = project(layer.attention_in, loras.get("attention_in"), normed)
    if layer.query_norm is not None and layer.key_norm is not None:
        unrotated = head_views(projected, anatomy.heads, anatomy.key_heads)[:2]
        projected = _norm_heads(anatomy, layer, kernels, projected)
    rotated, rotated_keys, kept_values = kernels.split_heads(
        projected, *stream.rotations[layer.kind], anatomy.heads, anatomy.key_heads
    )
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
    joined, downs["attention_out"] = project((layer.attention_out,), loras.get("attention_out"), mixed)
    added = joined if layer.norm_after_attention is None else kernels.norm_forward(layer.norm_after_attention, joined)
    middle = entered + added
    read = normed if layer.norm_mlp is None else kernels.norm_forward(layer.norm_mlp, middle)
    spread, downs["mlp_in"] = project(layer.mlp_in, loras.get("mlp_in"), read)
    opened = kernels.open_forward(anatomy.activation, spread, layer.gated)
    folded, downs["mlp_out"] = project((layer.mlp_out,), loras.get("mlp_out"), opened)
    added = folded if layer.norm_after_mlp is None else kernels.norm_forward(layer.norm_after_mlp, folded)
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
    loras: Mapping[str, Stacked],
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
    kernels = stream.kernels
    back = gradient
    if layer.norm_after_mlp is not None and tape.folded is not None:
        back = kernels.norm_backward(layer.norm_after_mlp, gradient, tape.folded)
    beside, middle = None, gradient
    if layer.norm_mlp is None:
        read = kernels.norm_forward(layer.norm_attention, tape.entered)
        beside = _mlp_backward(anatomy, layer, loras, tape, kernels, read, back)
    else:
        back = _mlp_backward(anatomy, layer, loras, tape, kernels, kernels.norm_forward(layer.norm_mlp, tape.middle), back)
        middle = kernels.norm_backward_beside(layer.norm_mlp, back, tape.middle, gradient)
    back = middle
    if layer.norm_after_attention is not None and tape.joined is not None:
        back = kernels.norm_backward(layer.norm_after_attention, middle, tape.joined)
    back = project_backward((layer.attention_out,), loras.get("attention_out"), tape.mixed, tape.downs["attention_out"], back)
    queries, keys, values = attend_backward(
        back, tape.attended, stream.segments, past, scaling=anatomy.scaling, window=layer.window
    )
    if passed_on is not None:
        keys, values = keys + passed_on[0].to(keys.dtype), values + passed_on[1].to(values.dtype)
    joint = kernels.join_heads(queries, keys, values, *stream.rotations[layer.kind])
    if tape.unrotated is not None and layer.query_norm is not None and layer.key_norm is not None:
        queries, keys, values = head_views(joint, anatomy.heads, anatomy.key_heads)
        queries = kernels.norm_backward(layer.query_norm, queries, tape.unrotated[0])
        keys = kernels.norm_backward(layer.key_norm, keys, tape.unrotated[1])
        joint = side_by_side(queries, keys, values)
    normed = kernels.norm_forward(layer.norm_attention, tape.entered)
    back = project_backward(layer.attention_in, loras.get("attention_in"), normed, tape.downs["attention_in"], joint)
    if beside is not None:
        back = back.add_(beside)
    return kernels.norm_backward_beside(layer.norm_attention, back, tape.entered, middle)


def _norm_heads(anatomy: Anatomy, layer: Layer, kernels: Kernels, projected: Tensor) -> Tensor:
    """Queries and keys behind their norms, where a model has them; values as they are."""
    queries, keys, values = head_views(projected, anatomy.heads, anatomy.key_heads)
    assert layer.query_norm is not None
    assert layer.key_norm is not None
    return side_by_side(
        kernels.norm_forward(layer.query_norm, queries), kernels.norm_forward(layer.key_norm, keys), values
    )  # fmt: skip


def _mlp_backward(
    anatomy: Anatomy, layer: Layer, loras: Mapping[str, Stacked], tape: Tape, kernels: Kernels, read: Tensor, gradient: Tensor
) -> Tensor:
    """Gradient of what the MLP gave to gradient of what it read."""
    opened = kernels.open_forward(anatomy.activation, tape.spread, layer.gated)
    back = project_backward((layer.mlp_out,), loras.get("mlp_out"), opened, tape.downs["mlp_out"], gradient)
    back = kernels.open_backward(anatomy.activation, back, tape.spread, layer.gated)
    return project_backward(layer.mlp_in, loras.get("mlp_in"), read, tape.downs["mlp_in"], back)


def project(linears: Sequence[Linear], lora: Stacked | None, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """All outputs side by side, (tokens, Σ outputs), and the adapters' inputs @ Aᵀ."""
    outputs = inputs.new_empty(inputs.shape[0], sum(linear.outputs for linear in linears))
    for linear, part in zip(linears, _parts(linears, outputs), strict=True):
        torch.mm(inputs, linear.weight(inputs.dtype).t(), out=part)
        if linear.bias is not None:
            part += linear.bias
    if lora is None:
        return outputs, None
    down = inputs @ lora.down
    return outputs.addmm_(down, lora.up), down


def project_backward(
    linears: Sequence[Linear], lora: Stacked | None, inputs: Tensor, down: Tensor | None, gradient: Tensor
) -> Tensor:
    """Gradient of the inputs; the adapters' gradients are added to `grad` of their parameters."""
    back: Tensor | None = None
    for linear, part in zip(linears, _parts(linears, gradient), strict=True):
        weight = linear.weight(gradient.dtype)
        back = part @ weight if back is None else back.addmm_(part, weight)
    assert back is not None
    if lora is None or down is None:
        return back
    to_down = gradient @ lora.up.t()
    lora.accumulate(down, to_down, inputs, gradient)
    return back.addmm_(to_down, lora.down.t())


def _parts(linears: Sequence[Linear], joint: Tensor) -> list[Tensor]:
    return list(torch.split(joint, [linear.outputs for linear in linears], dim=1))
