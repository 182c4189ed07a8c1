"""Retention probes: small general questions that say whether a tuned model can still do what its base could.

The same shapes are read from the built-in files and from a user's own (`[use] probes`), one JSON object a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from stepladder.domain.settings import Settings


class Checks(Settings):
    """What an answer must be, all of it gradable without a judge. Texts are compared without regard to case."""

    contains: tuple[str, ...] = Field((), description="Texts that all must stand in the answer.")
    any_of: tuple[str, ...] = Field((), description="Texts of which one must stand in the answer.")
    lacks: tuple[str, ...] = Field((), description="Texts of which none may stand in the answer.")
    starts: str = Field("", description="What the answer begins with.")
    ends: str = Field("", description="What the answer ends with, closing punctuation aside.")
    matches: str = Field("", description="Pattern that the whole answer must match.")
    least_words: int | None = Field(None, ge=1, description="Fewest words.")
    most_words: int | None = Field(None, ge=1, description="Most words.")
    lines: int | None = Field(None, ge=1, description="Exact number of lines that are not empty.")
    case: Literal["", "upper", "lower"] = Field("", description="Only capitals, or none.")
    json_keys: tuple[str, ...] = Field((), description="The answer is a JSON object with exactly these keys.")

    @field_validator("matches")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> Checks:
        if self == Checks.model_construct():
            raise ValueError("an instruction needs at least one check")
        return self


class InstructionProbe(Settings):
    """An instruction whose answer can be checked: `{"prompt": …, "checks": {…}}`."""

    prompt: str = Field(min_length=1)
    checks: Checks


class ChoiceProbe(Settings):
    """A multiple-choice question: `{"question": …, "options": […], "answer": …}`."""

    question: str = Field(min_length=1)
    options: tuple[str, ...] = Field(min_length=2)
    answer: str

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> ChoiceProbe:
        if self.options.count(self.answer) != 1 or len(set(self.options)) != len(self.options):
            raise ValueError("`answer` must be one of `options`, and the options must differ")
        return self


class TextProbe(Settings):
    """A paragraph of general text: `{"text": …}`."""

    text: str = Field(min_length=40)


class WelcomeProbe(Settings):
    """A question that a helpful model does not refuse: `{"welcome": …}`."""

    welcome: str = Field(min_length=1)


class ReplayPrompt(Settings):
    """A general prompt whose answer by the base may be mixed into the training rows: `{"replay": …}`. Never measured."""

    replay: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Probes:
    """All that is asked of a base and of what was tuned from it."""

    instructions: tuple[InstructionProbe, ...]
    choices: tuple[ChoiceProbe, ...]
    texts: tuple[str, ...]
    welcome: tuple[str, ...]
    replay: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is answered freely: the instructions, then the welcome questions."""
        return (*(probe.prompt for probe in self.instructions), *self.welcome)
