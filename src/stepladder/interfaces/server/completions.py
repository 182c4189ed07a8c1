"""`/v1/completions`: bare texts, continued or only looked at. No chat template is in between."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from stepladder.domain.errors import EngineError
from stepladder.domain.plain import Continuation, PlainTexts, TokenScore
from stepladder.interfaces.server.answers import count_answers, event_stream, in_pieces, run_on_models, speaker_of, stopped_at
from stepladder.interfaces.server.chat_request import MOST_TOKENS, Seed, StreamOptions, Strict, drawn_at, refuse_other_sampling
from stepladder.interfaces.server.errors import invalid
from stepladder.interfaces.server.limits import read_body
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheMetrics
from stepladder.service.serving.house import House
from stepladder.service.serving.question import TooLong
from stepladder.service.serving.speakers import WeightsSpeaker
from stepladder.storage.ids import new_id

router = APIRouter()

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Strict):
    """The request; `store`-like keys that change nothing are not part of this endpoint."""

    model: str
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=2048)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    stop: (
        Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] | None
    ) = None
    seed: Seed | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    user: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if given and isinstance(given[0], int):
            return [[item for item in given if isinstance(item, int)]]
        return [item for item in given if isinstance(item, str | list)]

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check(self) -> None:
        """Raises ApiError 400 for what the engine cannot do."""
        refuse_other_sampling(self.presence_penalty, self.frequency_penalty, self.logit_bias)
        if self.suffix:
            raise invalid("'suffix' is not supported here: leave it out.", "suffix")
        if self.best_of not in (None, 0, 1, self.n):
            raise invalid("'best_of' beyond 'n' is not supported here: leave it out.", "best_of")
        if self.stream and self.logprobs is not None:
            raise invalid("'logprobs' of a stream are not supported here: leave 'stream' out.", "logprobs")


@dataclass(frozen=True)
class _Written:
    """One choice: the text, the scores of its tokens where asked for, what it cost."""

    text: str
    cut: bool
    prompt_tokens: int
    completion_tokens: int
    scores: tuple[TokenScore, ...] | None = None


@router.post("/v1/completions")
async def create_completion(request: Request, project: ProjectId, house: TheHouse, metrics: TheMetrics) -> Response:
    asked = await read_body(request, CompletionRequest)
    asked.check()
    speaker = speaker_of(house, project, asked.model)
    if not isinstance(speaker, WeightsSpeaker):
        raise invalid("A rung of a climb answers conversations: use /v1/chat/completions.", "model")
    began = time.perf_counter()
    choices: list[_Written] = []
    for prompt in asked.prompts:  # one by one, so that other callers get their turn in between
        for number in range(asked.n or 1):
            choices.append(await run_on_models(house, request, partial(_write, house, speaker, asked, prompt, number)))
    usage = _usage(choices, asked.n or 1)
    count_answers(metrics, "completions", usage, began)
    head = {"id": new_id("cmpl-"), "object": "text_completion", "created": int(time.time()), "model": asked.model}
    if asked.stream:
        return event_stream(_chunks(head, choices, usage, asked))
    shown = [_choice(index, written) for index, written in enumerate(choices)]
    return JSONResponse({**head, "choices": shown, "usage": usage})


def _write(house: House, speaker: WeightsSpeaker, asked: CompletionRequest, prompt: str | list[int], number: int) -> _Written:
    """One choice for one prompt, on the asking thread."""
    texts = house.plain(speaker.base)
    ids = texts.encode(prompt) if isinstance(prompt, str) else prompt
    wanted = 16 if asked.max_tokens is None else asked.max_tokens
    context = texts.context_tokens
    if not ids:
        raise EngineError("The prompt has no tokens.", "Send some text.")
    if context and len(ids) + wanted > context:
        raise TooLong(
            f"This model's maximum context length is {context} tokens, but the prompt has {len(ids)} and the rest {wanted}.",
            "Shorten one of them.",
        )
    written = Continuation("", 0, cut=True)
    if wanted:
        seed = random.randrange(2**31) if asked.seed is None else asked.seed + number
        temperature, top_p = drawn_at(asked.temperature, asked.top_p)
        written = texts.continue_text(ids, wanted, temperature=temperature, top_p=top_p, seed=seed, adapter=speaker.adapter)
    text, stopped = stopped_at(written.text, asked.stops)
    shown = (texts.decode(ids) if asked.echo else "") + text
    scores = None
    if asked.logprobs is not None:
        scores = _scores(texts, speaker, asked, ids, text)
    return _Written(shown, written.cut and not stopped, len(ids), written.tokens, scores)


def _scores(
    texts: PlainTexts, speaker: WeightsSpeaker, asked: CompletionRequest, ids: Sequence[int], text: str
) -> tuple[TokenScore, ...]:
    """Of the completion, and with `echo` of the prompt before it."""
    whole = [*ids, *texts.encode(text)] if text else list(ids)
    scores = texts.scores(whole, asked.logprobs or 0, adapter=speaker.adapter)
    return tuple(scores if asked.echo else scores[len(ids) :])


def _choice(index: int, written: _Written) -> JsonObject:
    return {
        "text": written.text,
        "index": index,
        "logprobs": None if written.scores is None else _logprobs(written.scores),
        "finish_reason": "length" if written.cut else "stop",
    }


def _logprobs(scores: Sequence[TokenScore]) -> JsonObject:
    offsets, place = [], 0
    for score in scores:
        offsets.append(place)
        place += len(score.text)
    return {
        "tokens": [score.text for score in scores],
        "token_logprobs": [score.log_probability for score in scores],
        "top_logprobs": [
            None if score.log_probability is None else {text: value for text, _, value in score.top} for score in scores
        ],
        "text_offset": offsets,
    }


def _usage(choices: Sequence[_Written], choices_a_prompt: int) -> dict[str, int]:
    read = sum(written.prompt_tokens for written in choices[::choices_a_prompt])
    out = sum(written.completion_tokens for written in choices)
    return {"prompt_tokens": read, "completion_tokens": out, "total_tokens": read + out}


async def _chunks(
    head: JsonObject, choices: Sequence[_Written], usage: dict[str, int], asked: CompletionRequest
) -> AsyncIterator[dict[str, Any]]:
    for index, written in enumerate(choices):
        for piece in in_pieces(written.text):
            yield {**head, "choices": [{"text": piece, "index": index, "logprobs": None, "finish_reason": None}]}
        reason = "length" if written.cut else "stop"
        yield {**head, "choices": [{"text": "", "index": index, "logprobs": None, "finish_reason": reason}]}
    if asked.stream_options is not None and asked.stream_options.include_usage:
        yield {**head, "choices": [], "usage": usage}
