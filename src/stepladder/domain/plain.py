"""What some engines can do beside answering a conversation: continue a bare text, and say how likely each token of a text is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stepladder.domain.messages import Message
from stepladder.domain.protocols import Prompt


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token of a text: what it says, how likely it was (natural log; None for the very first, which nothing foretells),
    and the likeliest tokens at its place, the best first."""

    text: str
    raw: bytes
    log_probability: float | None
    top: tuple[tuple[str, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote behind a text. `cut`: it had not come to an end."""

    text: str
    tokens: int
    cut: bool


class PlainTexts(Protocol):
    """A model without its chat template. Called on the asking thread only."""

    @property
    def context_tokens(self) -> int:
        """0 = unknown."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """Raises `UsageError` for an id that is no token."""
        ...

    def continue_text(
        self, ids: Sequence[int], max_new_tokens: int, *, temperature: float, top_p: float, seed: int, adapter: Path | None
    ) -> Continuation: ...

    def scores(self, ids: Sequence[int], top: int, *, adapter: Path | None) -> list[TokenScore]:
        """Every token of a text, with the `top` likeliest at each place."""
        ...

    def answer_scores(self, prompt: Prompt, answer: Message, top: int, *, adapter: Path | None) -> list[TokenScore]:
        """The tokens of an answer to a conversation, without the one that ends it."""
        ...
