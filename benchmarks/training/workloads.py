"""The rows that every system trains on: four mixes of lengths, of random token ids from a seed. Needs nothing but Python.

Random ids cost what real ones cost, and nobody can have tuned for them. Each optimizer step takes the same rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

SPECIAL_TOKENS = 3  # ids 0 … 2 are control tokens of the starter model
CUT_ROWS, CUT_BY = 4, 8  # the small cut on which parity is shown: as many rows of a step, as many times shorter


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids, of which the last `learned` are labels."""

    token_ids: tuple[int, ...]
    learned: int

    @property
    def labels(self) -> list[int]:
        """As transformers wants them: -100 where nothing is learned."""
        masked = len(self.token_ids) - self.learned
        return [-100] * masked + list(self.token_ids[masked:])


@dataclass(frozen=True, slots=True)
class Workload:
    """One mix: `shared` tokens that all rows begin with, `own` tokens of each row behind them, `learned` of those at the end."""

    name: str
    what: str
    shared: int
    own: tuple[int, ...]
    learned: tuple[int, ...]
    rounds: int

    def rows(self, *, vocabulary: int, seed: int = 0) -> list[Row]:
        """The rows of a step, the same for every system."""
        draw = random.Random(f"{self.name}/{seed}")

        def tokens(count: int) -> tuple[int, ...]:
            return tuple(draw.randrange(SPECIAL_TOKENS, vocabulary) for _ in range(count))

        shared = tokens(self.shared)
        return [Row(shared + tokens(own), learned) for own, learned in zip(self.own, self.learned, strict=True)]

    @property
    def lengths(self) -> list[int]:
        return [self.shared + own for own in self.own]

    def first(self, rows: int) -> Workload:
        """The same mix with fewer rows a step: for a trial of the machinery, not for figures."""
        return replace(self, own=self.own[:rows], learned=self.learned[:rows])

    def cut(self, *, rows: int = CUT_ROWS, by: int = CUT_BY) -> Workload:
        """The same mix with fewer rows, `by` times shorter: enough to compare losses and gradients number by number."""
        return replace(
            self,
            name=f"{self.name} cut",
            shared=self.shared // by,
            own=tuple(max(2, own // by) for own in self.own[:rows]),
            learned=tuple(max(1, learned // by) for learned in self.learned[:rows]),
        )


def log_normal_lengths(count: int, low: int, high: int, *, seed: int) -> tuple[int, ...]:
    """Lengths whose logarithms are normal about the middle of the range; its ends are two standard deviations away, and hard."""
    draw = random.Random(seed)
    middle, spread = (math.log(low) + math.log(high)) / 2, (math.log(high) - math.log(low)) / 4
    lengths: list[int] = []
    while len(lengths) < count:
        length = round(math.exp(draw.gauss(middle, spread)))
        if low <= length <= high:
            lengths.append(length)
    return tuple(lengths)


def _even(name: str, what: str, shared: int, own: int, learned: int, *, rounds: int, rows: int = 32) -> Workload:
    return Workload(name, what, shared, (own,) * rows, (learned,) * rows, rounds)


def _mixed(name: str, what: str, *, rounds: int, rows: int = 32) -> Workload:
    lengths = log_normal_lengths(rows, 64, 512, seed=20_261_122)
    return Workload(name, what, 0, lengths, tuple(length // 3 for length in lengths), rounds)


WORKLOADS = {
    workload.name: workload
    for workload in (
        _even("A", "512 shared tokens of instruction + 160 own tokens, the last 64 learned", 512, 160, 64, rounds=3),
        _mixed("B", "nothing shared, log-normal lengths of 64 to 512 tokens, the last third learned", rounds=3),
        _even("C", "1,500 shared tokens of demonstrations + 160 own tokens, the last 64 learned", 1500, 160, 64, rounds=1),
        _even("D", "nothing shared, 1,024 tokens each, the last third learned", 0, 1024, 341, rounds=1),
    )
}


def uniform(length: int, rows: int) -> Workload:
    """Rows of one length that share nothing, the last quarter learned: what a GPU is measured on."""
    return _even(f"{length} tokens", f"nothing shared, {length} tokens each", 0, length, length // 4, rounds=1, rows=rows)


def workload_of(order: Mapping[str, Any]) -> Workload:
    """The workload of a child's order: one of ours by its name, or described."""
    wanted = order["workload"]
    return WORKLOADS[wanted] if isinstance(wanted, str) else Workload(**wanted)


def in_micro_batches(rows: Sequence[Row], size: int, *, by_length: bool, seed: int = 0) -> list[Row]:
    """The rows of a step in the order in which `size` at a time are taken.

    `by_length` puts rows of similar length together, which spares padding; the groups then come in a random order, so that a
    measurement which ends within a step has not seen the long ones only. The sum over the step stays the same.
    """
    if not by_length:
        return list(rows)
    ordered = sorted(rows, key=lambda row: len(row.token_ids))
    groups = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    random.Random(seed).shuffle(groups)
    groups.sort(key=lambda group: len(group) < size)  # a short last group has to stay the last
    return [row for group in groups for row in group]


def typical(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows spread evenly over the lengths: what a trial of a few rows should consist of."""
    ordered = sorted(rows, key=lambda row: len(row.token_ids))
    count = min(count, len(ordered))
    return [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]
