"""Comparing JSON values field by field: what `json_fields` and `tool_calls` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

Item = TypeVar("Item")


def leaves(value: Any) -> int:
    """Fields of a JSON value: its strings, numbers, true, false, null, `[]` and `{}`."""
    if isinstance(value, dict | list) and value:
        children = value.values() if isinstance(value, dict) else value
        return sum(leaves(child) for child in children)
    return 1


def overlap(given: Any, reference: Any) -> int:
    """Number of leaves that both trees share."""
    if isinstance(given, dict) and isinstance(reference, dict) and given and reference:
        return sum(overlap(given[key], reference[key]) for key in given.keys() & reference.keys())
    if isinstance(given, list) and isinstance(reference, list) and given and reference:
        return best_pairing(given, reference, overlap)
    return int(_same(given, reference))


def best_pairing(given: Sequence[Item], reference: Sequence[Item], shared_by: Callable[[Item, Item], int]) -> int:
    """What both lists share when their elements are paired so that it is most."""
    if not given or not reference:
        return 0
    shared = np.array([[shared_by(mine, theirs) for theirs in reference] for mine in given])
    rows, columns = linear_sum_assignment(shared, maximize=True)
    return int(shared[rows, columns].sum())


def _same(given: Any, reference: Any) -> bool:
    if isinstance(given, str) and isinstance(reference, str):
        return given.strip() == reference.strip()
    if isinstance(given, bool) or isinstance(reference, bool):  # Python takes True for 1, JSON does not
        return given is reference
    return bool(given == reference)
