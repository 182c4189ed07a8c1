"""The rung `baseline`: answers that need no model. What cannot beat them is no model worth the name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.messages import Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Recipe
from stepladder.techniques.forms import last_user_text, reference_text
from stepladder.techniques.racing import best, mean_score
from stepladder.techniques.shots import Cluster, cluster_of, own_clusters

KINDS = ("majority answer", "copy of the input", "nearest neighbour")


@dataclass(frozen=True)
class Baseline:
    """The best of three on validation."""

    name: str = "baseline"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        return None if context.train else "There are no training rows."

    def fit(self, context: FitContext) -> Predictor:
        inputs = [row.input for row in context.validation]
        scores: dict[str, float | None] = {}
        for kind in KINDS:
            scores[kind] = mean_score(context.score(TrivialPredictor(context, {"kind": kind}).predict(inputs)))
        tried = [{"name": kind, "rows": len(inputs), "score": score} for kind, score in scores.items()]
        return TrivialPredictor(context, {"rung": self.name, "kind": best(scores), "tried": tried})

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        return TrivialPredictor(context, recipe)


@dataclass(frozen=True)
class TrivialPredictor:
    """Majority, copy or nearest neighbour; training rows of the input's own cluster never count."""

    context: FitContext
    recipe: Recipe

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order."""
        began = perf_counter()
        answer: dict[str, Callable[[Sequence[Input]], list[str]]] = {
            "majority answer": self._majority,
            "copy of the input": self._copy,
            "nearest neighbour": self._neighbour,
        }
        texts = answer[self.recipe["kind"]](inputs)
        each = (perf_counter() - began) / max(1, len(inputs))
        return [Prediction(input.id, text, latency_seconds=each) for input, text in zip(inputs, texts, strict=True)]

    def _majority(self, inputs: Sequence[Input]) -> list[str]:
        return [self._commonest(cluster) for cluster in own_clusters(self.context, inputs)]

    def _commonest(self, own: Cluster | None) -> str:
        counts = Counter(text for text, cluster in self._references if cluster != own)
        return counts.most_common(1)[0][0] if counts else ""

    def _copy(self, inputs: Sequence[Input]) -> list[str]:
        return [last_user_text(input.messages) for input in inputs]

    def _neighbour(self, inputs: Sequence[Input]) -> list[str]:
        if not inputs:
            return []
        similarities = self.context.embedder.embed([input.text for input in inputs]) @ self._vectors.T
        return [self._closest(row, own) for row, own in zip(similarities, own_clusters(self.context, inputs), strict=True)]

    def _closest(self, similarities: NDArray[np.float32], own: Cluster | None) -> str:
        for index in np.argsort(-similarities, kind="stable"):
            text, cluster = self._references[int(index)]
            if cluster != own:
                return text
        return ""

    @cached_property
    def _references(self) -> list[tuple[str, Cluster]]:
        rows: Sequence[Any] = self.context.train
        return [(reference_text(self.context.task, row), cluster_of(self.context, row.id)) for row in rows]

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        return self.context.embedder.embed([row.input.text for row in self.context.train])
