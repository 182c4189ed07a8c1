"""Useful floating-point operations of a LoRA step, and the model's own shapes. Needs nothing but Python.

    useful FLOP = 4 N T  +  12 L d_a K  +  4 V h S

T: tokens computed, padding left out; N: weights of the linear layers (2 N forward, 2 N for the gradient of their inputs; frozen
weights need none themselves). K: keys that the tokens attend to, summed over the tokens; L: layers; d_a: heads × head size (two
products forward, four back, 2 FLOP a number). S: labels; V h: the head, forward and back. LoRA's own products, norms and
recomputation are not counted as useful.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the work of a decoder of the llama family."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Shape:
        """From a `config.json`."""
        heads = config["num_attention_heads"]
        return cls(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or config["hidden_size"] // heads,
            config["vocab_size"],
        )

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(inputs, outputs, how many in a layer) of the linear layers."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return [
            (self.hidden, queries, 1),
            (self.hidden, keys, 2),
            (queries, self.hidden, 1),
            (self.hidden, self.intermediate, 2),
            (self.intermediate, self.hidden, 1),
        ]

    @property
    def linear_weights(self) -> int:
        """N: weights of the linear layers, head and embeddings left out."""
        return self.layers * sum(inputs * outputs * count for inputs, outputs, count in self.products)


@dataclass(frozen=True, slots=True)
class Work:
    """What a step has to compute: tokens, the keys they attend to (summed), labels."""

    tokens: int
    keys: int
    labels: int


def work_of_rows(rows: Iterable[tuple[int, int]]) -> Work:
    """Of (length, labels) rows that are each computed whole."""
    sizes = list(rows)
    return work_of_stretches([(0, length) for length, _ in sizes], sum(labels for _, labels in sizes))


def work_of_stretches(stretches: Iterable[tuple[int, int]], labels: int) -> Work:
    """Of (first place, tokens) stretches: a token at place p attends to p + 1 keys, wherever the keys were computed."""
    tokens = keys = 0
    for start, length in stretches:
        tokens += length
        keys += length * start + length * (length + 1) // 2
    return Work(tokens, keys, labels)


def useful_flops(shape: Shape, work: Work) -> float:
    """FLOP of a forward and backward pass over `work`; the formula stands above."""
    linear = 4 * shape.linear_weights * work.tokens
    attention = 12 * shape.layers * shape.heads * shape.head_size * work.keys
    head = 4 * shape.vocabulary * shape.hidden * work.labels
    return float(linear + attention + head)
