"""The rung `lora+nearest`: tuned to answer with its nearest demonstrations in view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.domain.messages import Example
from stepladder.domain.protocols import Conversation, FitContext, Recipe
from stepladder.techniques.forms import form_of, recipe_form
from stepladder.techniques.nearest import NearestShots
from stepladder.techniques.shots import possible_shots, reason_no_shots
from stepladder.techniques.tuning import TunedPredictor, choose_tuned_decode, conversations, reason_not_to_tune, tune_seeds


@dataclass(frozen=True)
class LoraNearest:
    """Trained with the smallest number of demonstrations, drawn from the rows it learns and never of a row's own cluster."""

    name: str = "lora+nearest"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_not_to_tune(context) or reason_no_shots(context)

    def fit(self, context: FitContext) -> TunedPredictor:
        """Raises: DataError or ModelError from the tuner, when a row is too long or has nothing to learn."""
        form = recipe_form(context.recipes, "lora", "prompt")
        count = min(context.choices.shots[0], possible_shots(context)[-1])
        # Held-out answers may not be shown in training, so both draw from the learned rows; later calls draw from all.
        learned = NearestShots(context, form, count, context.tune_rows)
        rows, held_out = _rows(learned, context.tune_rows), _rows(learned, context.held_out)
        adapters = tune_seeds(context, rows, held_out, form.name)
        prompter = NearestShots(context, form, count, context.train)
        recipe: dict[str, Any] = {
            "rung": self.name,
            **form.as_recipe(),
            "k": count,
            **choose_tuned_decode(context, prompter, adapters).as_recipe(),
            "adapters": adapters,
        }
        return self.restore(recipe, context)

    def restore(self, recipe: Recipe, context: FitContext) -> TunedPredictor:
        return TunedPredictor(context, recipe, NearestShots(context, form_of(recipe), recipe["k"], context.train))


def _rows(prompter: NearestShots, examples: Sequence[Example]) -> list[Conversation]:
    return conversations(prompter.context, examples, prompter([example.input for example in examples]))
