"""Answers that must follow a pattern."""

from __future__ import annotations

from stepladder.data.patterns import NotMatched, Pattern
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded


class Regex:
    """1 when the pattern matches the whole answer (outer white space removed), else 0. The reference plays no part.

    A row is ungraded where the pattern runs over `timeout_seconds`; how patterns are matched: `data/patterns.py`.
    """

    def __init__(self, pattern: str, *, name: str | None = None, timeout_seconds: float = 2.0) -> None:
        self.name = name or "regex"
        self._pattern = Pattern(pattern, timeout_seconds=timeout_seconds)

    def grade(self, example: Example, answer: str) -> Grade:
        try:
            return Score(float(self._pattern.matches(answer.strip())))
        except NotMatched as reason:
            return Ungraded(str(reason))
