"""Short answers, with credit for the words that are right."""

from __future__ import annotations

from collections import Counter

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score
from stepladder.evaluation.graders.base import NO_REFERENCE
from stepladder.evaluation.graders.normalised_match import normalise


class TokenF1:
    """F1 of the words that answer and reference share, after `normalise`; when either has none left, 1 if both, else 0."""

    name = "token_f1"

    def grade(self, example: Example, answer: str) -> Grade:
        if not expected_answer(example).strip():
            return NO_REFERENCE
        given, reference = normalise(answer).split(), normalise(expected_answer(example)).split()
        if not given or not reference:
            return Score(float(given == reference))
        shared = (Counter(given) & Counter(reference)).total()
        return Score(2 * shared / (len(given) + len(reference)))
