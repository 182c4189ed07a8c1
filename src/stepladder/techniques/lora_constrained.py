"""The rung `lora+constrained`: the adapters of `lora`, held to the grammar. Nothing is trained again."""

from __future__ import annotations

from dataclasses import dataclass

from stepladder.domain.protocols import FitContext, Recipe
from stepladder.techniques.asking import GENERATE, ZeroShot
from stepladder.techniques.constrained import reason_no_grammar
from stepladder.techniques.forms import form_of
from stepladder.techniques.shape import grammar_of
from stepladder.techniques.tuning import TunedPredictor, borrowed_adapters, reason_not_to_tune


@dataclass(frozen=True)
class LoraConstrained:
    """What tuning learned, and a shape that cannot be missed."""

    name: str = "lora+constrained"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        reason = reason_not_to_tune(context) or reason_no_grammar(context)
        if reason is None and "lora" not in context.recipes:
            return "It answers with the adapter of `lora`, and that rung was not climbed."
        return reason

    def fit(self, context: FitContext) -> TunedPredictor:
        form = form_of(context.recipes["lora"])
        adapters = borrowed_adapters(context, "lora")
        return self.restore({"rung": self.name, **form.as_recipe(), "decode": GENERATE, "adapters": adapters}, context)

    def restore(self, recipe: Recipe, context: FitContext) -> TunedPredictor:
        return TunedPredictor(context, recipe, ZeroShot(context, form_of(recipe)), grammar_of(context.task))
