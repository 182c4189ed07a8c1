"""Short answers, right or wrong."""

from __future__ import annotations

import re
import string

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score
from stepladder.evaluation.graders.base import NO_REFERENCE

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces.

    Source:
        The evaluation of SQuAD 1.1: Rajpurkar et al. (2016), arXiv 1606.05250.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


class NormalisedMatch:
    """1 when answer and reference are equal after `normalise`, else 0; `exact`: equal but for outer white space.

    A reference of which `normalise` leaves nothing ("A", "?") is compared as it stands.
    """

    name = "normalised_match"

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact

    def grade(self, example: Example, answer: str) -> Grade:
        reference = expected_answer(example)
        if not reference.strip():
            return NO_REFERENCE
        if self._exact or not normalise(reference):
            return Score(float(answer.strip() == reference.strip()))
        return Score(float(normalise(answer) == normalise(reference)))
