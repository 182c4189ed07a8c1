"""A decoder of the llama family, written out for answering: rows that write a token and rows that begin, in one pass.

All tokens of a pass stand in one flat stream, so that a row which begins costs no pass of its own and nothing is padded; only
the attention of a row to itself is computed row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy, Layer, NotRead, read_anatomy
from stepladder.models.prefix.elementwise import norm_forward, open_forward, rotate
from stepladder.models.prefix.lanes import Arrival, Lanes, Shared
from stepladder.models.prefix.passes import Beginning, Pass, Step
from stepladder.models.prefix.products import Voice, layer_products, weights_plain


class Decoder:
    """The layers of a model, run over lanes. The model's own modules stay as they are and may carry any adapter meanwhile.

    Raises:
        NotRead: Its arithmetic is not known, or its weights are quantised.
    """

    def __init__(self, model: Any) -> None:
        self.anatomy = read_anatomy(model)
        if self.anatomy.loras:
            raise NotRead("it carries an adapter")
        if not weights_plain(self.anatomy):
            raise NotRead("its weights are quantised")
        self.device = model.device
        self._products = layer_products(self.anatomy)
        self._angles: dict[str, tuple[Tensor, Tensor]] = {}
        self._known_positions = 0

    @torch.inference_mode()
    def share(self, token_ids: Sequence[int], voice: Voice | None = None) -> Shared:
        """Keys and values of a beginning that rows will share."""
        work = Beginning(self.anatomy, len(token_ids))
        ids = torch.tensor(list(token_ids), device=self.device)
        positions = torch.arange(len(token_ids), device=self.device)
        self._run(ids, positions, work, voice, None)
        return work.shared

    @torch.inference_mode()
    def step(self, lanes: Lanes, tokens: Sequence[int], arrivals: Sequence[Arrival] = ()) -> Tensor:
        """One more token for every lane in use, and the first pass of rows that begin, which take the next lanes.

        Returns:
            States behind the final norm where the next token is wanted, (lanes in use + Σ wanted, hidden), in that order.
        """
        if len(tokens) != len(lanes.lengths):
            raise ValueError(f"{len(tokens)} tokens for {len(lanes.lengths)} lanes")
        work = Step(self.anatomy, lanes, len(tokens), arrivals)
        ids = torch.tensor([*tokens, *(token for arrival in arrivals for token in arrival.token_ids)], device=self.device)
        speakers = work.speakers if lanes.mixed else None
        states = self._run(ids, work.positions, work, lanes.voice, speakers)
        return norm_forward(self.anatomy.final_norm, states[work.wanted])

    def _run(self, ids: Tensor, positions: Tensor, work: Pass, voice: Voice | None, speakers: Tensor | None) -> Tensor:
        """(tokens,) ids to states (tokens, hidden) before the final norm."""
        anatomy = self.anatomy
        angles = self._angles_of(positions)
        states = anatomy.embed(ids)
        for number, (layer, products) in enumerate(zip(anatomy.layers, self._products, strict=True)):
            loras = {} if voice is None else voice[number]
            normed = norm_forward(layer.norm_attention, states)
            projected = products["attention_in"](normed, loras.get("attention_in"), speakers)
            queries, keys, values = _heads(anatomy, layer, projected, angles[layer.kind])
            work.keep(number, keys, values)
            mixed = work.attend(number, layer, queries, keys, values)
            added = products["attention_out"](mixed, loras.get("attention_out"), speakers)
            if layer.norm_after_attention is not None:
                added = norm_forward(layer.norm_after_attention, added)
            states = states + added
            read = normed if layer.norm_mlp is None else norm_forward(layer.norm_mlp, states)
            spread = products["mlp_in"](read, loras.get("mlp_in"), speakers)
            opened = open_forward(anatomy.activation, spread, layer.gated)
            added = products["mlp_out"](opened, loras.get("mlp_out"), speakers)
            if layer.norm_after_mlp is not None:
                added = norm_forward(layer.norm_after_mlp, added)
            states = states + added
        return states

    def _angles_of(self, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines (tokens, 1, half) by kind of layer, read off a table that grows."""
        needed = int(positions.max()) + 1
        if needed > self._known_positions:
            self._known_positions = max(needed, 2 * self._known_positions, 256)
            rotations = self.anatomy.rotations(torch.arange(self._known_positions, device=self.device))
            self._angles = {
                kind: (_half(cosines, self.anatomy.dtype), _half(sines, self.anatomy.dtype))
                for kind, (cosines, sines) in rotations.items()
            }
        return {kind: (cosines[positions], sines[positions]) for kind, (cosines, sines) in self._angles.items()}


def _heads(
    anatomy: Anatomy, layer: Layer, projected: Tensor, angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Rotated queries (tokens, heads, dim) and keys (tokens, key heads, dim), and values like the keys."""
    tokens, heads, key_heads, dim = len(projected), anatomy.heads, anatomy.key_heads, anatomy.head_dim
    values = projected[:, (heads + key_heads) * dim :].view(tokens, key_heads, dim)
    both = projected[:, : (heads + key_heads) * dim].view(tokens, heads + key_heads, dim)
    cosines, sines = angles
    if layer.query_norm is None or layer.key_norm is None:
        both = rotate(both, cosines, sines)
        return both[:, :heads], both[:, heads:], values
    queries, keys = norm_forward(layer.query_norm, both[:, :heads]), norm_forward(layer.key_norm, both[:, heads:])
    return rotate(queries, cosines, sines), rotate(keys, cosines, sines), values


def _half(angles: Tensor, dtype: torch.dtype) -> Tensor:
    """(positions, 1, half): both halves of a rotary embedding turn by the same angles, all heads alike."""
    return angles[:, None, : angles.shape[1] // 2].to(dtype).contiguous()
