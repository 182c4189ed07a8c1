"""Answers with the written-out decoder: a row that finishes makes room for the next one, and a pass holds nothing but tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from stepladder.engines.transformers.decode import share_seconds
from stepladder.engines.transformers.grammar import MasksAhead, allowed_tokens
from stepladder.engines.transformers.heads import next_tokens
from stepladder.engines.transformers.rows import Row
from stepladder.models.prefix.choice import Chooser
from stepladder.models.prefix.decoder import Decoder
from stepladder.models.prefix.lanes import Arrival, Lanes, Shared

ARRIVING_TOKENS = 2_048
"""Most prompt tokens in one pass: beyond, it grows slower than its memory, and rows that write would wait for it."""


@dataclass(slots=True)
class Place:
    """A row with where it begins: a beginning of its own, if it has one, and which of the lanes' adapters answers."""

    row: Row
    held: Shared | None = None
    speaker: int = -1


@dataclass(frozen=True, slots=True)
class Writer:
    """What writes: the decoder, its output layer, and the tokens that end an answer."""

    decoder: Decoder
    chooser: Chooser
    stop_ids: frozenset[int]

    def write(self, lanes: Lanes, places: Sequence[Place]) -> Iterator[Row]:
        """Yield each row as it finishes, its `answer` without the end-of-turn.

        Args:
            places: The rows in the order in which they begin, each with room for its tokens and its answer in a lane.
        """
        waiting = deque(places)
        live: list[Row] = []
        tokens: list[int] = []  # the last one of every live row, lane by lane
        with MasksAhead(self.chooser.vocabulary) as masks:
            while live or waiting:
                started = time.perf_counter()
                arriving = _admit(waiting, lanes.rows - len(live))
                rows = [*live, *(place.row for place in arriving)]
                masks.begin([row.grammar for row in rows])
                states = self.decoder.step(lanes, tokens, [_arrival(place) for place in arriving])
                tokens = self._take(rows, states, masks.allowed(), lanes)
                weights = [1] * len(live) + [len(place.row.suffix) for place in arriving]
                share_seconds(time.perf_counter() - started, rows, weights)
                live = rows
                yield from _drop_finished(lanes, live, tokens)

    def _take(self, rows: Sequence[Row], states: torch.Tensor, allowed: torch.Tensor | None, lanes: Lanes) -> list[int]:
        """Choose and add every row's next tokens; returns the last one of each."""
        counts = [1 + len(row.draft) for row in rows]
        firsts = [sum(counts[:number]) for number in range(len(rows))]
        chosen = next_tokens(self.chooser, states[firsts] if max(counts) > 1 else states, rows, allowed)
        for number, (row, first) in enumerate(zip(rows, firsts, strict=True)):
            row.take(chosen[number], self.stop_ids)
            if row.draft:
                own = states[first : first + counts[number]]
                chosen[number] = self._follow_draft(row, chosen[number], own, lanes, number)
        return chosen

    def _follow_draft(self, row: Row, token: int, states: torch.Tensor, lanes: Lanes, lane: int) -> int:
        """Go along the draft for as long as it says what the model would write; returns the row's last token.

        `states` belong to the draft's places: the first was behind `token`, which the model chose without knowing the draft.
        """
        plain = row.grammar is None and row.plain
        best = self.chooser.likeliest(states[1:]) if plain else []
        agreed = 0
        while not row.end and agreed < len(row.draft) and token == row.draft[agreed]:
            agreed += 1
            token = best[agreed - 1] if plain else self._next(row, states[agreed : agreed + 1])
            row.take(token, self.stop_ids)
        lanes.forget(lane, len(row.draft) - agreed)
        row.draft = ()
        return token

    def _next(self, row: Row, state: torch.Tensor) -> int:
        return next_tokens(self.chooser, state, [row], allowed_tokens([row.grammar], self.chooser.vocabulary))[0]


def _admit(waiting: deque[Place], free: int) -> list[Place]:
    """The next rows, as many as there are lanes for and one pass should hold; one at least where there is a lane."""
    arriving: list[Place] = []
    tokens = 0
    while waiting and len(arriving) < free:
        tokens += len(waiting[0].row.suffix) + len(waiting[0].row.draft)
        if arriving and tokens > ARRIVING_TOKENS:
            break
        arriving.append(waiting.popleft())
    return arriving


def _arrival(place: Place) -> Arrival:
    row = place.row
    return Arrival([*row.suffix, *row.draft], 1 + len(row.draft), place.held, place.speaker)


def _drop_finished(lanes: Lanes, live: list[Row], tokens: list[int]) -> Iterator[Row]:
    finished = [row for row in live if row.end]
    for lane in range(len(live) - 1, -1, -1):
        if live[lane].end:
            lanes.drop(lane)  # the last lane takes its place
            live[lane], tokens[lane] = live[-1], tokens[-1]
            live.pop()
            tokens.pop()
    yield from finished
