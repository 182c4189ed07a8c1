"""METEOR, which needs nltk and its WordNet: refused by name where they are not at hand, never downloaded by itself."""

from __future__ import annotations

from collections.abc import Callable

from stepladder.evaluation.graders.reward import GraderRefused
from stepladder.evaluation.graders.word_overlap import words

_HINT = "Run: pip install nltk, then: python -m nltk.downloader wordnet. Or choose another metric, such as rouge_l or bleu."


def load_meteor() -> Callable[[str, str], float]:
    """METEOR of (given, reference) in [0, 1], as nltk computes it with its defaults on mteval-v13a tokens.

    Raises:
        GraderRefused: nltk or its WordNet is missing.
    Source:
        Lavie and Agarwal (2007), METEOR: An Automatic Metric for MT Evaluation with High Levels of Correlation.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import meteor_score
    except ModuleNotFoundError as error:
        raise GraderRefused("the metric meteor needs nltk, which is not installed.", _HINT, "evaluation_metric") from error
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise GraderRefused("the metric meteor needs WordNet, which is not at hand.", _HINT, "evaluation_metric") from error
    return lambda given, reference: float(meteor_score([words(reference)], words(given)))
