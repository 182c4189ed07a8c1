"""What the rows of a step share, at every depth: a trie over their token ids, and how it is cut into passes.

Plain Python: nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stepladder.models.prefix.rows import EncodedRow

WORTHWHILE_TOKENS = 32
"""Tokens a shared stretch must save before it becomes a node of its own; below, the rows compute it each for themselves."""

ROOT = -1


@dataclass(frozen=True, slots=True)
class Node:
    """A stretch of tokens that `rows` have in common, behind what their `parent` holds.

    Nodes stand in preorder: the descendants of node i are i + 1 … `end` - 1. `start` is the place of its first token in
    every one of its rows.
    """

    parent: int
    start: int
    token_ids: tuple[int, ...]
    rows: tuple[int, ...]
    end: int

    @property
    def stop(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Label:
    """One learned token: the state at `place` of the flat `node` predicts `token_id`, for `row`, with `weight`."""

    node: int
    place: int
    token_id: int
    weight: float
    row: int


class _Begun(NamedTuple):
    """A node whose descendants are not known yet."""

    parent: int
    start: int
    token_ids: tuple[int, ...]
    rows: tuple[int, ...]


def build_trie(rows: Sequence[EncodedRow], *, worthwhile: int = WORTHWHILE_TOKENS) -> tuple[Node, ...]:
    """The trie of the rows' token ids, in preorder; every row's tokens are spelled by exactly one path.

    A stretch becomes a node of several rows when it saves at least `worthwhile` tokens: its length times the rows but one.
    """
    nodes: list[_Begun] = []
    everything = sorted(range(len(rows)), key=lambda row: rows[row].token_ids)
    waiting: list[tuple[list[int], int, int]] = [(everything, 0, ROOT)] if rows else []
    while waiting:
        group, start, parent = waiting.pop()
        shared = _common_length(rows[group[0]].token_ids, rows[group[-1]].token_ids)
        pays = (shared - start) * (len(group) - 1) >= worthwhile
        if len(group) == 1 or (pays and shared > start):
            parent, start = _add(nodes, rows, group, start, shared, parent), shared
        for part in reversed(_by_next_token(rows, group, shared)):
            if shared < len(rows[part[0]]) or start < shared:
                waiting.append((part, start, parent))
    return _with_ends(nodes)


def _add(nodes: list[_Begun], rows: Sequence[EncodedRow], group: list[int], start: int, stop: int, parent: int) -> int:
    token_ids = rows[group[0]].token_ids[start:stop]
    if not token_ids:
        return parent
    nodes.append(_Begun(parent, start, token_ids, tuple(group)))
    return len(nodes) - 1


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Of the first and the last of sorted sequences: all between them share it, too."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _by_next_token(rows: Sequence[EncodedRow], group: Sequence[int], place: int) -> list[list[int]]:
    """The sorted group in parts that agree on the token at `place`; rows that end there are parts of their own."""
    if len(group) == 1:
        return []
    parts: list[list[int]] = []
    last: int | None = None
    for row in group:
        token = rows[row].token_ids[place] if place < len(rows[row]) else None
        if token is None or token != last or not parts:
            parts.append([])
        parts[-1].append(row)
        last = token
    return parts


def _with_ends(begun: Sequence[_Begun]) -> tuple[Node, ...]:
    ends = list(range(1, len(begun) + 1))
    for number in range(len(begun) - 1, -1, -1):
        if begun[number].parent != ROOT:
            ends[begun[number].parent] = max(ends[begun[number].parent], ends[number])
    return tuple(Node(*node, end) for node, end in zip(begun, ends, strict=True))


def label_places(rows: Sequence[EncodedRow], trie: Sequence[Node]) -> list[Label]:
    """Every learned token of every row at the node that predicts it; the first token of a row has none before it."""
    labels: list[Label] = []
    for number, node in enumerate(trie):
        for row in node.rows:
            encoded = rows[row]
            for place in range(max(node.start, 0) + 1, min(node.stop, len(encoded) - 1) + 1):
                if encoded.weights[place] > 0:
                    labels.append(Label(number, place - 1 - node.start, encoded.token_ids[place], encoded.weights[place], row))
    return labels


@dataclass(frozen=True, slots=True)
class Pass:
    """Nodes computed together, in preorder. Those above them were kept by the `Kept` that holds this pass."""

    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A node whose keys and values stay while everything below it is computed pass by pass."""

    node: int
    below: tuple[Pass | Kept, ...]


def most_tokens(trie: Sequence[Node], step: Pass | Kept) -> int:
    """Tokens that stand in memory together at most: those of a pass and of the kept nodes above it, from `step` down."""
    if isinstance(step, Pass):
        return sum(len(trie[node].token_ids) for node in step.nodes)
    return len(trie[step.node].token_ids) + max(most_tokens(trie, below) for below in step.below)


def cut_into_passes(trie: Sequence[Node], tokens_per_pass: int, *, together: int = 1) -> tuple[Pass | Kept, ...]:
    """The whole trie once, in passes of at most `tokens_per_pass` tokens (a longer node makes a pass of its own).

    Passes of one level are of similar size: a small last one would run the matrix products on a few rows.

    Args:
        together: Rows 0 … together - 1 are a group, and so on. What a group's rows do not share stays in one pass, however
            long it is: their losses are then known before any of them goes back.
    """
    return _cut(trie, _children(trie, ROOT, 0, len(trie)), tokens_per_pass, together)


def subtree_tokens(trie: Sequence[Node], node: int) -> int:
    return sum(len(trie[number].token_ids) for number in range(node, trie[node].end))


def _cut(trie: Sequence[Node], siblings: Sequence[int], tokens_per_pass: int, together: int) -> tuple[Pass | Kept, ...]:
    steps: list[Pass | Kept] = []
    small: list[tuple[list[int], int]] = []  # siblings that stay in one pass, and their tokens
    for unit in _units(trie, siblings, together):
        node, size = unit[0], sum(subtree_tokens(trie, node) for node in unit)
        if len(unit) > 1 or size <= tokens_per_pass or trie[node].end == node + 1:
            small.append((unit, size))
        else:
            below = _children(trie, node, node + 1, trie[node].end)
            steps.append(Kept(node, _cut(trie, below, tokens_per_pass, together)))
    even = _even_size(sum(size for _, size in small), tokens_per_pass)
    group: list[int] = []
    taken = 0
    for unit, size in small:
        if group and (taken + size > tokens_per_pass or taken >= even):
            steps.append(Pass(tuple(group)))
            group, taken = [], 0
        group.extend(number for node in unit for number in range(node, trie[node].end))
        taken += size
    if group:
        steps.append(Pass(tuple(group)))
    return tuple(steps)


def _units(trie: Sequence[Node], siblings: Sequence[int], together: int) -> list[list[int]]:
    """Siblings that hold rows of a common group, joined; each of the others for itself."""
    if together == 1:
        return [[node] for node in siblings]
    units: list[tuple[set[int], list[int]]] = []
    for node in siblings:
        groups, nodes = {row // together for row in trie[node].rows}, [node]
        apart = []
        for unit in units:
            if unit[0] & groups:
                groups, nodes = groups | unit[0], [*unit[1], *nodes]
            else:
                apart.append(unit)
        units = [*apart, (groups, nodes)]
    return [sorted(nodes) for _, nodes in units]


def _even_size(tokens: int, tokens_per_pass: int) -> float:
    return tokens / max(1, math.ceil(tokens / tokens_per_pass))


def _children(trie: Sequence[Node], parent: int, first: int, stop: int) -> list[int]:
    return [number for number in range(first, stop) if trie[number].parent == parent]
