"""The rung `qlora`: the fine-tune of `lora` on a base model held in 4 bits, which then also answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepladder.domain.protocols import FitContext, Recipe
from stepladder.techniques.forms import form_of
from stepladder.techniques.lora import Lora
from stepladder.techniques.tuning import TunedPredictor, reason_not_to_tune


@dataclass(frozen=True)
class Qlora:
    """Supervised fine-tuning over 4-bit weights (NF4, double quantisation), for machines that cannot hold 16 bits.

    The context's engine and tuner are those of the 4-bit model: what is measured is what is used.
    """

    name: str = "qlora"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_not_to_tune(context)

    def fit(self, context: FitContext) -> TunedPredictor:
        """The prompt is the one `lora` chose, where it was climbed; else chosen in the same way."""
        if "lora" in context.recipes:
            chosen = form_of(context.recipes["lora"]).as_recipe()
            context = replace(
                context, recipes={**context.recipes, "prompt": chosen}, choices=replace(context.choices, lora_prompts=1)
            )
        return Lora(self.name).fit(context)

    def restore(self, recipe: Recipe, context: FitContext) -> TunedPredictor:
        return Lora(self.name).restore(recipe, context)
