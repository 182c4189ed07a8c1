"""Keys and values that are computed once and continued by many rows.

Shapes: keys and values are (rows, heads, tokens, head width), one pair a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from stepladder.models.prefix.ropes import unsteady_rope


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """A cache layer with room for `capacity` tokens from the start.

    transformers' own layer copies all keys and values to add one token; with a long shared prompt that copy costs more than
    the arithmetic of a small model. This one writes the new token in place.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_room = _room_like(key_states, self.capacity)
        self._value_room = _room_like(value_states, self.capacity)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        self._key_room[:, :, start : self.length] = key_states
        self._value_room[:, :, start : self.length] = value_states
        self._show()
        return self.keys, self.values

    def place(self, keys: torch.Tensor, values: torch.Tensor, *, lanes: torch.Tensor, rows: int, start: int, end: int) -> None:
        """Fill slots `start` to `end` of the rows `lanes` with as many tokens as there are, right-aligned; zeros before them.

        Args:
            rows: Number of all rows, for a layer that holds nothing yet.
        """
        if not self.is_initialized:
            self.lazy_initialization(keys[:1].expand(rows, -1, -1, -1), values[:1].expand(rows, -1, -1, -1))
        first = end - keys.shape[2]
        for room, states in ((self._key_room, keys), (self._value_room, values)):
            room[lanes, :, start:first] = 0  # masked, yet 0 times NaN would be NaN
            room[lanes, :, first:end] = states
        self.length = end
        self._show()

    def take_from(self, other: RoomyLayer, rows: Sequence[int], length: int) -> None:
        """Begin with the first `length` tokens of `other`'s rows `rows`, copied once."""
        keys, values = other.keys[:, :, :length], other.values[:, :, :length]
        self.lazy_initialization(keys[:1].expand(len(rows), -1, -1, -1), values[:1].expand(len(rows), -1, -1, -1))
        for room, states in ((self._key_room, keys), (self._value_room, values)):
            if states.shape[0] == 1:
                room[:, :, :length] = states
            else:
                for lane, row in enumerate(rows):  # indexing by a tensor would copy everything twice
                    room[lane, :, :length] = states[row]
        self.length = length
        self._show()

    def rewind(self, length: int) -> None:
        """Forget the tokens after the first `length`; their room is used again."""
        self.length = length
        self._show()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            self._key_room = self._key_room[indices]
            self._value_room = self._value_room[indices]
            self._show()

    def _show(self) -> None:
        self.keys = self._key_room[:, :, : self.length]
        self.values = self._value_room[:, :, : self.length]


def _room_like(states: torch.Tensor, capacity: int) -> torch.Tensor:
    rows, heads, _, width = states.shape
    return states.new_empty((rows, heads, capacity, width))


def is_plain(model: Any) -> bool:
    """Whether every layer keeps all keys and values, so that padding can be masked and a prefix cut anywhere.

    Sliding windows count cache slots and recurrent layers carry a state: both would take padding for tokens. Where angles change
    with the length of the text, a longer row would change them for the shorter ones beside it.
    """
    if unsteady_rope(model) is not None:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def continue_rows(
    model: Any, source: DynamicCache | None, rows: Sequence[int], room: int, keep: int | None = None
) -> DynamicCache:
    """A cache for `len(rows)` rows, row r starting with what row `rows[r]` of `source` holds, with room for `room` tokens more.

    Args:
        source: Left untouched; None begins empty.
        keep: Only the first `keep` tokens of `source` (plain caches only).
    """
    cache = DynamicCache(config=model.config)
    if source is None:
        cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
        return cache
    cache.layers = [_continue_layer(layer, rows, room, keep) for layer in source.layers]
    return cache


def _continue_layer(layer: Any, rows: Sequence[int], room: int, keep: int | None) -> Any:
    if not isinstance(layer, RoomyLayer):
        copied = copy.copy(layer)
        copied.batch_select_indices(torch.tensor(rows, device=layer.device))
        return copied
    length = layer.length if keep is None else keep
    roomy = RoomyLayer(length + room)
    roomy.take_from(layer, rows, length)
    return roomy


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens that several prompts begin with, and what was computed of them (None when there are no tokens).

    `held` may reach further than `ids`: only its first tokens count then.
    """

    ids: tuple[int, ...]
    held: Any

    @property
    def length(self) -> int:
        return len(self.ids)


NO_PREFIX = Prefix((), None)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return length


def common_prefix_of_all(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens all begin with, at least one token of each left over (its logits begin the answer)."""
    if not prompts:
        return 0
    # The first and the last in sorted order differ the earliest.
    shortest = min(len(ids) for ids in prompts)
    return min(common_prefix(min(prompts, key=list), max(prompts, key=list)), shortest - 1)


@dataclass(frozen=True, slots=True)
class Source:
    """Whose keys and values are computed.

    `key` tells weights apart; `can_cut` says whether a prefix may be cut anywhere, `can_share` whether rows may have one at all.
    """

    key: str
    compute: Callable[[tuple[int, ...]], Any]
    can_cut: bool
    can_share: bool = True


def stock_source(model: Any, key: str) -> Source:
    """Keys and values by the model's own modules, as a cache of one row."""

    @torch.inference_mode()
    def compute(ids: tuple[int, ...]) -> DynamicCache:
        cache = continue_rows(model, None, [0], room=len(ids))
        device = next(model.parameters()).device
        model(input_ids=torch.tensor([ids], device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    return Source(f"stock {key}", compute, is_plain(model), unsteady_rope(model) is None)


class PrefixMemory:
    """The last few prefixes, so that a rung's next call does not compute its instruction again.

    Holds keys and values of one model under one adapter each; changes no answer.
    """

    def __init__(self, size: int = 2) -> None:
        self._size = size
        self._kept: list[tuple[str, Prefix]] = []
        self.computed_tokens = 0

    def prefix_of(self, source: Source, prompts: Sequence[Sequence[int]]) -> Prefix:
        """The longest worthwhile common beginning of `prompts`, remembered or computed now."""
        if not source.can_share:
            return NO_PREFIX
        wanted = common_prefix_of_all(prompts)
        remembered = self._best(prompts, wanted, source)
        if remembered is not None:
            return remembered
        if len(prompts) < 2 or wanted == 0:
            return NO_PREFIX
        ids = tuple(prompts[0][:wanted])
        prefix = Prefix(ids, source.compute(ids))
        self.computed_tokens += wanted
        self._kept = [(source.key, prefix), *self._kept][: self._size]
        return prefix

    def _best(self, prompts: Sequence[Sequence[int]], wanted: int, source: Source) -> Prefix | None:
        """A remembered prefix that covers nine tenths of the wanted one; a longer one is cut to what is common.

        A single prompt computes none of its own, so anything remembered helps it.
        """
        least = 1 if len(prompts) == 1 else max(1, round(0.9 * wanted))
        for place, (key, prefix) in enumerate(self._kept):
            shared = min(wanted, common_prefix(prefix.ids, prompts[0])) if prompts else 0
            if key != source.key or shared < least:
                continue
            if shared < prefix.length and not source.can_cut:
                continue
            self._kept.insert(0, self._kept.pop(place))
            return prefix if shared == prefix.length else Prefix(prefix.ids[:shared], prefix.held)
        return None
