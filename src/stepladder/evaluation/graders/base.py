"""What every grader promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Ungraded

NO_REFERENCE = Ungraded("the reference is empty")


class Grader(Protocol):
    """Judges one answer against its example.

    Any text may come as the answer: `grade` never raises, and the same pair always gets the same grade.
    """

    @property
    def name(self) -> str: ...

    def grade(self, example: Example, answer: str) -> Grade: ...


@runtime_checkable
class Aggregating(Protocol):
    """A grader that has more to say about all rows together than their mean score."""

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]: ...


def metrics(grader: Grader, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    """The aggregates a grader adds to the mean score, by name; shares from 0 to 1. Rows it cannot judge are left out."""
    return grader.metrics(examples, answers) if isinstance(grader, Aggregating) else {}
