"""One request for an answer, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stepladder.domain.errors import EngineError, StepladderError
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt


class TooLong(EngineError):
    """The conversation leaves no room for an answer in the model's context."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked.

    Attributes:
        max_new_tokens: None for as many as the model's context and the server's setting allow.
        seed: None for a new one with every answer; it and `top_p` count only above temperature 0.
        logprobs: How many of the likeliest tokens to report at every place; None for nothing.
    """

    prompt: Prompt
    max_new_tokens: int | None = None
    temperature: float = 1.0
    seed: int | None = None
    grammar: Grammar | None = None
    logprobs: int | None = None
    top_p: float = 1.0

    def decoding(self, max_new_tokens: int, seed: int) -> Decoding:
        if self.temperature > 0:
            return Decoding(max_new_tokens, self.temperature, seed, self.grammar, self.top_p, self.logprobs)
        return Decoding(max_new_tokens, grammar=self.grammar, logprobs=self.logprobs)


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """A question to someone.

    `on_text` hears the answer piece by piece while it is written, on the thread that writes; not every speaker can tell.
    """

    speaker: Speaker
    question: Question
    on_text: Callable[[str], None] | None = None


class Speaker(Protocol):
    """Who answers: a base model, an adapter on one, or a rung of a climb. Only the asking thread calls it."""

    @property
    def name(self) -> str:
        """The model that an answer names."""
        ...

    @property
    def key(self) -> Hashable:
        """Questions to speakers of equal key are answered together, by any of them; such speakers are of one class."""
        ...

    def answer(self, asked: Sequence[Asked], on_answer: Callable[[int, Generation | StepladderError], None]) -> None:
        """Call `on_answer(index, …)` once for every question, as each is done; one question's error is its own."""
        ...
