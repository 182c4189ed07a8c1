"""From encoded prompts to finished rows: what they share is computed once, then they are written side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from stepladder.engines.transformers.caches import Prefix, PrefixMemory, Source, is_plain, stock_source
from stepladder.engines.transformers.continuous import Place, Writer
from stepladder.engines.transformers.decode import decode
from stepladder.engines.transformers.grouping import prefix_groups
from stepladder.engines.transformers.heads import Head, agree, head_on, read_head, trial_ids
from stepladder.engines.transformers.rows import Row
from stepladder.engines.transformers.speakers import Speaker, speaking
from stepladder.models.loading import LoadedModel
from stepladder.models.prefix.anatomy import NotRead
from stepladder.models.prefix.choice import Chooser
from stepladder.models.prefix.decoder import Decoder
from stepladder.models.prefix.lanes import Arrival, Lanes, Shared
from stepladder.models.prefix.products import stack

KEYS_AND_VALUES_BYTES = 2 * 1024**3
KEPT_ROOM_BYTES = 256 * 1024**2
"""Lanes no larger than this are kept for the next call: fresh memory costs a page fault every 4 KiB."""
WORTH_A_RUN = 8
"""Prompts of one adapter and beginning that are answered by themselves; fewer join others, each with a copy of its beginning."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much is computed at once: prompts, and tokens of keys and values (prompt and answer, over all rows)."""

    rows: int = 96
    tokens: int = 16_384

    @classmethod
    def of(cls, model: Any) -> BatchLimits:
        """As many tokens as their keys and values fit into 2 GiB, at most 65,536."""
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token_bytes = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
        return cls(tokens=min(65_536, max(2_048, KEYS_AND_VALUES_BYTES // token_bytes)))


@dataclass(slots=True)
class Ask:
    """A row with its whole prompt, who answers it, and how many of its tokens were computed for several prompts."""

    row: Row
    ids: Sequence[int]
    speaker: Speaker
    shared_tokens: int = 0

    @property
    def needed(self) -> int:
        """Tokens its lane will hold."""
        return len(self.row.suffix) + self.row.decoding.max_new_tokens


class Answering:
    """Writes answers with a loaded model: by the written-out decoder where it can, else by the model's own modules."""

    def __init__(self, loaded: LoadedModel, limits: BatchLimits, stop_ids: frozenset[int]) -> None:
        self._loaded = loaded
        self._limits = limits
        self._stop_ids = stop_ids
        self.prefixes = PrefixMemory()
        self.writer = build_writer(loaded.model, stop_ids)
        self._room: torch.Tensor | None = None

    @cached_property
    def head(self) -> Head:
        """The output layer where the model's own modules answer; to be had before an adapter is put on them."""
        return read_head(self._loaded.model, None if self.writer is None else self.writer.chooser)

    def finish(self, asks: Sequence[Ask]) -> Iterator[Ask]:
        """Each one as its row finishes."""
        by_row = {ask.row.index: ask for ask in asks}
        readable = [ask for ask in asks if self.writer is not None and ask.speaker.readable]
        for row in self._write(readable):
            yield by_row[row.index]
        rest = [ask for ask in asks if self.writer is None or not ask.speaker.readable]
        for speaker_asks in _by_speaker(rest):
            for row in self._write_stock(speaker_asks):
                yield by_row[row.index]

    def _write(self, asks: Sequence[Ask]) -> Iterator[Row]:
        families = [
            [own[place] for place in group] for own in _by_speaker(asks) for group in prefix_groups([ask.ids for ask in own])
        ]
        small = [family for family in families if len(family) < WORTH_A_RUN]
        if len(small) < 2:
            small = []
        for family in families:
            if all(family is not other for other in small):
                yield from self._write_family(family)
        if small:
            yield from self._write_mixed(small)

    def _write_family(self, family: Sequence[Ask]) -> Iterator[Row]:
        """Prompts of one speaker; their common beginning stands once beside their lanes."""
        shared = self._share(family)
        for run in self._runs(family):
            rows, tokens = self._size(run)
            voice = family[0].speaker.voice
            yield from self._run(run, rows, tokens, [Place(ask.row) for ask in run], {"shared": shared, "voice": voice})

    def _write_mixed(self, families: Sequence[Sequence[Ask]]) -> Iterator[Row]:
        """Prompts of several speakers or beginnings in the same passes."""
        keys = list(dict.fromkeys(family[0].speaker.key for family in families))
        voices = {family[0].speaker.key: family[0].speaker.voice for family in families}
        voice = stack([voices[key] for key in keys])
        places = {}
        for family in families:
            held = self._share(family)
            for ask in family:
                places[ask.row.index] = Place(ask.row, held, keys.index(ask.speaker.key))
        for run in self._runs([ask for family in families for ask in family]):
            rows, tokens = self._size(run)
            own = [places[ask.row.index] for ask in run]
            yield from self._run(run, rows, tokens, own, {"voice": voice, "mixed": voice is not None})

    def _run(self, run: Sequence[Ask], rows: int, tokens: int, places: Sequence[Place], lanes: dict[str, Any]) -> Iterator[Row]:
        assert self.writer is not None
        held = max((place.held.length for place in places if place.held is not None), default=0)
        rows = max(1, min(rows, self._limits.tokens // (tokens + held)))
        own = Lanes(self.writer.decoder.anatomy, rows, tokens + held, room=self._room, **lanes)
        self._room = own.room if own.room.numel() * own.room.element_size() <= KEPT_ROOM_BYTES else None
        yield from self.writer.write(own, places)

    def _runs(self, asks: Sequence[Ask]) -> Iterator[list[Ask]]:
        """The longest prompts first; those that would leave room for few lanes by themselves."""
        left = sorted(asks, key=lambda ask: -ask.needed)
        while left:
            largest = left[0].needed
            crowded = self._limits.tokens // largest < min(self._limits.rows, len(left))
            taken = sum(1 for ask in left if 2 * ask.needed > largest) if crowded else len(left)
            yield sorted(left[:taken], key=lambda ask: -len(ask.row.suffix))
            left = left[taken:]

    def _size(self, run: Sequence[Ask]) -> tuple[int, int]:
        tokens = max(ask.needed for ask in run)
        return max(1, min(self._limits.rows, len(run), self._limits.tokens // tokens)), tokens

    def _share(self, family: Sequence[Ask]) -> Shared | None:
        """The beginning of a family's prompts, computed or remembered; what it took is shared out among them."""
        assert self.writer is not None
        speaker, decoder = family[0].speaker, self.writer.decoder
        source = Source(speaker.key, lambda ids: decoder.share(ids, speaker.voice), can_cut=True)
        prefix = self._begin(source, family)
        return prefix.held.first(prefix.length) if prefix.length else None

    def _begin(self, source: Source, asks: Sequence[Ask]) -> Prefix:
        started = time.perf_counter()
        prefix = self.prefixes.prefix_of(source, [ask.ids for ask in asks])
        seconds = (time.perf_counter() - started) / len(asks)
        for ask in asks:
            ask.row.suffix, ask.shared_tokens = ask.ids[prefix.length :], prefix.length
            ask.row.seconds += seconds
        return prefix

    def _write_stock(self, asks: Sequence[Ask]) -> Iterator[Row]:
        speaker, bare = asks[0].speaker, self.head
        with speaking(self._loaded, speaker) as model:
            head = head_on(model, bare)
            for group in prefix_groups([ask.ids for ask in asks]):
                family = [asks[place] for place in group]
                prefix = self._begin(stock_source(model, speaker.key), family)
                longest = max(ask.row.decoding.max_new_tokens for ask in family)
                for batch in batches(model, [ask.row.suffix for ask in family], prefix.length + longest, self._limits):
                    yield from decode(model, head, prefix, [family[place].row for place in batch], stop_ids=self._stop_ids)


def build_writer(model: Any, stop_ids: frozenset[int]) -> Writer | None:
    """The written-out decoder of a model; None where there is none, or where it does not compute what the model does."""
    try:
        writer = Writer(Decoder(model), Chooser(model), stop_ids)
    except NotRead:
        return None
    return writer if _agrees(writer, model) else None


@torch.inference_mode()
def _agrees(writer: Writer, model: Any) -> bool:
    """Whether both give the same logits for a few tokens: the arithmetic of a class may change with transformers' versions."""
    ids = trial_ids(model)
    lanes = Lanes(writer.decoder.anatomy, 1, len(ids))
    states = writer.decoder.step(lanes, [], [Arrival(ids, wanted=len(ids))])
    ours = writer.chooser.logits(states)
    theirs = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].to(ours.dtype)
    return agree(ours, theirs, model.dtype)


def batches(model: Any, suffixes: Sequence[Sequence[int]], extra: int, limits: BatchLimits) -> Iterator[list[int]]:
    """Places of prompts that are computed together: of similar length, the longest first, within the limits.

    Args:
        extra: Tokens each row holds besides its own suffix (shared prefix, answer).
    """
    one_length = not is_plain(model)  # padding would be taken for tokens
    batch: list[int] = []
    for place in sorted(range(len(suffixes)), key=lambda place: -len(suffixes[place])):
        width = len(suffixes[batch[0]]) if batch else 0
        full = len(batch) == limits.rows or (len(batch) + 1) * (width + extra) > limits.tokens
        if batch and (full or (one_length and len(suffixes[place]) != width)):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _by_speaker(asks: Sequence[Ask]) -> list[list[Ask]]:
    found: dict[str, list[Ask]] = {}
    for ask in asks:
        found.setdefault(ask.speaker.key, []).append(ask)
    return list(found.values())
