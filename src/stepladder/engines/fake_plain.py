"""Bare texts without a model, for tests: a token is a byte of UTF-8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from stepladder.domain.errors import UsageError
from stepladder.domain.messages import Message
from stepladder.domain.plain import Continuation, TokenScore
from stepladder.domain.protocols import Prompt


class FakePlainTexts:
    """Continues a text with its own beginning, over and over; letters are as likely as each other."""

    context_tokens = 4096

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        if any(not 0 <= id < 256 for id in ids):
            raise UsageError("A token id lies beyond the 256 tokens of fake.", "Send texts instead.")
        return bytes(ids).decode("utf-8", errors="replace")

    def continue_text(
        self, ids: Sequence[int], max_new_tokens: int, *, temperature: float, top_p: float, seed: int, adapter: Path | None
    ) -> Continuation:
        new = [ids[place % len(ids)] for place in range(max_new_tokens)]
        return Continuation(self.decode(new), len(new), cut=True)

    def scores(self, ids: Sequence[int], top: int, *, adapter: Path | None) -> list[TokenScore]:
        self.decode(ids)
        each = -math.log(256)
        tops = tuple((chr(97 + place), bytes([97 + place]), each) for place in range(top))
        shown = [(bytes([id]).decode("utf-8", errors="replace"), bytes([id])) for id in ids]
        return [TokenScore(text, raw, each if place else None, tops if place else ()) for place, (text, raw) in enumerate(shown)]

    def answer_scores(self, prompt: Prompt, answer: Message, top: int, *, adapter: Path | None) -> list[TokenScore]:
        return self.scores([0, *self.encode(answer.content)], top, adapter=adapter)[1:]
