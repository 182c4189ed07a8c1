"""The rung `nearest`: for every input the demonstrations most like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.messages import Example, Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Recipe
from stepladder.techniques.asking import Asked, ModelPredictor, generate, say_dropped
from stepladder.techniques.decode import choose_decode
from stepladder.techniques.forms import Form, form_of, recipe_form
from stepladder.techniques.racing import Answers, race, shuffled
from stepladder.techniques.shots import ask_with_shots, cluster_of, own_clusters, possible_shots, reason_no_shots


@dataclass(frozen=True)
class NearestShots:
    """The `count` examples of `pool` most similar to the input, the most similar last, one a cluster, never of its own."""

    context: FitContext
    form: Form
    count: int
    pool: tuple[Example, ...]

    def __call__(self, inputs: Sequence[Input]) -> list[Asked]:
        return ask_with_shots(self.context, self.form, inputs, self.shots(inputs))

    def shots(self, inputs: Sequence[Input]) -> list[list[Example]]:
        """Demonstrations for every input, least similar first."""
        if not inputs:
            return []
        similarities = self.context.embedder.embed([input.text for input in inputs]) @ self._vectors.T
        clusters = own_clusters(self.context, inputs)
        return [self._nearest(row, cluster) for row, cluster in zip(similarities, clusters, strict=True)]

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        return self.context.embedder.embed([example.input.text for example in self.pool])

    def _nearest(self, similarities: NDArray[np.float32], own: int | str | None) -> list[Example]:
        found: dict[int | str, Example] = {}
        for index in np.argsort(-similarities, kind="stable"):
            example = self.pool[int(index)]
            cluster = cluster_of(self.context, example.id)
            if cluster != own:
                found.setdefault(cluster, example)
            if len(found) == self.count:
                break
        return list(found.values())[::-1]


@dataclass(frozen=True)
class Nearest:
    """k nearest demonstrations by embedding cosine; k is chosen on validation."""

    name: str = "nearest"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_no_shots(context)

    def fit(self, context: FitContext) -> Predictor:
        form = recipe_form(context.recipes, "prompt")
        rows = shuffled(context.validation, context.seed)
        counts = {f"{count} nearest": count for count in possible_shots(context)}
        prompters = {name: NearestShots(context, form, count, context.train) for name, count in counts.items()}

        def answer(name: str, inputs: Sequence[Input]) -> list[Prediction]:
            return generate(context, prompters[name](inputs))

        answers = Answers(context, rows, answer)
        winner, tried = race(list(prompters), answers.value, len(rows))
        prompter = prompters[winner]
        decode = choose_decode(context, prompter, rows, generated=answers.value(winner, len(rows)))
        recipe: dict[str, Any] = {
            "rung": self.name,
            **form.as_recipe(),
            "k": prompter.count,
            **decode.as_recipe(),
            "reduced": say_dropped(context, prompter([row.input for row in rows])),
            "tried": [one.as_recipe() for one in tried],
        }
        return ModelPredictor(context, recipe, prompter)

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        return ModelPredictor(context, recipe, NearestShots(context, form_of(recipe), recipe["k"], context.train))
