"""The rung `few-shot`: the same few demonstrations in every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.domain.messages import Example, Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Recipe
from stepladder.techniques.asking import Asked, ModelPredictor, generate, say_dropped
from stepladder.techniques.decode import choose_decode
from stepladder.techniques.forms import Form, form_of, recipe_form
from stepladder.techniques.racing import Answers, race, shuffled
from stepladder.techniques.shots import (
    ask_with_shots,
    by_id,
    cluster_of,
    own_clusters,
    possible_shots,
    reason_no_shots,
    representatives,
)

RESERVES = 1  # demonstrations come from different clusters, so at most one of them is from the input's own


@dataclass(frozen=True, slots=True)
class StaticShots:
    """Demonstrations in a fixed order; one from the input's own cluster gives way to the next reserve."""

    context: FitContext
    form: Form
    shots: tuple[Example, ...]
    reserves: tuple[Example, ...]

    def __call__(self, inputs: Sequence[Input]) -> list[Asked]:
        clusters = own_clusters(self.context, inputs)
        return ask_with_shots(self.context, self.form, inputs, [self._without(cluster) for cluster in clusters])

    def _without(self, cluster: int | str | None) -> list[Example]:
        reserves = (one for one in self.reserves if cluster_of(self.context, one.id) != cluster)
        shown = [one if cluster_of(self.context, one.id) != cluster else next(reserves, None) for one in self.shots]
        return [one for one in shown if one is not None]


@dataclass(frozen=True)
class FewShot:
    """k demonstrations, one a cluster or label; first k is chosen on validation, then their order."""

    name: str = "few-shot"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_no_shots(context)

    def fit(self, context: FitContext) -> Predictor:
        form = recipe_form(context.recipes, "prompt")
        counts = possible_shots(context)
        chosen = representatives(context, max(counts) + RESERVES)
        rows = shuffled(context.validation, context.seed)
        prompters: dict[str, StaticShots] = {}
        for count in counts:
            reserves = tuple(chosen[count : count + RESERVES])
            prompters[f"{count} shots"] = StaticShots(context, form, tuple(chosen[:count]), reserves)

        def answer(name: str, inputs: Sequence[Input]) -> list[Prediction]:
            return generate(context, prompters[name](inputs))

        answers = Answers(context, rows, answer)
        by_count, tried = race(list(prompters), answers.value, len(rows))
        orders = _orders(prompters[by_count], context)
        prompters.update(orders)
        winner, tried_orders = race([by_count, *orders], answers.value, len(rows))
        prompter = prompters[winner]
        decode = choose_decode(context, prompter, rows, generated=answers.value(winner, len(rows)))
        recipe: dict[str, Any] = {
            "rung": self.name,
            **form.as_recipe(),
            "k": len(prompter.shots),
            "shots": [example.id for example in prompter.shots],
            "reserves": [example.id for example in prompter.reserves],
            **decode.as_recipe(),
            "reduced": say_dropped(context, prompter([row.input for row in rows])),
            "tried": [one.as_recipe() for one in (*tried, *tried_orders[1:])],
        }
        return self.restore(recipe, context)

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        """Raises: RunError when a demonstration is no longer among the training rows."""
        shots, reserves = by_id(context, recipe["shots"]), by_id(context, recipe["reserves"])
        return ModelPredictor(context, recipe, StaticShots(context, form_of(recipe), tuple(shots), tuple(reserves)))


def _orders(prompter: StaticShots, context: FitContext) -> dict[str, StaticShots]:
    """Other orders of the same demonstrations, seeded and all different; `choices.orders` counts the first one too."""
    generator = np.random.default_rng(context.seed)
    seen = {tuple(range(len(prompter.shots)))}
    orders: dict[str, StaticShots] = {}
    for _ in range(10 * context.choices.orders):
        if len(seen) >= context.choices.orders:
            break
        order = tuple(int(index) for index in generator.permutation(len(prompter.shots)))
        if order not in seen:
            seen.add(order)
            shots = tuple(prompter.shots[index] for index in order)
            orders[f"order {len(seen)}"] = StaticShots(prompter.context, prompter.form, shots, prompter.reserves)
    return orders
