"""What a pass of the written-out decoder does with its keys and values, and what its queries see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from stepladder.models.prefix.anatomy import Anatomy, Layer
from stepladder.models.prefix.lanes import Arrival, Lanes, Shared
from stepladder.models.prefix.row_attention import Held, Sight, attend_rows


class Pass(Protocol):
    """Tokens in one flat stream."""

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None: ...

    def attend(self, number: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(tokens, query heads, dim) to (tokens, query heads · dim)."""
        ...


class Beginning:
    """A pass over tokens that see only each other."""

    def __init__(self, anatomy: Anatomy, tokens: int) -> None:
        self._scaling = anatomy.scaling
        sizes = (len(anatomy.layers), anatomy.key_heads, tokens, anatomy.head_dim)
        keys, values = torch.empty((2, *sizes), dtype=anatomy.dtype, device=anatomy.model.device).unbind(0)
        self.shared = Shared(keys, values)
        self._sights = _Sights(torch.arange(tokens, device=keys.device)[None], 0, tokens, anatomy.dtype)

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        self.shared.keys[number] = keys.transpose(0, 1)
        self.shared.values[number] = values.transpose(0, 1)

    def attend(self, number: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        sight = self._sights.of(layer.window)
        return attend_rows(queries[None], self.shared.of(number), None, sight, self._scaling)[0].flatten(1)


class Step:
    """A pass over lanes: rows with one more token, then rows that begin.

    Attributes:
        positions: Of all tokens of the stream.
        wanted: Numbers of the tokens at which the next one is asked for.
        speakers: Which adapter answers for each token; None where all rows have the same.
    """

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
                self._blocks.append(_Block.behind(anatomy, tokens, own, held, before))
            else:
                fresh.append(tokens)
        if fresh:
            self._blocks.append(_Block.fresh(anatomy, fresh, before))
        self._lane, self._slot = torch.tensor(lane, device=device), torch.tensor(slot, device=device)
        self.positions = self._slot + before
        self.wanted = torch.tensor(wanted, device=device)
        self.speakers = torch.tensor(lanes.speakers, device=device)[self._lane] if lanes.mixed else None
        if living:
            self._longest = max(lanes.lengths[:living])
            self._sights = _Sights(self.positions[:living, None], before, self._longest, anatomy.dtype)

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        self._lanes.keys[number][self._lane, :, self._slot] = keys
        self._lanes.values[number][self._lane, :, self._slot] = values

    def attend(self, number: int, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = torch.empty_like(queries)
        lanes, living, scaling = self._lanes, self._living, self._anatomy.scaling
        shared = None if lanes.shared is None else lanes.shared.of(number)
        if living:
            held = lanes.of(number, slice(living), self._longest)
            output[:living] = attend_rows(queries[:living, None], held, shared, self._sights.of(layer.window), scaling)[:, 0]
        for block in self._blocks:
            held = block.held(number, lanes, keys, values)
            answered = attend_rows(queries[block.places], held, shared, block.sights.of(layer.window), scaling)
            output[block.real] = answered.flatten(0, 1)[block.kept]
        return output.flatten(1)


@dataclass(slots=True)
class _Sights:
    """What queries at positions (rows, queries) see, by the window of the layer."""

    queries: Tensor
    shared: int
    own: int
    dtype: torch.dtype
    _known: dict[int | None, Sight] = field(default_factory=dict)

    def of(self, window: int | None) -> Sight:
        if window not in self._known:
            self._known[window] = Sight(self.queries, self.shared, self.own, window, self.dtype)
        return self._known[window]


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that begin, side by side: `places` (rows, width) are numbers of tokens; short rows are filled up with their last.

    `real` are the numbers of all their tokens, `kept` where those stand in the block.
    """

    places: Tensor
    real: Tensor
    kept: Tensor
    sights: _Sights
    lane: int | None = None  # whose keys and values to see, where the row holds some already

    @classmethod
    def fresh(cls, anatomy: Anatomy, rows: Sequence[Sequence[int]], before: int) -> _Block:
        device = anatomy.model.device
        width = max(map(len, rows))
        places = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=device)
        real = torch.tensor([token for row in rows for token in row], device=device)
        kept = torch.tensor([number * width + at for number, row in enumerate(rows) for at in range(len(row))], device=device)
        positions = torch.arange(before, before + width, device=device)[None]
        return cls(places, real, kept, _Sights(positions, before, width, anatomy.dtype))

    @classmethod
    def behind(cls, anatomy: Anatomy, row: Sequence[int], lane: int, held: int, before: int) -> _Block:
        real = torch.tensor(row, device=anatomy.model.device)
        count = len(row)
        positions = torch.arange(before + held, before + held + count, device=real.device)[None]
        kept = torch.arange(count, device=real.device)
        return cls(real[None], real, kept, _Sights(positions, before, held + count, anatomy.dtype), lane)

    def held(self, number: int, lanes: Lanes, keys: Tensor, values: Tensor) -> Held:
        if self.lane is not None:
            return lanes.of(number, slice(self.lane, self.lane + 1), self.sights.own)
        return Held(keys[self.places].transpose(1, 2), values[self.places].transpose(1, 2))
