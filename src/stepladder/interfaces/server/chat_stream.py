"""The chunks of a streamed chat: each choice as it is written, why it ended; then the usage where it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.interfaces.server.answers import count_answers, in_pieces, let_go, usage_of
from stepladder.interfaces.server.chat_logprobs import in_shape, pieces_of
from stepladder.interfaces.server.chat_reply import Reply, calls_in
from stepladder.interfaces.server.listening import Listening, UpToStop
from stepladder.interfaces.server.metrics import Metrics
from stepladder.interfaces.server.shared import JsonObject

Futures = Sequence[asyncio.Future[Generation]]
Scored = Callable[[int, Generation], Awaitable[JsonObject | None]]
"""The log-probabilities of a finished choice; None where none were asked for."""


async def chunks_of(
    reply: Reply, futures: Futures, listening: Listening, logprobs: Scored, metrics: Metrics, began: float
) -> AsyncIterator[JsonObject]:
    """All chunks of all choices, those of different choices mixed as they are written.

    Calls of tools and log-probabilities are known when an answer is done: where they are asked for, it comes then.
    """
    live = not (reply.asked.offers_tools or reply.asked.logprobs)
    shown = [UpToStop(reply.asked.stops) for _ in futures]
    try:
        for index in range(len(futures)):
            yield reply.chunk([_delta(index, {"role": "assistant", "content": ""})])
        async for index, piece in listening.pieces(futures):
            if piece is None:
                generation = await futures[index]
                said, reason = reply.message(generation)
                scores = await logprobs(index, generation)
                for choice in _rest(index, said, shown[index], scores):
                    yield reply.chunk([choice])
                yield reply.chunk([_delta(index, {}, reason)])
            elif live and (new := shown[index].add(piece)):
                yield reply.chunk([_delta(index, {"content": new})])
        usage = usage_of([future.result() for future in futures], len(futures))
        count_answers(metrics, "chat", usage, began)
        if reply.asked.stream_options is not None and reply.asked.stream_options.include_usage:
            yield reply.chunk([], usage)
    finally:  # the client may have gone in between
        let_go(futures)


def _rest(index: int, said: Message, shown: UpToStop, scores: JsonObject | None) -> Iterator[JsonObject]:
    """What is left of an answer when it is done: all of it, unless it was heard before."""
    if scores is not None:
        for piece, tokens in pieces_of(said.content, scores["content"]):
            yield {**_delta(index, {"content": piece}), "logprobs": in_shape(tokens)}
    else:
        for piece in in_pieces(shown.rest(said.content)):
            yield _delta(index, {"content": piece})
    for delta in _call_deltas(said):
        yield _delta(index, delta)


def _delta(index: int, delta: JsonObject, reason: str | None = None) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _call_deltas(said: Message) -> Iterator[JsonObject]:
    """A call's name first, then its arguments, as OpenAI's clients put them together."""
    for number, call in enumerate(calls_in(said)):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": number, "function": {"name": function["name"], "arguments": ""}}]}
        yield {"tool_calls": [{"index": number, "function": {"arguments": function["arguments"]}}]}
