"""Whether a rung on a label task writes its answer or scores the labels: chosen on rows with references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.domain.messages import Example, Input
from stepladder.domain.protocols import FitContext, Prompt
from stepladder.techniques.asking import GENERATE, Prompter, generate
from stepladder.techniques.label_scoring import METHODS, LabelScorer, can_score_labels
from stepladder.techniques.racing import Tried, best, mean_score


@dataclass(frozen=True, slots=True)
class Decode:
    """The chosen way, label priors if it needs them, and how each way fared."""

    name: str = GENERATE
    priors: tuple[float, ...] | None = None
    tried: tuple[Tried, ...] = ()

    def as_recipe(self) -> dict[str, object]:
        priors = None if self.priors is None else list(self.priors)
        return {"decode": self.name, "priors": priors, "decodes": [tried.as_recipe() for tried in self.tried]}


def choose_decode(
    context: FitContext,
    prompter: Prompter,
    rows: Sequence[Example],
    *,
    generated: float | None = None,
    adapter: Path | None = None,
) -> Decode:
    """Generation, or the label scoring that beats it on `rows`; generation where labels cannot be scored, or without rows.

    `generated` is generation's mean score on these rows where the caller knows it already.
    """
    if not can_score_labels(context) or not rows:
        return Decode()
    asked = prompter([row.input for row in rows])
    if generated is None:
        generated = mean_score(context.score(generate(context, asked, adapter=adapter)))

    def prompts_of(inputs: Sequence[Input]) -> list[Prompt]:
        return [one.prompt for one in prompter(inputs)]

    scorer = LabelScorer(context, prompts_of, adapter)
    scored = scorer.score([one.prompt for one in asked])
    priors = scorer.priors()
    scores: dict[str, float | None] = {GENERATE: generated}
    for method in METHODS:
        scores[method] = mean_score(context.score(scorer.predictions(scored, method, priors)))
    name = best(scores)
    tried = tuple(Tried(way, len(rows), score) for way, score in scores.items())
    return Decode(name, priors if name == "score:calibrated" else None, tried)
