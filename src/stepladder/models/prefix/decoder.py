"""A decoder of the llama family, written out for answering: rows that write a token and rows that begin, in one pass.

All tokens of a pass stand in one flat stream, so that a row which begins costs no pass of its own and nothing is padded; only
the attention of a row to itself is computed row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy, Layer, NotRead, read_anatomy
from stepladder.models.prefix.lanes import Arrival, Lanes, Shared
from stepladder.models.prefix.layer import norm_forward, open_forward, rotate
from stepladder.models.prefix.products import Voice, layer_products, weights_plain
from stepladder.models.prefix.row_attention import QUERIES_AT_ONCE, Side, as_mask, attend_rows, hidden

STEADY_ROPES = {"default", "linear", "llama3", "yarn", "proportional"}
"""Rotary embeddings whose angles depend on the position alone, not on how long the text has become."""


class Decoder:
    """The layers of a model, run over lanes. The model's own modules stay as they are and may carry any adapter meanwhile.

    Raises:
        NotRead: Its arithmetic is not known, or not from positions alone; or its weights are quantised.
    """

    def __init__(self, model: Any) -> None:
        self.anatomy = read_anatomy(model)
        if self.anatomy.loras:
            raise NotRead("it carries an adapter")
        if not weights_plain(self.anatomy):
            raise NotRead("its weights are quantised")
        ropes = _rope_types(model.base_model.rotary_emb)
        if not ropes <= STEADY_ROPES:
            raise NotRead(f"its rotary embedding is {min(ropes - STEADY_ROPES)}")
        self.device = model.device
        self._products = layer_products(self.anatomy)
        self._angles: dict[str, tuple[Tensor, Tensor]] = {}
        self._known_positions = 0

    @torch.inference_mode()
    def share(self, token_ids: Sequence[int], voice: Voice | None = None) -> Shared:
        """Keys and values of a beginning that rows will share."""
        work = _Beginning(self.anatomy, len(token_ids))
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
        work = _Step(self.anatomy, lanes, len(tokens), arrivals)
        ids = torch.tensor([*tokens, *(token for arrival in arrivals for token in arrival.token_ids)], device=self.device)
        speakers = work.speakers if lanes.mixed else None
        states = self._run(ids, work.positions, work, lanes.voice, speakers)
        return norm_forward(self.anatomy.final_norm, states[work.wanted])

    def _run(self, ids: Tensor, positions: Tensor, work: _Work, voice: Voice | None, speakers: Tensor | None) -> Tensor:
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
            opened = open_forward(anatomy.activation, spread, gated=layer.gated)
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


class _Work(Protocol):
    """What a pass does with its keys and values, and what its queries see."""

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None: ...

    def attend(self, number: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(tokens, query heads, dim) to (tokens, query heads · dim)."""
        ...


class _Beginning:
    """A pass over tokens that see only each other."""

    def __init__(self, anatomy: Anatomy, tokens: int) -> None:
        self._anatomy = anatomy
        sizes = (len(anatomy.layers), anatomy.key_heads)
        blank = {"dtype": anatomy.dtype, "device": anatomy.model.device}
        self.shared = Shared(
            torch.empty((*sizes, anatomy.head_dim, tokens), **blank), torch.empty((*sizes, tokens, anatomy.head_dim), **blank)
        )
        self._masks = _Masks(torch.arange(tokens, device=anatomy.model.device)[None], 0, anatomy)

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        self.shared.keys[number] = keys.permute(1, 2, 0)
        self.shared.values[number] = values.transpose(0, 1)

    def attend(self, number: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        own = self.shared.keys[number], self.shared.values[number]
        return attend_in_chunks(self._anatomy, queries[None], own, None, self._masks, layer.window)[0].flatten(1)


@dataclass(slots=True)
class _Masks:
    """What each query of rows side by side must not see, by window, and computed once for all layers.

    `queries` (rows, queries) are positions; own keys stand at `first_own` and after it, the shared ones before it.
    """

    queries: Tensor
    first_own: int
    anatomy: Anatomy
    keys: int = 0  # own keys; 0 = as many as queries
    shared: int = 0
    _known: dict[tuple[int | None, int, int], tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def of(self, window: int | None, first: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Masks over own and shared keys of the queries `first` to `stop` of each row, as `Side` wants them."""
        key = (window, first, stop)
        if key not in self._known:
            self._known[key] = self._build(*key)
        return self._known[key]

    def _build(self, window: int | None, first: int, stop: int) -> tuple[Tensor, Tensor | None]:
        dtype, heads = self.anatomy.dtype, self.anatomy.key_heads
        group = self.anatomy.heads // heads
        queries = self.queries[:, first:stop]
        rows, count = queries.shape
        reach = self.keys or stop
        places = torch.arange(self.first_own, self.first_own + reach, device=queries.device)
        own = as_mask(hidden(queries, places, window), dtype)[:, None, None]
        batch = heads if rows > 1 else 1  # one row's mask is that of all its heads
        own = own.expand(rows, batch, group, count, reach).reshape(rows * batch, group * count, reach)
        if not self.shared or window is None or int(queries.max()) < window:
            return own, None  # every shared key is seen
        old = as_mask(hidden(queries, torch.arange(self.shared, device=queries.device), window), dtype)[None, :, None]
        old = old.expand(heads, rows, group, count, self.shared)
        return own, old.reshape(heads, rows * group * count, self.shared)


class _Step:
    """A pass over lanes: rows with one more token, then rows that begin."""

    def __init__(self, anatomy: Anatomy, lanes: Lanes, living: int, arrivals: Sequence[Arrival]) -> None:
        self._anatomy, self._lanes, self._living = anatomy, lanes, living
        device = anatomy.model.device
        before = lanes.shared_length
        lane, slot, wanted = list(range(living)), list(lanes.lengths), list(range(living))
        self._blocks: list[_Block] = []
        fresh: list[list[int]] = []  # numbers of the tokens of rows that begin with nothing of their own
        for number in range(living):
            lanes.lengths[number] += 1
        for arrival in arrivals:
            own, held, count = len(lanes.lengths), lanes.hold(arrival), len(arrival.token_ids)
            tokens = list(range(len(lane), len(lane) + count))
            lane += [own] * count
            slot += range(held, held + count)
            wanted += tokens[count - arrival.wanted :]
            lanes.lengths[own] += count
            if held:
                self._blocks.append(_Block.behind(anatomy, tokens, own, held, before, device))
            else:
                fresh.append(tokens)
        if fresh:
            self._blocks.append(_Block.fresh(anatomy, fresh, before, device))
        self._lane, self._slot = torch.tensor(lane, device=device), torch.tensor(slot, device=device)
        self.positions = self._slot + before
        self.wanted = torch.tensor(wanted, device=device)
        self.speakers = torch.tensor(lanes.speakers, device=device)[self._lane] if lanes.mixed else None
        if living:
            self._longest = max(lanes.lengths[:living])
            self._masks = _Masks(self.positions[:living, None], before, anatomy, self._longest, before)

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        self._lanes.keys[number][self._lane, :, :, self._slot] = keys
        self._lanes.values[number][self._lane, :, self._slot] = values

    def attend(self, number: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = torch.empty_like(queries)
        lanes, living = self._lanes, self._living
        shared = None if lanes.shared is None else (lanes.shared.keys[number], lanes.shared.values[number])
        if living:
            held = lanes.keys[number][:living].flatten(0, 1), lanes.values[number][:living].flatten(0, 1)
            own = held[0][..., : self._longest], held[1][:, : self._longest]
            answered = attend_in_chunks(self._anatomy, queries[:living, None], own, shared, self._masks, layer.window)
            output[:living] = answered[:, 0]
        for block in self._blocks:
            own = block.own(number, lanes, keys, values)
            answered = attend_in_chunks(self._anatomy, queries[block.places], own, shared, block.masks, layer.window)
            output[block.real] = answered.flatten(0, 1)[block.kept]
        return output.flatten(1)


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that begin, side by side: `places` (rows, width) are numbers of tokens; short rows are filled up with their last.

    `real` are the numbers of all their tokens, `kept` where those stand in the block.
    """

    places: Tensor
    real: Tensor
    kept: Tensor
    masks: _Masks
    lane: int | None = None  # whose keys and values to see, where the row holds some already
    seen: int = 0

    @classmethod
    def fresh(cls, anatomy: Anatomy, rows: Sequence[Sequence[int]], before: int, device: torch.device) -> _Block:
        width = max(map(len, rows))
        places = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=device)
        real = torch.tensor([token for row in rows for token in row], device=device)
        kept = torch.tensor([number * width + at for number, row in enumerate(rows) for at in range(len(row))], device=device)
        positions = torch.arange(before, before + width, device=device)[None].expand(len(rows), -1)
        return cls(places, real, kept, _Masks(positions, before, anatomy, shared=before))

    @classmethod
    def behind(
        cls, anatomy: Anatomy, row: Sequence[int], lane: int, held: int, before: int, device: torch.device
    ) -> _Block:  # fmt: skip
        real = torch.tensor(row, device=device)
        positions = torch.arange(before + held, before + held + len(row), device=device)[None]
        masks = _Masks(positions, before, anatomy, held + len(row), before)
        return cls(real[None], real, torch.arange(len(row), device=device), masks, lane, held + len(row))

    def own(self, number: int, lanes: Lanes, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (rows · key heads, dim, tokens) and values (rows · key heads, tokens, dim)."""
        if self.lane is not None:
            return lanes.keys[number, self.lane, ..., : self.seen], lanes.values[number, self.lane, :, : self.seen]
        own_keys, own_values = keys[self.places], values[self.places]  # (rows, width, key heads, dim)
        return own_keys.permute(0, 2, 3, 1).flatten(0, 1), own_values.transpose(1, 2).flatten(0, 1)


def attend_in_chunks(
    anatomy: Anatomy,
    queries: Tensor,
    own: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
    masks: _Masks,
    window: int | None,
) -> Tensor:
    """(rows, queries, heads, dim) like it came, some hundred queries of each row at a time: later keys are not computed for."""
    rows, count, heads, dim = queries.shape
    key_heads, group = anatomy.key_heads, heads // anatomy.key_heads
    grouped = queries.view(rows, count, key_heads, group, dim).permute(0, 2, 3, 1, 4)  # (rows, key heads, group, queries, dim)
    output = torch.empty_like(queries)
    for first in range(0, count, QUERIES_AT_ONCE):
        stop = min(first + QUERIES_AT_ONCE, count)
        own_mask, shared_mask = masks.of(window, first, stop)
        reach = own_mask.shape[2]
        answered = attend_rows(
            grouped[:, :, :, first:stop].reshape(rows, key_heads, group * (stop - first), dim),
            Side(own[0][..., :reach], own[1][:, :reach], own_mask),
            None if shared is None else Side(*shared, shared_mask),
            anatomy.scaling,
        )
        answered = answered.view(rows, key_heads, group, stop - first, dim).permute(0, 3, 1, 2, 4)
        output[:, first:stop] = answered.reshape(rows, stop - first, heads, dim)
    return output


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


def _rope_types(rotary: Any) -> set[str]:
    types = getattr(rotary, "rope_type", "default")
    return set(types.values()) if isinstance(types, dict) else {str(types)}
