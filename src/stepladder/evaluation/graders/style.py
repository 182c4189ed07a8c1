"""Free text that must sound a certain way: how much an answer reads like the references, and unlike the untuned model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.evaluation.facts import Haystack, open_spans
from stepladder.evaluation.graders.base import NO_REFERENCE
from stepladder.evaluation.graders.style_model import StyleModel, permutation_p, separation

LENGTHS = (0.5, 2.0)  # characters of the answer over those of the reference
NOT_FITTED = "the style grader has to learn from a climb's training rows first"


class Style:
    """P(target style) by a `StyleModel` that was fitted before any rung was scored; without one every row is ungraded.

    0 where the answer loses a number or a name of the input that the reference keeps, or is shorter than half of the
    reference or longer than twice. References themselves do not score 1: `style_of_references` says what they score.
    """

    name = "style"

    def __init__(self, model: StyleModel | None = None) -> None:
        self.model = model
        self._known: dict[tuple[str, str], float] = {}  # many rungs give the same answers

    def grade(self, example: Example, answer: str) -> Grade:
        reference = expected_answer(example)
        if not reference.strip():
            return NO_REFERENCE
        if self.model is None:
            return Ungraded(NOT_FITTED)
        if self.model.refusal is not None:
            return Ungraded(self.model.refusal)
        ratio = len(answer.strip()) / len(reference.strip())
        if not LENGTHS[0] <= ratio <= LENGTHS[1] or lost_spans(example, answer):
            return Score(0.0)
        key = (example.id, answer)
        if key not in self._known:
            self._known[key] = float(self.model.probabilities([answer], [example.id])[0])
        return Score(self._known[key])

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """See `style_metrics`."""
        return style_metrics([(self, examples, answers)])


def lost_spans(example: Example, answer: str) -> tuple[str, ...]:
    """Numbers, names, dates and codes of the input that the answer has lost; those the reference drops too may go."""
    kept, said = Haystack(expected_answer(example)), Haystack(answer)
    return tuple(span for span in open_spans(example.input.text) if span in kept and span not in said)


def style_metrics(parts: Sequence[tuple[Style, Sequence[Example], Sequence[str]]]) -> dict[str, float]:
    """How far references and answers can be told apart, over rows that several fitted graders share out (folds).

    `style_auc`: the chance that a reference reads more like the target than an answer, ½ = indistinguishable; compared within
    each grader's own rows. `style_auc_p`: how easily as much comes about by chance. `style_of_references`: what the references
    themselves score. `style_cross_validated_auc`: how well references and untuned answers of the training rows are told
    apart. Empty when nothing was fitted.
    """
    fitted = [(style.model, list(examples), list(answers)) for style, examples, answers in parts if style.model and examples]
    if not fitted:
        return {}
    groups = []
    for model, examples, answers in fitted:
        ids = [example.id for example in examples]
        references = [expected_answer(example) for example in examples]
        groups.append((model.probabilities(references, ids), model.probabilities(answers, ids)))
    aucs = [model.auc for model, _, _ in fitted if not np.isnan(model.auc)]
    return {
        "style_auc": separation(groups),
        "style_auc_p": permutation_p(groups),
        "style_of_references": float(np.mean(np.concatenate([references for references, _ in groups]))),
        **({"style_cross_validated_auc": float(np.mean(aucs))} if aucs else {}),
    }
