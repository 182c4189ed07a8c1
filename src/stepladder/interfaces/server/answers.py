"""Between a route and the thread that asks the models: waiting without holding anything up, and giving up with the client."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse

from stepladder.domain.errors import StepladderError
from stepladder.domain.prediction import Generation
from stepladder.interfaces.server.errors import ApiError, as_api_error, envelope, invalid, not_found, too_many
from stepladder.interfaces.server.metrics import Metrics
from stepladder.service.serving.asking import QueueFull
from stepladder.service.serving.house import House
from stepladder.service.serving.names import UnknownModel
from stepladder.service.serving.question import Question, Speaker, TooLong

log = logging.getLogger("stepladder.server")

PATIENCE_SECONDS = 2.0
"""A stream begins with its answer or after this long: whatever fails before still has a status of its own."""
_PIECE = re.compile(r"\s*\S+|\s+$")

Result = TypeVar("Result")


def speaker_of(house: House, project: str, model: str) -> Speaker:
    """Who answers to a model's name. Raises ApiError 404 where the project has none of this name."""
    try:
        return house.names.speaker(project, model)
    except UnknownModel as error:
        raise unknown_model(error) from None


def unknown_model(error: UnknownModel) -> ApiError:
    return not_found(str(error), "model", "model_not_found")


def ask_all(
    house: House, speaker: Speaker, questions: Sequence[Question], listener: Callable[[int], Callable[[str], None]] | None = None
) -> list[asyncio.Future[Generation]]:
    """Put all questions in line. Raises ApiError 429 where the line is full, and takes back those it had put there.

    Args:
        listener: Makes what hears the answer to the question at a place while it is written.
    """
    asked: list[Future[Generation]] = []
    try:
        for index, question in enumerate(questions):
            asked.append(house.asking.ask(speaker, question, None if listener is None else listener(index)))
    except QueueFull as error:
        for future in asked:
            future.cancel()
        raise refused(error) from None
    return [asyncio.wrap_future(future) for future in asked]


async def run_on_models(house: House, request: Request, work: Callable[[], Result]) -> Result:
    """`work()` on the thread that asks the models. Raises ApiError as its errors say."""
    try:
        future = asyncio.wrap_future(house.asking.call(work))
        return (await unless_gone(request, [future]))[0]
    except StepladderError as error:
        raise refused(error, "prompt") from None


async def unless_gone(request: Request, futures: Sequence[asyncio.Future[Result]]) -> list[Result]:
    """All results; when the client has gone before, or one of them is a failure, what still waits is taken back.

    Raises:
        ApiError: 499: nobody is there to read the answer.
    """
    gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(request))
    waiting: set[asyncio.Future[Any]] = set(futures)
    try:
        while waiting:
            done, _ = await asyncio.wait([gone, *waiting], return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                raise ApiError(499, "The client closed the connection.")
            for future in done:
                future.result()
            waiting -= done
        return [future.result() for future in futures]
    finally:
        gone.cancel()
        let_go(futures)


def let_go(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Take back what still waits, and look at every failure, as asyncio would complain of those that nobody has seen."""
    for future in futures:
        if not future.cancel() and not future.cancelled():
            future.exception()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refused(error: StepladderError, param: str = "messages") -> ApiError:
    """What went wrong with a question, in OpenAI's words; `param` is where a text that is too long has come from."""
    if isinstance(error, TooLong):
        return invalid(str(error), param, "context_length_exceeded")
    if isinstance(error, QueueFull):
        return too_many(str(error), 2)
    return as_api_error(error)


async def settled(futures: Sequence[asyncio.Future[Generation]], begun: asyncio.Event) -> None:
    """Wait a moment for the first outcome or the first word. Raises ApiError when it is a failure."""
    first = asyncio.ensure_future(begun.wait())
    waiting: set[asyncio.Future[Any]] = {first, *futures}
    done, _ = await asyncio.wait(waiting, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    first.cancel()
    for future in done - {first}:
        error = future.exception()
        if isinstance(error, StepladderError):
            let_go(futures)
            raise refused(error) from None


def in_pieces(text: str) -> Iterator[str]:
    """A finished answer word by word, white space kept: for streams of those that hand over whole answers only."""
    return (match.group() for match in _PIECE.finditer(text))


def event_stream(chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events as OpenAI's clients read them, `[DONE]` last. A failure in mid-stream is a chunk with `error`."""
    return StreamingResponse(_events(chunks), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    except StepladderError as error:
        known = refused(error)
        yield f"data: {json.dumps(envelope(known.message, type=known.type, code=known.code, param=known.param))}\n\n"
        return
    except Exception as error:
        log.error("a stream broke off: %s", type(error).__name__)
        yield f"data: {json.dumps(envelope('The server had an error of its own.', type='server_error'))}\n\n"
        return
    yield "data: [DONE]\n\n"


def stopped_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop sequence, and whether there was one."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def usage_of(generations: Sequence[Generation], choices_a_prompt: int) -> dict[str, int]:
    """Tokens read and written. A prompt with several choices is counted once."""
    read = sum(generation.prompt_tokens for generation in generations[::choices_a_prompt])
    written = sum(generation.completion_tokens for generation in generations)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def count_answers(metrics: Metrics, kind: str, usage: dict[str, int], began: float) -> None:
    """Counts only: no text, no name that a user chose."""
    seconds = time.perf_counter() - began
    metrics.add("stepladder_answers_total", 1, kind=kind)
    metrics.add("stepladder_prompt_tokens_total", usage["prompt_tokens"])
    metrics.add("stepladder_completion_tokens_total", usage["completion_tokens"])
    metrics.add("stepladder_answer_seconds_total", seconds, kind=kind)
    log.info("%s: %d + %d tokens in %.2f s", kind, usage["prompt_tokens"], usage["completion_tokens"], seconds)
