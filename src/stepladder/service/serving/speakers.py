"""The ways in which a name answers: a base model as it is, an adapter on it, a rung of a climb."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder.domain.errors import StepladderError
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import Decoding, Engine, Predictor, Prompt
from stepladder.service.serving.question import Question, TooLong

DEFAULT_NEW_TOKENS = 1024
"""The longest answer where a caller names no limit. An answer that reaches it says so (`finish_reason` "length")."""
_SEEDS = 2**31

OnAnswer = Callable[[int, Generation | StepladderError], None]


@dataclass(frozen=True)
class WeightsSpeaker:
    """A base model, or an adapter on it.

    `engine` loads the base when it is first asked for; `name` is what the model is called in public.
    """

    name: str
    base: str
    engine: Callable[[], Engine]
    adapter: Path | None = None

    @property
    def key(self) -> Hashable:
        return (self.base, self.adapter)

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer) -> None:
        """As `Speaker.answer`. Prompts of one kind of decoding are asked at once, equal ones that draw lots one by one."""
        engine = self.engine()
        groups: dict[Hashable, tuple[Decoding, list[int]]] = {}
        for index, question in enumerate(questions):
            try:
                decoding = self._decoding(engine, question)
            except StepladderError as error:
                on_answer(index, error)
                continue
            twin = 0
            if question.temperature > 0 and question.seed is None:  # equal prompts under one seed would draw equal answers
                earlier = questions[:index]
                twin = sum(other.prompt.messages == question.prompt.messages and other.seed is None for other in earlier)
            key = (decoding if question.seed is not None or question.temperature == 0 else _unseeded(decoding), twin)
            groups.setdefault(key, (decoding, []))[1].append(index)
        for decoding, indices in groups.values():
            self._ask(engine, decoding, [(index, questions[index].prompt) for index in indices], on_answer)

    def _decoding(self, engine: Engine, question: Question) -> Decoding:
        """Room for the answer: what was asked for, what the context leaves, or the default, whichever is least.

        Raises:
            TooLong: The context leaves none.
            ModelError: The template cannot render the conversation.
        """
        wanted = question.max_new_tokens or DEFAULT_NEW_TOKENS
        context = engine.identity.context_tokens
        if context and "count" in engine.can:
            (used,) = engine.count_tokens([question.prompt])
            if used >= context:
                raise TooLong(
                    f"This model's maximum context length is {context} tokens, but the messages have {used} tokens.",
                    "Shorten the messages.",
                )
            wanted = min(wanted, context - used)
        return question.decoding(wanted, random.randrange(_SEEDS) if question.seed is None else question.seed)

    def _ask(self, engine: Engine, decoding: Decoding, prompts: Sequence[tuple[int, Prompt]], on_answer: OnAnswer) -> None:
        asked = [prompt for _, prompt in prompts]
        done: set[int] = set()

        def hand_over(place: int, generation: Generation) -> None:
            done.add(place)
            on_answer(prompts[place][0], generation)

        try:
            engine.generate(asked, decoding, adapter=self.adapter, on_answer=hand_over)
        except StepladderError as error:
            for place, (index, _) in enumerate(prompts):
                if place not in done:
                    on_answer(index, error)


def _unseeded(decoding: Decoding) -> Decoding:
    return replace(decoding, seed=0)


@dataclass(frozen=True)
class RungSpeaker:
    """A rung of a finished climb, with everything it is made of. How it draws and how long it may write is the rung's own."""

    name: str
    run: Path
    predictor: Callable[[], Predictor]

    @property
    def key(self) -> Hashable:
        return (self.run, self.name)

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer) -> None:
        """As `Speaker.answer`; questions that fail together are asked again one by one, so that each bears its own fault."""
        inputs = [Input(f"chat-{place}", one.prompt.messages, one.prompt.tools) for place, one in enumerate(questions)]
        predictor = self.predictor()
        try:
            predictions = predictor.predict(inputs)
        except StepladderError as error:
            if len(inputs) == 1:
                on_answer(0, error)
                return
            for place, question in enumerate(questions):
                self.answer([question], lambda _, outcome, place=place: on_answer(place, outcome))  # type: ignore[misc]
            return
        for place, prediction in enumerate(predictions):
            on_answer(place, _as_generation(prediction))


def _as_generation(prediction: Prediction) -> Generation:
    """What was said, with the counts of the model call behind it (none for rungs that ask no model)."""
    spoken = prediction.generation
    return Generation(
        text=prediction.text,
        prompt_tokens=spoken.prompt_tokens if spoken else 0,
        completion_tokens=spoken.completion_tokens if spoken else 0,
        latency_seconds=prediction.latency_seconds,
        cut=prediction.cut,
        model_sha256=spoken.model_sha256 if spoken else "",
        adapter_sha256=spoken.adapter_sha256 if spoken else None,
        prompt_sha256=spoken.prompt_sha256 if spoken else "",
    )
