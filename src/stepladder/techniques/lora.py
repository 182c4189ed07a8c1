"""The rung `lora`: a fine-tune on the best zero-shot form, or on the input alone if that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.domain.messages import Example
from stepladder.domain.protocols import Conversation, FitContext, Recipe, Tuned
from stepladder.techniques.asking import ZeroShot
from stepladder.techniques.forms import SHORT, Form, form_of, recipe_form
from stepladder.techniques.tuning import (
    TunedPredictor,
    choose_tuned_decode,
    conversations,
    reason_not_to_tune,
    tune,
    tune_seeds,
)


@dataclass(frozen=True)
class Lora:
    """Supervised fine-tuning; trains (prompts tried + seeds - 1) adapters."""

    name: str = "lora"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_not_to_tune(context)

    def fit(self, context: FitContext) -> TunedPredictor:
        """Raises: DataError or ModelError from the tuner, when a row is too long or has nothing to learn."""
        forms = [recipe_form(context.recipes, "prompt")]
        if context.choices.lora_prompts >= 2 and forms[0] != SHORT:
            forms.append(SHORT)
        tunes: dict[str, Tuned] = {}
        for form in forms:
            rows, held_out = _rows(context, form, context.tune_rows), _rows(context, form, context.held_out)
            tunes[form.name] = tune(context, rows, held_out, form.name, context.seed)
        form, why = _choose(forms, tunes)
        rows, held_out = _rows(context, form, context.tune_rows), _rows(context, form, context.held_out)
        adapters = tune_seeds(context, rows, held_out, form.name, first=tunes[form.name])
        decode = choose_tuned_decode(context, ZeroShot(context, form), adapters)
        recipe: dict[str, Any] = {
            "rung": self.name,
            **form.as_recipe(),
            **decode.as_recipe(),
            "folder_name": context.folder.name,
            "adapters": adapters,
            "variants": [_variant(name, tuned) for name, tuned in tunes.items()],
            "chosen_because": why,
        }
        return self.restore(recipe, context)

    def restore(self, recipe: Recipe, context: FitContext) -> TunedPredictor:
        return TunedPredictor(context, recipe, ZeroShot(context, form_of(recipe)))


def short_is_enough(long: Sequence[float], short: Sequence[float]) -> tuple[bool, float, float]:
    """Whether the short prompt's loss is not more than one standard error above the long one's, row by row.

    Args:
        long, short: Mean nats per learned token of the same held-out rows.
    Returns:
        The answer, the mean difference (positive: the short prompt is worse), and its standard error.
    """
    difference = np.asarray(short, dtype=np.float64) - np.asarray(long, dtype=np.float64)
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
    mean = float(difference.mean())
    return mean <= error, mean, error


def _choose(forms: Sequence[Form], tunes: dict[str, Tuned]) -> tuple[Form, str]:
    if len(forms) == 1:
        return forms[0], "only this prompt was trained"
    enough, mean, error = short_is_enough(tunes[forms[0].name].held_out_nll, tunes[SHORT.name].held_out_nll)
    says = f"held-out loss of the short prompt minus the long one's: {mean:+.4f} nats per token, standard error {error:.4f}"
    if enough:
        return SHORT, f"the short prompt is not worse, and every call is cheaper ({says})"
    return forms[0], f"the short prompt is worse by more than one standard error ({says})"


def _rows(context: FitContext, form: Form, examples: Sequence[Example]) -> list[Conversation]:
    return conversations(context, examples, ZeroShot(context, form)([example.input for example in examples]))


def _variant(name: str, tuned: Tuned) -> dict[str, Any]:
    nll = tuned.held_out_nll
    return {"form": name, "held_out_nll": float(np.mean(nll)) if nll else None, "seconds": tuned.seconds, "steps": tuned.steps}
