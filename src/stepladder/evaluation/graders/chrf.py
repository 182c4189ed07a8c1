"""Free text, by shared character sequences."""

from __future__ import annotations

from sacrebleu.metrics.chrf import CHRF

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score
from stepladder.evaluation.graders.base import NO_REFERENCE


class Chrf:
    """Sentence chrF, divided by 100. Good for ranking rungs on the same rows, poor as a measure of quality.

    Source:
        Popović (2015), chrF: character n-gram F-score; sacrebleu's defaults (6 characters, beta 2, white space left out).
    """

    name = "chrf"

    def __init__(self) -> None:
        self._metric = CHRF()

    def grade(self, example: Example, answer: str) -> Grade:
        reference = expected_answer(example)
        if not reference.strip():
            return NO_REFERENCE
        share = float(self._metric.sentence_score(answer, [reference]).score) / 100
        return Score(min(max(share, 0.0), 1.0))  # the sum of six rounded ratios may pass 1 by a last digit
