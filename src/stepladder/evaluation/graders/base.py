"""What every grader promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Ungraded

NO_REFERENCE = Ungraded("the reference is empty")


class Grader(Protocol):
    """Judges one answer against its example.

    Any text may come as the answer, and the same pair always gets the same grade. `grade` never raises on account of a text;
    only a judge that may not be asked at all (`BudgetError`, `PrivacyError`, `ModelError`) stops the work.
    """

    @property
    def name(self) -> str: ...

    def grade(self, example: Example, answer: str) -> Grade: ...


@runtime_checkable
class Aggregating(Protocol):
    """A grader that has more to say about all rows together than their mean score."""

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]: ...


@runtime_checkable
class Preparing(Protocol):
    """A grader that is quicker when it knows many rows at once, and that can look at a row before anything is asked."""

    def prepare(self, examples: Sequence[Example], answers: Sequence[str]) -> None: ...

    def cannot_judge(self, example: Example) -> Ungraded | None: ...


def prepare(grader: Grader, examples: Sequence[Example], answers: Sequence[str]) -> None:
    """Say which rows will be graded next; judges ask for all of them together."""
    if isinstance(grader, Preparing):
        grader.prepare(examples, answers)


def cannot_judge(grader: Grader, example: Example) -> Ungraded | None:
    """Why the grader can never judge this row, whatever the answer; no model is asked."""
    if isinstance(grader, Preparing):
        return grader.cannot_judge(example)
    grade = grader.grade(example, expected_answer(example))
    return grade if isinstance(grade, Ungraded) else None


def metrics(grader: Grader, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    """The aggregates a grader adds to the mean score, by name; shares from 0 to 1. Rows it cannot judge are left out."""
    return grader.metrics(examples, answers) if isinstance(grader, Aggregating) else {}
