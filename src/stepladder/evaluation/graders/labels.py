"""Closed label sets."""

from __future__ import annotations

from collections.abc import Sequence

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.evaluation.graders.base import NO_REFERENCE


def label_key(text: str) -> str:
    """What makes two labels the same: letter case and outer white space do not count, all else does."""
    return text.strip().casefold()


class Labels:
    """1 when the answer is the reference label, else 0.

    With a list of allowed labels, a reference outside it is the data's fault and stays ungraded; an answer outside it is wrong.
    """

    name = "labels"

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self._allowed = frozenset(label_key(label) for label in labels)

    def grade(self, example: Example, answer: str) -> Grade:
        reference = label_key(expected_answer(example))
        if not reference:
            return NO_REFERENCE
        if self._allowed and reference not in self._allowed:
            return Ungraded(f"the reference {expected_answer(example)[:40]!r} is not one of the labels")
        return Score(float(label_key(answer) == reference))

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """`accuracy`, `macro_f1` (mean F1 of the labels that occur as references), `out_of_set` (answers that are no label)."""
        pairs = [
            (label_key(expected_answer(example)), label_key(answer))
            for example, answer in zip(examples, answers, strict=True)
            if isinstance(self.grade(example, answer), Score)
        ]
        if not pairs:
            return {}
        occurring = {reference for reference, _ in pairs}
        allowed = self._allowed or occurring
        return {
            "accuracy": sum(reference == answer for reference, answer in pairs) / len(pairs),
            "macro_f1": sum(_f1(pairs, label) for label in occurring) / len(occurring),
            "out_of_set": sum(answer not in allowed for _, answer in pairs) / len(pairs),
        }


def _f1(pairs: Sequence[tuple[str, str]], label: str) -> float:
    hits = sum(reference == answer == label for reference, answer in pairs)
    claims = sum(answer == label for _, answer in pairs)
    occurrences = sum(reference == label for reference, _ in pairs)
    return 2 * hits / (claims + occurrences)
