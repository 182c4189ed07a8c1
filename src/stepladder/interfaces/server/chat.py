"""`/v1/chat/completions`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from stepladder.domain.answer import read_answer
from stepladder.domain.errors import StepladderError
from stepladder.domain.messages import Message
from stepladder.domain.plain import TokenScore
from stepladder.domain.prediction import Generation, TokenLogprob
from stepladder.files import hash_json
from stepladder.interfaces.server.answers import (
    ask_all,
    count_answers,
    event_stream,
    in_pieces,
    let_go,
    refused,
    run_on_models,
    settled,
    speaker_of,
    stopped_at,
    unless_gone,
    usage_of,
)
from stepladder.interfaces.server.chat_request import ChatRequest
from stepladder.interfaces.server.errors import invalid
from stepladder.interfaces.server.limits import read_body
from stepladder.interfaces.server.metrics import Metrics
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheMetrics, check_metadata
from stepladder.service.serving.house import House
from stepladder.service.serving.question import Question
from stepladder.service.serving.speakers import WeightsSpeaker
from stepladder.storage.ids import new_id

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request, project: ProjectId, house: TheHouse, metrics: TheMetrics) -> Response:
    asked = await read_body(request, ChatRequest)
    check_metadata(asked.metadata)
    speaker = speaker_of(house, project, asked.model)
    if asked.logprobs and not isinstance(speaker, WeightsSpeaker):
        raise invalid("A rung of a climb does not say how likely its tokens were.", "logprobs")
    if asked.logprobs and asked.stream:
        raise invalid("'logprobs' of a stream are not supported here: leave 'stream' out.", "logprobs")
    questions = asked.questions()
    began = time.perf_counter()
    futures = ask_all(house, speaker, questions)
    reply = _Reply(asked, new_id("chatcmpl-"), int(time.time()))
    if asked.stream:
        await settled(futures)
        return event_stream(_chunks(reply, futures, metrics, began))
    try:
        generations = await unless_gone(request, futures)
    except StepladderError as error:
        raise refused(error) from None
    usage = usage_of(generations, len(questions))
    count_answers(metrics, "chat", usage, began)
    choices = [reply.choice(index, generation) for index, generation in enumerate(generations)]
    if asked.logprobs:
        assert isinstance(speaker, WeightsSpeaker)
        for choice, question, generation in zip(choices, questions, generations, strict=True):
            choice["logprobs"] = await _logprobs(house, request, speaker, question, generation, asked.top_logprobs or 0)
    return JSONResponse(
        {
            **reply.head("chat.completion"),
            "system_fingerprint": _fingerprint(generations[0]),
            "choices": choices,
            "usage": usage,
        }
    )


class _Reply:
    """The shape of the answer, whole or in chunks."""

    def __init__(self, asked: ChatRequest, id: str, created: int) -> None:
        self.asked, self.id, self.created = asked, id, created

    def head(self, kind: str) -> JsonObject:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model}

    def chunk(self, choices: list[JsonObject], usage: JsonObject | None = None) -> JsonObject:
        wants_usage = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        return {**self.head("chat.completion.chunk"), "choices": choices, **({"usage": usage} if wants_usage else {})}

    def message(self, generation: Generation) -> tuple[Message, str]:
        """What was said and called, and why it ended."""
        text, stopped = stopped_at(generation.text, self.asked.stops)
        if self.asked.offers_tools and not stopped:
            message = read_answer(text)
            if message.tool_calls:
                calls = message.tool_calls[:1] if self.asked.parallel_tool_calls is False else message.tool_calls
                return Message("assistant", message.content, tool_calls=calls), "tool_calls"
        return Message("assistant", text), "length" if generation.cut and not stopped else "stop"

    def choice(self, index: int, generation: Generation) -> JsonObject:
        said, reason = self.message(generation)
        message: JsonObject = {"role": "assistant", "content": said.content, "refusal": None, "annotations": []}
        if said.tool_calls:
            message |= {"content": said.content or None, "tool_calls": _calls(said)}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def _calls(said: Message) -> list[JsonObject]:
    return [
        {"id": new_id("call_"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in said.tool_calls
    ]


async def _chunks(
    reply: _Reply, futures: Sequence[asyncio.Future[Generation]], metrics: Metrics, began: float
) -> AsyncIterator[JsonObject]:
    """Every choice in turn: who speaks, what in pieces, why it ended; then the usage where it was asked for."""
    try:
        generations = []
        for index, future in enumerate(futures):
            yield reply.chunk([_delta(index, {"role": "assistant", "content": ""})])
            generation = await future
            generations.append(generation)
            said, reason = reply.message(generation)
            for piece in in_pieces(said.content):
                yield reply.chunk([_delta(index, {"content": piece})])
            for delta in _call_deltas(said):
                yield reply.chunk([_delta(index, delta)])
            yield reply.chunk([_delta(index, {}, reason)])
        usage = usage_of(generations, len(futures))
        count_answers(metrics, "chat", usage, began)
        if reply.asked.stream_options is not None and reply.asked.stream_options.include_usage:
            yield reply.chunk([], usage)
    finally:  # the client may have gone in between
        let_go(futures)


def _delta(index: int, delta: JsonObject, reason: str | None = None) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _call_deltas(said: Message) -> list[JsonObject]:
    """A call's name first, then its arguments, as OpenAI's clients put them together."""
    deltas: list[JsonObject] = []
    for number, call in enumerate(_calls(said)):
        function = call["function"]
        opening = {**call, "index": number, "function": {"name": function["name"], "arguments": ""}}
        deltas.append({"tool_calls": [opening]})
        deltas.append({"tool_calls": [{"index": number, "function": {"arguments": function["arguments"]}}]})
    return deltas


async def _logprobs(
    house: House, request: Request, speaker: WeightsSpeaker, question: Question, generation: Generation, top: int
) -> JsonObject:
    """Those of the tokens as they were written, where the engine noted them; else of the text, read once more."""
    if generation.logprobs:
        return {"content": [_written(token) for token in _without_end(generation)], "refusal": None}
    answer = Message("assistant", generation.text)

    def score() -> list[TokenScore]:
        return house.plain(speaker.base).answer_scores(question.prompt, answer, top, adapter=speaker.adapter)

    scores: list[TokenScore] = await run_on_models(house, request, score)
    return {"content": [_token(score) for score in scores], "refusal": None}


def _without_end(generation: Generation) -> Sequence[TokenLogprob]:
    """Without the token that ended the turn, which is no part of the answer."""
    tokens = generation.logprobs
    ended = not generation.cut and not generation.text.endswith(tokens[-1].text)
    return tokens[:-1] if ended else tokens


def _written(token: TokenLogprob) -> JsonObject:
    entries = [_entry(text, _bytes_of(text), value) for text, value in token.top]
    return {**_entry(token.text, _bytes_of(token.text), token.logprob), "top_logprobs": entries}


def _bytes_of(text: str) -> bytes | None:
    """None for half a letter, whose bytes the engine does not tell."""
    return None if "\ufffd" in text else text.encode("utf-8")


def _token(score: TokenScore) -> JsonObject:
    entries = [_entry(text, raw, value) for text, raw, value in score.top]
    return {**_entry(score.text, score.raw, score.log_probability), "top_logprobs": entries}


def _entry(text: str, raw: bytes | None, value: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": 0.0 if value is None else value, "bytes": None if raw is None else list(raw)}


def _fingerprint(generation: Generation) -> str:
    """Changes with the weights that answered."""
    return f"fp_{hash_json([generation.model_sha256, generation.adapter_sha256])[:10]}"
