"""Short answers, with credit for the words that are right."""

from __future__ import annotations

from collections import Counter

from stepladder.data.words import pieces
from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score
from stepladder.evaluation.graders.base import NO_REFERENCE
from stepladder.evaluation.graders.normalised_match import normalise


class TokenF1:
    """F1 of the words that answer and reference share, after `normalise`; when either has none left, 1 if both, else 0.

    Scripts without spaces between words (Japanese, Chinese, Thai, Lao, Khmer, Burmese …) are compared by character bigrams.
    """

    name = "token_f1"

    def grade(self, example: Example, answer: str) -> Grade:
        if not expected_answer(example).strip():
            return NO_REFERENCE
        given, reference = _words(answer), _words(expected_answer(example))
        if not given or not reference:
            return Score(float(given == reference))
        shared = (Counter(given) & Counter(reference)).total()
        return Score(2 * shared / (len(given) + len(reference)))


def _words(text: str) -> list[str]:
    return [piece for word in normalise(text).split() for piece in pieces(word)]
