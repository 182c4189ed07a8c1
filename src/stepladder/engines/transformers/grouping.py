"""Which prompts of a call share a beginning that is worth computing on its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from stepladder.engines.transformers.caches import common_prefix

GROUP_TOKENS = 2_000
"""Prompt tokens that cost about as much as the decoding steps of one more batch: below this, splitting does not pay."""


def prefix_groups(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of `prompts` in groups; each group has a common prefix of its own. Every place stands in exactly one group.

    Usually there is one group. When most prompts share far more than all do (few-shot prompts of which some had to swap a
    demonstration), those come first and the rest shares what is left.
    """
    order = sorted(range(len(prompts)), key=lambda place: tuple(prompts[place]))
    return _split(prompts, order) if order else []


def _split(prompts: Sequence[Sequence[int]], order: list[int]) -> list[list[int]]:
    """Groups of neighbours in sorted order: parts that share enough more than the whole does, and the rest together."""
    shared = [common_prefix(prompts[one], prompts[other]) for one, other in pairwise(order)]
    if not shared:
        return [order]
    least = min(shared)
    parts: list[list[int]] = [[order[0]]]
    for place, common in zip(order[1:], shared, strict=True):
        if common == least:
            parts.append([])
        parts[-1].append(place)
    groups: list[list[int]] = []
    rest: list[int] = []
    for part in parts:
        own = common_prefix(prompts[part[0]], prompts[part[-1]])  # of sorted prompts, the ends differ first
        if (len(part) - 1) * (own - least) > GROUP_TOKENS + least:
            groups += _split(prompts, part)
        else:
            rest += part
    return [*groups, rest] if rest else groups
