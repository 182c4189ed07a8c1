"""Keys and values while answers are written: those of a shared beginning, held once, and a lane of each row for its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy
from stepladder.models.prefix.products import Voice
from stepladder.models.prefix.row_attention import Held


@dataclass(frozen=True, slots=True)
class Shared:
    """Rotated keys and values of a beginning, each (layers, key heads, tokens, head dim)."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        return self.keys.shape[2]

    def of(self, layer: int) -> Held:
        return Held(self.keys[layer][None], self.values[layer][None])

    def first(self, length: int) -> Shared:
        """The first `length` tokens; nothing is copied."""
        return Shared(self.keys[:, :, :length], self.values[:, :, :length])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A row that begins.

    Attributes:
        token_ids: Its own tokens, behind the shared ones; at least one.
        wanted: At how many of the last of them the model is asked for the next token.
        held: A beginning that only this row has, copied into its lane.
        speaker: Which of the lanes' adapters answers; -1 = none.
    """

    token_ids: Sequence[int]
    wanted: int = 1
    held: Shared | None = None
    speaker: int = -1


class Lanes:
    """Room for the keys and values of rows; those in use are always the first ones, without gaps.

    Args:
        shared: What all rows begin with.
        voice: The adapter of all rows; with `mixed`, several stacked ones, of which each row has its own or none.
        room: A former `keys, values` to be used again where it is large enough.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        rows: int,
        capacity: int,
        shared: Shared | None = None,
        voice: Voice | None = None,
        *,
        mixed: bool = False,
        room: Tensor | None = None,
    ) -> None:
        sizes = (len(anatomy.layers), rows, anatomy.key_heads)
        numbers = 2 * prod(sizes) * capacity * anatomy.head_dim
        if room is None or room.numel() < numbers or room.dtype != anatomy.dtype:
            # Zeros: what stands behind a row's own tokens is hidden by adding -inf, which turns anything but NaN to nothing.
            room = torch.zeros(numbers, dtype=anatomy.dtype, device=anatomy.model.device)
        self.room = room
        self.keys, self.values = room[:numbers].view(2, *sizes, capacity, anatomy.head_dim).unbind(0)
        self.rows, self.capacity = rows, capacity
        self.shared, self.voice, self.mixed = shared, voice, mixed
        self.lengths: list[int] = []  # tokens in each lane in use
        self.speakers: list[int] = []

    @property
    def shared_length(self) -> int:
        return 0 if self.shared is None else self.shared.length

    def of(self, layer: int, lanes: slice, tokens: int) -> Held:
        """The first tokens of lanes; nothing is copied."""
        return Held(self.keys[layer, lanes, :, :tokens], self.values[layer, lanes, :, :tokens])

    def hold(self, arrival: Arrival) -> int:
        """Give a row the next lane; returns how many tokens it holds by now."""
        lane = len(self.lengths)
        held = 0 if arrival.held is None else arrival.held.length
        if arrival.held is not None:
            self.keys[:, lane, :, :held] = arrival.held.keys
            self.values[:, lane, :, :held] = arrival.held.values
        self.lengths.append(held)
        self.speakers.append(arrival.speaker)
        return held

    def drop(self, lane: int) -> None:
        """Free a lane; the last one moves to its place (as `rows[lane] = rows.pop()` does for a list)."""
        length, speaker = self.lengths.pop(), self.speakers.pop()
        last = len(self.lengths)
        if lane == last:
            return
        self.keys[:, lane, :, :length] = self.keys[:, last, :, :length]
        self.values[:, lane, :, :length] = self.values[:, last, :, :length]
        self.lengths[lane], self.speakers[lane] = length, speaker

    def forget(self, lane: int, tokens: int) -> None:
        """Take back the last `tokens` of a lane; their room is used again."""
        self.lengths[lane] -= tokens
