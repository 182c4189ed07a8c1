"""OpenAI's `text_similarity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from rapidfuzz import fuzz

from stepladder.domain.grader_settings import TextSimilarityGrader
from stepladder.domain.protocols import Embedder
from stepladder.evaluation.graders.meteor import load_meteor
from stepladder.evaluation.graders.reward import Fault, GraderRefused, Outcome, Reward, Subject, Trouble
from stepladder.evaluation.graders.string_check import TwoTexts
from stepladder.evaluation.graders.template import Missing, missing
from stepladder.evaluation.graders.word_overlap import bleu, gleu, rouge_l, rouge_n, rouge_words, words

Metric = Callable[[str, str], float | str]
"""(given, reference) to a number, or to the reason why this reference cannot be measured against."""


class TextSimilarity:
    """The chosen metric of both rendered texts, in [0, 1].

    A reference that the metric cannot see (no word of its alphabet, or fewer words than it counts at a time) leaves the row
    ungraded: every answer would score 0 there, the perfect one too.
    """

    type = "text_similarity"
    asks_a_model = False

    def __init__(self, settings: TextSimilarityGrader, embedder: Callable[[], Embedder] | None = None) -> None:
        self.name = settings.name or self.type
        self._texts = TwoTexts(settings.input, settings.reference)
        self._metric = _metric(settings.evaluation_metric, embedder)
        self.variables = self._texts.variables

    def reward(self, subject: Subject) -> Outcome:
        try:
            given, reference = self._texts.render(subject)
        except Missing as error:
            return missing(error)
        if not reference.strip():
            return Fault("the reference is empty", Trouble.VARIABLE)
        found = self._metric(given, reference)
        if isinstance(found, str):
            return Fault(found, Trouble.OTHER)
        return Reward(min(max(found, 0.0), 1.0))  # sums of rounded ratios may pass 1 by a last digit

    def prepare(self, subjects: Sequence[Subject]) -> None:
        """Nobody is asked."""

    def template_fault(self, subject: Subject) -> Fault | None:
        return self._texts.fault(subject)


def _metric(name: str, embedder: Callable[[], Embedder] | None) -> Metric:
    """Raises `GraderRefused` where what the metric needs is not at hand."""
    if name == "fuzzy_match":
        return lambda given, reference: float(fuzz.WRatio(given, reference)) / 100
    if name == "meteor":
        return _needing(words, 1, load_meteor())
    if name == "cosine":
        if embedder is None:
            raise GraderRefused("the metric cosine needs an embedder.", "Choose another metric here.", "evaluation_metric")
        return _Cosine(embedder)
    if name == "rouge_l":
        return _needing(rouge_words, 1, rouge_l)
    if name.startswith("rouge_"):
        size = int(name.removeprefix("rouge_"))
        return _needing(rouge_words, size, partial(rouge_n, size=size))
    return _needing(words, 1, bleu if name == "bleu" else gleu)


def _needing(tokens: Callable[[str], list[str]], least: int, metric: Callable[[str, str], float]) -> Metric:
    """`metric`, for references of at least so many words."""

    def measured(given: str, reference: str) -> float | str:
        found = len(tokens(reference))
        if found < least:
            return f"the metric needs a reference of {least} words, and finds {found} (ROUGE reads a–z and 0–9 only)"
        return metric(given, reference) if tokens(given) else 0.0

    return measured


class _Cosine:
    """Cosine of both embeddings, negative ones as 0; the embedder is fetched at the first use."""

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        self._build = embedder
        self._embedder: Embedder | None = None

    def __call__(self, given: str, reference: str) -> float | str:
        if self._embedder is None:
            self._embedder = self._build()
        whole = [text.encode("utf-8", errors="replace").decode("utf-8") for text in (given, reference)]
        mine, theirs = self._embedder.embed(whole).astype(np.float64)
        if not theirs.any():
            return "the embedder knows no word of the reference"
        if given == reference:
            return 1.0
        length = float(np.linalg.norm(mine) * np.linalg.norm(theirs))
        return max(0.0, float(mine @ theirs) / length) if length else 0.0
