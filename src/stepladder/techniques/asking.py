"""From inputs to answers: prompts are made, a model is asked, predictions come back. Shared by every rung that asks a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from stepladder.domain.messages import Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import Decoding, FitContext, Grammar, Progress, Prompt, Recipe
from stepladder.techniques.forms import Form
from stepladder.techniques.label_scoring import LabelScorer


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, the documents and passages it shows (best first), and how many demonstrations or passages did not fit."""

    prompt: Prompt
    retrieved: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    dropped: int = 0


Prompter = Callable[[Sequence[Input]], list[Asked]]
"""Makes the prompts of one rung, one for each input, in order."""


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """The instruction in one form, and the input."""

    context: FitContext
    form: Form

    def __call__(self, inputs: Sequence[Input]) -> list[Asked]:
        return [Asked(self.form.render(self.context.task, input)) for input in inputs]


@dataclass(frozen=True, slots=True)
class ModelPredictor:
    """A rung that asks a model: its prompts, its adapter, its grammar, and how the answer is read off (`recipe["decode"]`)."""

    context: FitContext
    recipe: Recipe
    prompter: Prompter
    adapter: Path | None = None
    grammar: Grammar | None = None

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order. What making the prompts took is shared out and counted as latency."""
        began = perf_counter()
        asked = self.prompter(inputs)
        each = (perf_counter() - began) / max(1, len(asked))
        say_dropped(self.context, asked)
        return [replace(one, latency_seconds=one.latency_seconds + each) for one in self._answers(asked)]

    def _answers(self, asked: Sequence[Asked]) -> list[Prediction]:
        decode = self.recipe.get("decode", GENERATE)
        if decode == GENERATE:
            return generate(self.context, asked, adapter=self.adapter, grammar=self.grammar)
        scorer = LabelScorer(self.context, self._bare_prompts, self.adapter)
        priors = self.recipe.get("priors")
        prompts = [one.prompt for one in asked]
        return scorer.predictions(scorer.score(prompts), decode, tuple(priors) if priors is not None else None)

    def _bare_prompts(self, inputs: Sequence[Input]) -> list[Prompt]:
        return [one.prompt for one in self.prompter(inputs)]


GENERATE = "generate"


def decoding(context: FitContext, grammar: Grammar | None = None) -> Decoding:
    """Greedy, as long as the context allows."""
    return Decoding(max_new_tokens=context.max_new_tokens, seed=context.seed, grammar=grammar)


def generate(
    context: FitContext, asked: Sequence[Asked], *, adapter: Path | None = None, grammar: Grammar | None = None
) -> list[Prediction]:
    """One freely generated (or grammar-held) answer a prompt, in order."""
    if not asked:
        return []
    with step(context.progress, "answers", len(asked)):
        generations = context.engine.generate(
            [one.prompt for one in asked],
            decoding(context, grammar),
            adapter=adapter,
            on_answer=lambda index, generation: context.progress.advance(),
        )
    return [
        Prediction.from_generation(one.prompt.id, generation, retrieved=one.retrieved, passages=one.passages)
        for one, generation in zip(asked, generations, strict=True)
    ]


def say_dropped(context: FitContext, asked: Sequence[Asked]) -> int:
    """How many prompts lost demonstrations or passages to the context's limit; said aloud when one did."""
    short = sum(1 for one in asked if one.dropped)
    if short:
        context.progress.note(
            f"{short} of {len(asked)} prompts show fewer demonstrations or passages than asked for, to fit the model's context."
        )
    return short


@contextmanager
def step(progress: Progress, label: str, total: int | None = None) -> Iterator[None]:
    """A part of the work that is closed again whatever happens inside."""
    progress.start(label, total)
    try:
        yield
    finally:
        progress.finish()
