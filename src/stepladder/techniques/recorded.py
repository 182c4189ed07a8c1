"""The rung `recorded`: what the present system answered, scored like any other rung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepladder.domain.errors import EvaluationError
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Recipe


@dataclass(frozen=True)
class Recorded:
    """Answers by input id, from the rows and from `[data] recorded`."""

    name: str = "recorded"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        answers = _answers(context)
        if not answers:
            return "No answers of a present system were given (`[data] recorded`)."
        missing = [row.id for row in context.validation if row.id not in answers]
        if missing:
            return f"{len(missing)} of {len(context.validation)} validation rows have no recorded answer, '{missing[0]}' for one."
        return None

    def fit(self, context: FitContext) -> Predictor:
        return self.restore({"rung": self.name, "answers": len(_answers(context))}, context)

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        return RecordedAnswers(recipe, _answers(context))


@dataclass(frozen=True, slots=True)
class RecordedAnswers:
    """Repeats what was recorded; it cannot answer what was never asked."""

    recipe: Recipe
    answers: Mapping[str, str]

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order.

        Raises:
            EvaluationError: The present system's answer to an input is not known.
        """
        missing = next((input.id for input in inputs if input.id not in self.answers), None)
        if missing is not None:
            raise EvaluationError(
                f"the input '{missing}' has no recorded answer.",
                "Add the present system's answer for it, or choose another rung.",
            )
        return [Prediction(input.id, self.answers[input.id]) for input in inputs]


def _answers(context: FitContext) -> dict[str, str]:
    rows = (*context.train, *context.validation)
    return {**{row.id: row.recorded for row in rows if row.recorded is not None}, **context.recorded}
