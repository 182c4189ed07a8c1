"""What a decoder is made of, read from a transformers model: projections, norms, heads, windows.

Only classes whose arithmetic is known are read. The first step of a training compares the result with the stock model all
the same (`training/verify.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepladder.models.prefix.ropes import unsteady_rope

FAMILIES = {
    "LlamaDecoderLayer": "llama",
    "MistralDecoderLayer": "llama",
    "Qwen2DecoderLayer": "llama",
    "Qwen3DecoderLayer": "llama",
    "Phi3DecoderLayer": "llama",
    "Gemma3DecoderLayer": "gemma",
    "PhiDecoderLayer": "phi",
}
PRODUCTS = ("attention_in", "attention_out", "mlp_in", "mlp_out")
ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
}


class NotRead(Exception):
    """Why a model cannot be run by its anatomy, in a sentence."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Both matrices of an adapter on one linear layer."""

    down: Tensor  # A, (rank, inputs), fp32
    up: Tensor  # B, (outputs, rank), fp32
    scale: float


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer: `module` holds the frozen weight (outputs, inputs), perhaps quantised."""

    module: Any
    outputs: int
    lora: Lora | None

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.module.bias
        return bias

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weight to compute with; a quantised one is unpacked anew each time, so that it never takes memory for long."""
        weight = self.module.weight
        state = getattr(weight, "quant_state", None)
        if state is None:
            return weight  # type: ignore[no-any-return]
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Norm:
    """Root-mean-square norm: x · rsqrt(mean x² + eps) · weight. `wide`: the weight is applied before rounding (Gemma).

    With a `bias` it is a layer norm: of x less its mean, and the bias added (Phi).
    """

    weight: Tensor
    eps: float
    wide: bool = False
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    attention_in: tuple[Linear, ...]  # query, key, value; or one for all three
    attention_out: Linear
    mlp_in: tuple[Linear, ...]  # gate, up; or one for both; without a gate, up alone
    mlp_out: Linear
    norm_attention: Norm
    norm_mlp: Norm | None  # None: the MLP stands beside the attention and reads what it reads
    norm_after_attention: Norm | None
    norm_after_mlp: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    window: int | None  # tokens a query sees, itself included; None = all before it
    kind: str  # the layer's type, for the rotary embedding
    gated: bool = True  # the MLP: act(gate) · up; else act(up)

    def linears(self, product: str) -> tuple[Linear, ...]:
        """The linear layers of one of `PRODUCTS`, all of which read the same input."""
        found = getattr(self, product)
        return found if isinstance(found, tuple) else (found,)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A decoder, as far as its arithmetic goes."""

    model: Any  # the causal language model
    layers: tuple[Layer, ...]
    heads: int
    key_heads: int
    head_dim: int
    scaling: float
    activation: str
    final_norm: Norm
    dtype: torch.dtype

    @property
    def loras(self) -> list[Lora]:
        linears = [linear for layer in self.layers for product in PRODUCTS for linear in layer.linears(product)]
        return [linear.lora for linear in linears if linear.lora is not None]

    def embed(self, token_ids: Tensor) -> Tensor:
        """(tokens,) ids to (tokens, hidden), with the scale that some models put on it."""
        embedded: Tensor = self.model.get_input_embeddings()(token_ids)
        return embedded

    def rotations(self, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines, each (tokens, rotated dimensions), for every kind of layer."""
        rotary = self.model.base_model.rotary_emb
        probe = torch.empty(1, device=positions.device, dtype=self.dtype)
        kinds = {layer.kind for layer in self.layers}
        if hasattr(rotary, "layer_types"):
            found = {kind: rotary(probe, positions[None], kind) for kind in kinds}
        else:
            found = dict.fromkeys(kinds, rotary(probe, positions[None]))
        return {kind: (cosines[0], sines[0]) for kind, (cosines, sines) in found.items()}


def read_anatomy(model: Any) -> Anatomy:
    """The anatomy of a causal language model, its one LoRA adapter included.

    Raises:
        NotRead: Its layers are of no known class, or use something that is not provided for; said in a sentence.
    """
    base = model.base_model
    config = model.config.get_text_config(decoder=True)
    stock = list(getattr(base, "layers", ()))[: config.num_hidden_layers]
    strange = sorted({type(layer).__name__ for layer in stock} - FAMILIES.keys())
    if not stock or strange:
        raise NotRead(f"its layers are of class {strange[0] if strange else type(base).__name__}")
    for name in ("attn_logit_softcapping", "num_kv_shared_layers", "use_bidirectional_attention", "qk_layernorm"):
        if getattr(config, name, None):
            raise NotRead(f"it sets `{name}`")
    rope = unsteady_rope(model)
    if rope is not None:
        raise NotRead(f"its rotary embedding is {rope}")
    family = FAMILIES[type(stock[0]).__name__]
    final_norm = getattr(base, "final_layernorm" if family == "phi" else "norm", None)
    if final_norm is None:
        raise NotRead("it has no final norm")
    heads = config.num_attention_heads
    attention = stock[0].self_attn
    return Anatomy(
        model=model,
        layers=tuple(
            _read_phi_layer(layer) if family == "phi" else _read_layer(layer, family, config, number)
            for number, layer in enumerate(stock)
        ),
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=attention.head_dim,
        scaling=float(attention.scaling),
        activation=_activation(stock[0].mlp),
        final_norm=_norm(final_norm, family),
        dtype=model.get_input_embeddings().weight.dtype,
    )


def _read_layer(layer: Any, family: str, config: Any, number: int) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    gemma = family == "gemma"
    joint = hasattr(attention, "qkv_proj")
    attention_in = (attention.qkv_proj,) if joint else (attention.q_proj, attention.k_proj, attention.v_proj)
    mlp_in = (mlp.gate_up_proj,) if joint else (mlp.gate_proj, mlp.up_proj)
    kinds = getattr(config, "layer_types", None)
    return Layer(
        attention_in=tuple(map(_linear, attention_in)),
        attention_out=_linear(attention.o_proj),
        mlp_in=tuple(map(_linear, mlp_in)),
        mlp_out=_linear(mlp.down_proj),
        norm_attention=_norm(layer.input_layernorm, family),
        norm_mlp=_norm(layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm, family),
        norm_after_attention=_norm(layer.post_attention_layernorm, family) if gemma else None,
        norm_after_mlp=_norm(layer.post_feedforward_layernorm, family) if gemma else None,
        query_norm=_norm(attention.q_norm, family) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm, family) if hasattr(attention, "k_norm") else None,
        window=_window(attention, config),
        kind=kinds[number] if kinds else "full_attention",
    )


def _read_phi_layer(layer: Any) -> Layer:
    """Attention and an MLP without a gate side by side, behind one norm."""
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        attention_in=tuple(map(_linear, (attention.q_proj, attention.k_proj, attention.v_proj))),
        attention_out=_linear(attention.dense),
        mlp_in=(_linear(mlp.fc1),),
        mlp_out=_linear(mlp.fc2),
        norm_attention=_norm(layer.input_layernorm, "phi"),
        norm_mlp=None,
        norm_after_attention=None,
        norm_after_mlp=None,
        query_norm=None,
        key_norm=None,
        window=None,
        kind="full_attention",
        gated=False,
    )


def _window(attention: Any, config: Any) -> int | None:
    """Mistral and Phi-3 take the window from the configuration, the others from each layer."""
    if hasattr(attention, "sliding_window"):
        window: int | None = attention.sliding_window
        return window
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return config.sliding_window if kinds[attention.layer_idx] == "sliding_attention" else None
    return getattr(config, "sliding_window", None)


def _norm(module: Any, family: str) -> Norm:
    if family == "gemma":
        return Norm(1.0 + module.weight.detach().to(_at_least_float(module.weight.dtype)), module.eps, wide=True)
    if family == "phi":
        return Norm(module.weight.detach(), module.eps, bias=module.bias.detach())
    return Norm(module.weight.detach(), module.variance_epsilon)


def _at_least_float(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _activation(mlp: Any) -> str:
    module = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)
    name = ACTIVATIONS.get(type(module).__name__)
    if name is None:
        raise NotRead(f"its activation is {type(module).__name__}")
    return name


def _linear(module: Any) -> Linear:
    """A linear layer, bare or with one plain LoRA adapter of PEFT on it."""
    base = getattr(module, "base_layer", module)
    outputs = base.out_features
    if base is module:
        return Linear(base, outputs, None)
    active = list(module.active_adapters)
    if len(active) != 1 or module.merged or module.disable_adapters:
        raise NotRead("an adapter is merged, switched off or not the only one")
    name = active[0]
    if name not in module.lora_A:
        return Linear(base, outputs, None)
    dropout = module.lora_dropout[name]
    variants = getattr(module, "lora_variant", {})
    if type(dropout).__name__ != "Identity" or variants.get(name) is not None or module.lora_B[name].bias is not None:
        raise NotRead("its adapter has dropout, a bias or a variant of LoRA")
    return Linear(base, outputs, Lora(module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])))
