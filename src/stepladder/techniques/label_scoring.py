"""Choosing a label by its log-probability instead of writing it: no format errors, and one prefill instead of a generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import FitContext, Prompt

METHODS = ("score:calibrated", "score:sum", "score:mean")
CONTENT_FREE = ("N/A", "", "…")


@dataclass(frozen=True, slots=True)
class ScoredLabels:
    """What an engine said about every label after every prompt.

    `log_probabilities`, `tokens`: shape (prompts, labels), natural log and count, the end-of-turn token included.
    `seconds`: what all labels of each prompt took together, when they were computed. `adapters`: hash of the weights that
    were asked, None for the base.
    """

    ids: tuple[str, ...]
    log_probabilities: NDArray[np.float64]
    tokens: NDArray[np.int64]
    prompt_tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    adapters: tuple[str | None, ...]

    def head(self, count: int) -> ScoredLabels:
        """The first `count` prompts."""
        return ScoredLabels(
            self.ids[:count],
            self.log_probabilities[:count],
            self.tokens[:count],
            self.prompt_tokens[:count],
            self.seconds[:count],
            self.adapters[:count],
        )

    def then(self, other: ScoredLabels) -> ScoredLabels:
        """These prompts, then those."""
        return ScoredLabels(
            self.ids + other.ids,
            np.concatenate([self.log_probabilities, other.log_probabilities]),
            np.concatenate([self.tokens, other.tokens]),
            self.prompt_tokens + other.prompt_tokens,
            self.seconds + other.seconds,
            self.adapters + other.adapters,
        )


@dataclass(frozen=True, slots=True)
class LabelScorer:
    """Scores the task's labels after prompts of one rung; `prompts_of` makes the rung's prompts, for content-free inputs too."""

    context: FitContext
    prompts_of: Callable[[Sequence[Input]], list[Prompt]]
    adapter: Path | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.context.task.settings.output.labels

    def score(self, prompts: Sequence[Prompt]) -> ScoredLabels:
        """One prefill a prompt."""
        shape = (len(prompts), len(self.labels))
        if not prompts:
            return ScoredLabels((), np.zeros(shape), np.zeros(shape, dtype=np.int64), (), (), ())
        rows = self.context.engine.score(prompts, [self.labels] * len(prompts), adapter=self.adapter)
        can_count = "count" in self.context.engine.can
        counts = self.context.engine.count_tokens(prompts) if can_count else [0] * len(prompts)
        return ScoredLabels(
            tuple(prompt.id for prompt in prompts),
            np.array([[score.log_probability for score in row] for row in rows], dtype=np.float64).reshape(shape),
            np.array([[score.tokens for score in row] for row in rows], dtype=np.int64).reshape(shape),
            tuple(counts),
            tuple(sum(score.seconds for score in row) for row in rows),
            tuple(row[0].adapter_sha256 for row in rows),
        )

    def priors(self) -> tuple[float, ...]:
        """Mean log-probability of each label after inputs that say nothing.

        Source:
            Zhao et al. (2021), Calibrate Before Use, ICML; here subtracted in log space.
        """
        prompts = self.prompts_of([Input.of(text, id=f"content-free-{n}") for n, text in enumerate(CONTENT_FREE)])
        return tuple(float(value) for value in self.score(prompts).log_probabilities.mean(axis=0))

    def choose(self, scored: ScoredLabels, method: str, priors: tuple[float, ...] | None) -> list[int]:
        """Index of the best label for each prompt; the task's earlier label wins a tie."""
        if not scored.ids:
            return []
        values = scored.log_probabilities
        if method == "score:mean":
            values = values / np.maximum(scored.tokens, 1)
        elif method == "score:calibrated":
            values = values - np.array(self.priors() if priors is None else priors)
        return [int(index) for index in values.argmax(axis=1)]

    def predictions(self, scored: ScoredLabels, method: str, priors: tuple[float, ...] | None = None) -> list[Prediction]:
        """The chosen labels as answers."""
        identity = self.context.engine.identity
        found = []
        for row, (id, column) in enumerate(zip(scored.ids, self.choose(scored, method, priors), strict=True)):
            generation = Generation(
                text=self.labels[column],
                prompt_tokens=scored.prompt_tokens[row],
                completion_tokens=int(scored.tokens[row, column]),
                latency_seconds=scored.seconds[row],
                model_sha256=identity.base_sha256,
                adapter_sha256=scored.adapters[row],
            )
            found.append(Prediction.from_generation(id, generation))
        return found


def can_score_labels(context: FitContext) -> bool:
    """Whether the answers are a closed list of labels, none of them a tool call, and the engine gives log-probabilities."""
    closed = bool(context.task.settings.output.labels) and not wants_tool_calls((*context.train, *context.validation))
    return closed and "score" in context.engine.can
