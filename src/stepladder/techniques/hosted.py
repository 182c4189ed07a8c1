"""The rung `hosted`: a fine-tune at an endpoint with OpenAI's fine-tuning API, which then also answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import FitContext, Recipe
from stepladder.techniques.asking import ModelPredictor, ZeroShot
from stepladder.techniques.forms import form_of, recipe_form
from stepladder.techniques.tuning import FEWEST_ROWS, conversations


@dataclass(frozen=True)
class Hosted:
    """One job: the rows under the best zero-shot form, the held-out rows as its validation file.

    The weights stay at the endpoint. A submitted job is remembered in the run folder: whoever interrupts the climb and runs it
    again goes on waiting for that job and does not pay twice.
    """

    name: str = "hosted"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        if context.hosted is None:
            return "No endpoint is named (`[rungs.hosted] model`)."
        if context.hosted.closed is not None:
            return context.hosted.closed
        if len(context.train) < FEWEST_ROWS:
            return f"Fine-tuning needs at least {FEWEST_ROWS} training rows; there are {len(context.train)}."
        if not context.tune_rows or not context.held_out:
            return "Fine-tuning needs rows to learn and rows held out to be scored on; one of the two is empty."
        return None

    def fit(self, context: FitContext) -> ModelPredictor:
        """Raises: BudgetError, EngineError or ModelError, as `HostedTuner.tune`."""
        assert context.hosted is not None
        form = recipe_form(context.recipes, "prompt")
        prompter = ZeroShot(context, form)
        rows, held_out = (
            conversations(context, examples, prompter([example.input for example in examples]))
            for examples in (context.tune_rows, context.held_out)
        )
        tuned = context.hosted.tune(rows, held_out, folder=context.folder, seed=context.seed, progress=context.progress)
        recipe: dict[str, Any] = {
            "rung": self.name,
            **form.as_recipe(),
            "endpoint": context.hosted.name,
            **asdict(tuned),
        }
        return self.restore(recipe, context)

    def restore(self, recipe: Recipe, context: FitContext) -> ModelPredictor:
        """Raises: ModelError where task.toml names no endpoint any more."""
        if context.hosted is None:
            raise ModelError(
                f"'{recipe['model']}' answers at an endpoint, and none is named here.", "Give `[rungs.hosted] model` again."
            )
        model = str(recipe["model"])
        known = context.engine.identity.name == context.hosted.spoken_name(model)  # it is asked in another manner
        asking = context if known else replace(context, engine=context.hosted.answering(model))
        return ModelPredictor(asking, recipe, ZeroShot(asking, form_of(recipe)))
