"""Answers, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was written, with its natural-log probability, and the likeliest ones at its place, likeliest first.

    Probabilities are the model's own: before temperature, `top_p` and grammar. `text` is the token's; half a character shows
    as U+FFFD, and the end of the turn as its control token.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine returned for one prompt. `text` holds tool calls too, in the form of `domain.answer`.

    `cut` = stopped by `max_new_tokens`, not by the model. `latency_seconds` = the batch's wall time shared out by tokens
    for a batched local engine, the call's own time for an endpoint. `*_sha256` say which weights spoke. `logprobs` are there
    when asked for, one entry a token. `fault` says why there is no answer, where a server gave none in spite of all attempts:
    then the text is empty, and worth no score at all. `counts_estimated`: the server's own token counts could not be right.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    latency_seconds: float
    cut: bool = False
    shared_prompt_tokens: int = 0  # of prompt_tokens, computed once for several prompts
    model_sha256: str = ""
    adapter_sha256: str | None = None
    prompt_sha256: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    fault: str = ""
    counts_estimated: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.logprobs, tuple):  # a journal of answers gives back lists of mappings
            object.__setattr__(self, "logprobs", tuple(_read_logprob(one) for one in self.logprobs))


def _read_logprob(entry: TokenLogprob | Mapping[str, Any]) -> TokenLogprob:
    if isinstance(entry, TokenLogprob):
        return entry
    return TokenLogprob(entry["text"], entry["logprob"], tuple((text, value) for text, value in entry["top"]))


@dataclass(frozen=True, slots=True)
class Prediction:
    """A rung's answer to one input. `generation` is None for rungs that call no model.

    `text` is the whole assistant message, tool calls included: `domain.answer.read_answer` gives it back.
    """

    input_id: str
    text: str
    generation: Generation | None = None
    latency_seconds: float = 0.0
    retrieved: tuple[str, ...] = ()  # documents shown to the model, best first
    passages: tuple[str, ...] = ()  # `Chunk.id` of what was shown of them, best first

    @property
    def cut(self) -> bool:
        return self.generation is not None and self.generation.cut

    @property
    def fault(self) -> str:
        """Why there is no answer; empty where there is one."""
        return self.generation.fault if self.generation is not None else ""

    @property
    def unspoken(self) -> bool:
        """Whether a server's model was cut before its first word, as one that thinks may be: its answer is not known."""
        spoken = self.generation
        return spoken is not None and spoken.cut and not spoken.text and not spoken.model_sha256

    @classmethod
    def from_generation(
        cls,
        input_id: str,
        generation: Generation,
        *,
        text: str | None = None,
        retrieved: tuple[str, ...] = (),
        passages: tuple[str, ...] = (),
    ) -> Prediction:
        answer = generation.text if text is None else text
        return cls(input_id, answer, generation, generation.latency_seconds, retrieved, passages)


@dataclass(frozen=True, slots=True)
class Score:
    """How good one answer is, in [0, 1]."""

    value: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score lies in [0, 1], not {self.value}")


@dataclass(frozen=True, slots=True)
class Ungraded:
    """The grader could not judge. Never a zero: a broken grader must not look like a bad model."""

    reason: str


Grade = Score | Ungraded
