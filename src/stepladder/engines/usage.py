"""The token counts a server states: believed when they can be right, else estimated from the texts and marked so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROOM_FOR_TEMPLATE = 4096
"""Tokens a server's own template, tools and system prompt may add to what was sent."""
HIDDEN_FACTOR = 32
"""A model may think on beyond the limit unseen, and be paid for it; up to this many times the limit is believed."""
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one call; `cached` are those of `prompt` that the server had read before."""

    prompt: int
    completion: int
    cached: int = 0
    estimated: bool = False


def read_counts(prompt: Any, completion: Any, cached: Any, *, request_bytes: int, max_new_tokens: int, text: str) -> Counts:
    """The counts as stated where they can be right, else an estimate. A wrong count must not touch a score or the budget."""
    if (
        _is_count(prompt)
        and _is_count(completion)
        and 0 < prompt <= request_bytes + ROOM_FOR_TEMPLATE
        and (1 if text else 0) <= completion <= HIDDEN_FACTOR * max_new_tokens
    ):
        return Counts(prompt, completion, cached if _is_count(cached) and 0 <= cached < prompt else 0)
    said = len(text.encode("utf-8", "replace"))
    return Counts(max(1, request_bytes // BYTES_PER_TOKEN), min(max_new_tokens, 1 + said // BYTES_PER_TOKEN), estimated=True)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
