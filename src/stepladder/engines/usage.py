"""What one call may cost at most, and the token counts a server states: believed up to that, else estimated from the texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROOM_FOR_TEMPLATE = 4096
"""Tokens a server's own template, tools and system prompt may add to what was sent."""
HIDDEN_FACTOR = 32
"""A model may think on beyond the limit unseen, and be paid for it; up to this many times the limit is believed."""
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Most:
    """The most tokens that one call can be billed for. They are set aside before it is sent, so no count beyond is believed.

    Nothing is learned from call to call: how long a model thinks depends on the row.

    Attributes:
        request_bytes: Of all that is sent. No tokenizer makes more tokens than there are bytes.
        within_limit: Whether thoughts count against the limit, too, so that nothing is billed beyond it.
    """

    request_bytes: int
    max_new_tokens: int
    within_limit: bool = False

    @property
    def prompt(self) -> int:
        return self.request_bytes + ROOM_FOR_TEMPLATE

    @property
    def completion(self) -> int:
        return self.max_new_tokens * (1 if self.within_limit else HIDDEN_FACTOR)


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one call; `cached` are those of `prompt` that the server had read before."""

    prompt: int
    completion: int
    cached: int = 0
    estimated: bool = False


def read_counts(prompt: Any, completion: Any, cached: Any, *, most: Most, text: str) -> Counts:
    """The counts as stated where they can be right, else an estimate. A wrong count must not touch a score or the budget."""
    if (
        is_count(prompt)
        and is_count(completion)
        and 0 < prompt <= most.prompt
        and (1 if text else 0) <= completion <= most.completion
    ):
        return Counts(prompt, completion, cached if is_count(cached) and 0 <= cached < prompt else 0)
    said = len(text.encode("utf-8", "replace"))
    written = min(most.max_new_tokens, 1 + said // BYTES_PER_TOKEN)
    return Counts(max(1, most.request_bytes // BYTES_PER_TOKEN), written, estimated=True)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
