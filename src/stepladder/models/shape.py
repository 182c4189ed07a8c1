"""The sizes of a language model that memory follows from, read off its configuration; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LAID_OUT_BYTES = 2**30
"""Models with fewer bytes in their layers get a copy of their weights, laid out for speed, when they answer."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a causal transformer. `device` is where it lies: "cpu" shares the process's memory, others have their own."""

    parameters: int
    bytes_per_number: int  # of a weight, and of keys and values
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int
    device: str = "cpu"

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token, over all layers."""
        return 2 * self.layers * self.key_value_heads * self.head_width * self.bytes_per_number

    @property
    def laid_out_bytes(self) -> int:
        """The copy of the weights that answers: of the output layer, and of the layers where they are small enough."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        layers = self.layers * self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate) * self.bytes_per_number
        return self.vocabulary * self.hidden * self.bytes_per_number + (layers if layers <= LAID_OUT_BYTES else 0)

    def adapter_parameters(self, rank: int) -> int:
        """Of a LoRA on every linear layer but the head: two matrices of `rank` for each."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))


def shape_of(config: Any, *, parameters: int, bytes_per_number: int, device: str) -> ModelShape:
    """The shape in a transformers configuration (of the text part, where there are several)."""
    heads = int(config.num_attention_heads)
    return ModelShape(
        parameters=parameters,
        bytes_per_number=bytes_per_number,
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        intermediate=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_width=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        vocabulary=int(config.vocab_size),
        device=device,
    )
