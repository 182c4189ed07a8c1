"""The rung `classifier`: embedding and logistic regression. For closed label sets often all that is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from stepladder.data.logistic import LogisticRegression
from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.messages import Example, Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Recipe
from stepladder.techniques.forms import reference_text
from stepladder.techniques.racing import best, mean_score
from stepladder.techniques.shots import Cluster, cluster_of, own_clusters

STRENGTHS = (10.0, 1.0, 100.0)  # inverse of the L2 penalty; the first wins a tie
FOLDS = 5


@dataclass(frozen=True)
class Classifier:
    """Embedding and logistic regression; the penalty is chosen on validation."""

    name: str = "classifier"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        if wants_tool_calls(context.train):
            return "The expected answers hold tool calls, not labels alone."
        if not context.task.settings.output.labels:
            return "The answers are not a closed list of labels."
        if len({label for _, label in labelled(context)}) < 2:
            return "The training rows show fewer than two of the labels."
        return None

    def fit(self, context: FitContext) -> Predictor:
        inputs = [row.input for row in context.validation]
        predictors = {f"strength {strength:g}": EmbeddingClassifier(context, {"strength": strength}) for strength in STRENGTHS}
        scores = {name: mean_score(context.score(one.predict(inputs))) for name, one in predictors.items()}
        tried = [{"name": name, "rows": len(inputs), "score": score} for name, score in scores.items()]
        strength = predictors[best(scores)].recipe["strength"]
        return EmbeddingClassifier(context, {"rung": self.name, "strength": strength, "tried": tried})

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        return EmbeddingClassifier(context, recipe)


@dataclass(frozen=True)
class EmbeddingClassifier:
    """Trained on all labelled rows; a training input is answered by a model that saw nothing of its cluster."""

    context: FitContext
    recipe: Recipe

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order."""
        if not inputs:
            return []
        began = perf_counter()
        features = self.context.embedder.embed([input.text for input in inputs]).astype(np.float64)
        folds = np.array([self._fold_of(cluster) for cluster in own_clusters(self.context, inputs)])
        labels = np.empty(len(inputs), dtype=object)
        for fold in np.unique(folds):
            probabilities = self._model(int(fold)).probabilities(features[folds == fold])
            labels[folds == fold] = [self._labels[index] for index in probabilities.argmax(axis=1)]
        each = (perf_counter() - began) / len(inputs)
        return [Prediction(input.id, str(label), latency_seconds=each) for input, label in zip(inputs, labels, strict=True)]

    @cached_property
    def _rows(self) -> list[tuple[Example, str]]:
        return labelled(self.context)

    @cached_property
    def _labels(self) -> list[str]:
        """Classes in the task's order; those without a training row cannot be learned."""
        seen = {label for _, label in self._rows}
        return [label for label in self.context.task.settings.output.labels if label in seen]

    @cached_property
    def _features(self) -> NDArray[np.float64]:
        return self.context.embedder.embed([row.input.text for row, _ in self._rows]).astype(np.float64)

    @cached_property
    def _folds(self) -> dict[Cluster, int]:
        """Training cluster -> fold from 1, dealt out in a seeded order."""
        clusters = list(dict.fromkeys(cluster_of(self.context, row.id) for row, _ in self._rows))
        order = np.random.default_rng(self.context.seed).permutation(len(clusters))
        return {clusters[index]: 1 + place % FOLDS for place, index in enumerate(order)}

    @cached_property
    def _models(self) -> dict[int, LogisticRegression]:
        return {}

    def _fold_of(self, cluster: Cluster | None) -> int:
        """0, the model of all rows, for an input that is foreign to the training rows."""
        return 0 if cluster is None else self._folds.get(cluster, 0)

    def _model(self, fold: int) -> LogisticRegression:
        if fold not in self._models:
            of_rows = np.array([self._folds[cluster_of(self.context, row.id)] for row, _ in self._rows])
            used = np.ones(len(of_rows), dtype=bool) if fold == 0 else of_rows != fold
            classes = np.array([self._labels.index(label) for _, label in self._rows], dtype=np.int64)
            strength = float(self.recipe["strength"])
            self._models[fold] = LogisticRegression.fit(self._features[used], classes[used], len(self._labels), strength)
        return self._models[fold]


def labelled(context: FitContext) -> list[tuple[Example, str]]:
    """Training rows with their label, letter case aside; rows whose reference is no label teach nothing a label can say."""
    labels = {label.casefold(): label for label in context.task.settings.output.labels}
    pairs = [(row, labels.get(reference_text(context.task, row).casefold())) for row in context.train]
    return [(row, label) for row, label in pairs if label is not None]
