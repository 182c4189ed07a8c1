"""The ways in which a name answers: a base model as it is, an adapter on it, a rung of a climb."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.domain.errors import StepladderError, Unanswered
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import Decoding, Engine, Predictor, Request, Serving, ServingEngine
from stepladder.service.serving.question import Asked, Question, TooLong

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
    engine: Callable[[], ServingEngine]
    adapter: Path | None = None

    @property
    def key(self) -> Hashable:
        return (WeightsSpeaker, self.base)

    def answer(self, asked: Sequence[Asked], on_answer: OnAnswer) -> None:
        """As `Speaker.answer`: the base and its adapters side by side. What fails together is asked again one by one."""
        engine = self.engine()
        ready: list[tuple[int, Request]] = []
        for index, item in enumerate(asked):
            assert isinstance(item.speaker, WeightsSpeaker)
            try:
                decoding = _decoding(engine, item.question)
            except StepladderError as error:
                on_answer(index, error)
            else:
                ready.append((index, Request(item.question.prompt, decoding, item.speaker.adapter)))
        _ask(engine, ready, {index: asked[index].on_text for index, _ in ready}, on_answer)


def _decoding(engine: Engine, question: Question) -> Decoding:
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


def _ask(
    engine: Serving,
    requests: Sequence[tuple[int, Request]],
    listeners: Mapping[int, Callable[[str], None] | None],
    on_answer: OnAnswer,
) -> None:
    """Answer numbered requests. An answer that somebody has heard the beginning of is not begun anew."""
    done: set[int] = set()
    begun: set[int] = set()

    def hear(place: int, piece: str) -> None:
        number = requests[place][0]
        listener = listeners[number]
        if listener is not None:
            begun.add(number)
            listener(piece)

    def hand_over(place: int, generation: Generation) -> None:
        done.add(requests[place][0])
        on_answer(requests[place][0], generation)

    heard = any(listeners[number] is not None for number, _ in requests)
    try:
        engine.answer([request for _, request in requests], on_text=hear if heard else None, on_answer=hand_over)
    except StepladderError as error:
        left = [(number, request) for number, request in requests if number not in done]
        for number, request in left:
            if len(left) == 1 or number in begun:
                on_answer(number, error)
            else:
                _ask(engine, [(number, request)], listeners, on_answer)


@dataclass(frozen=True)
class RungSpeaker:
    """A rung of a finished climb, with everything it is made of. How it draws and how long it may write is the rung's own."""

    name: str
    run: Path
    predictor: Callable[[], Predictor]

    @property
    def key(self) -> Hashable:
        return (self.run, self.name)

    def answer(self, asked: Sequence[Asked], on_answer: OnAnswer) -> None:
        """As `Speaker.answer`; questions that fail together are asked again one by one, so that each bears its own fault."""
        prompts = [item.question.prompt for item in asked]
        inputs = [Input(f"chat-{place}", prompt.messages, prompt.tools) for place, prompt in enumerate(prompts)]
        predictor = self.predictor()
        try:
            predictions = predictor.predict(inputs)
        except StepladderError as error:
            if len(inputs) == 1:
                on_answer(0, error)
                return
            for place, item in enumerate(asked):
                self.answer([item], lambda _, outcome, place=place: on_answer(place, outcome))  # type: ignore[misc]
            return
        for place, prediction in enumerate(predictions):
            on_answer(place, _outcome(prediction))


def _outcome(prediction: Prediction) -> Generation | StepladderError:
    """What was said, with the counts of the model call behind it (none for rungs that ask no model); or why nothing was."""
    if prediction.fault:
        return Unanswered(f"There is no answer: {prediction.fault}.", "Ask again in a moment.")
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
