"""`/v1/chat/completions`."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from stepladder.domain.errors import StepladderError
from stepladder.domain.prediction import Generation
from stepladder.files import hash_json
from stepladder.interfaces.server.answers import (
    ask_all,
    count_answers,
    event_stream,
    refused,
    run_on_models,
    settled,
    speaker_of,
    unless_gone,
    usage_of,
)
from stepladder.interfaces.server.chat_logprobs import OnModels, logprobs_of, within
from stepladder.interfaces.server.chat_reply import Reply
from stepladder.interfaces.server.chat_request import ChatRequest
from stepladder.interfaces.server.chat_stream import chunks_of
from stepladder.interfaces.server.errors import invalid
from stepladder.interfaces.server.limits import read_body
from stepladder.interfaces.server.listening import Listening
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheMetrics, check_metadata
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
    questions = asked.questions()
    began = time.perf_counter()

    async def logprobs(on_models: OnModels, index: int, generation: Generation) -> JsonObject | None:
        if not asked.logprobs:
            return None
        assert isinstance(speaker, WeightsSpeaker)
        return await logprobs_of(house, on_models, speaker, questions[index], generation)

    reply = Reply(asked, new_id("chatcmpl-"), int(time.time()))
    if asked.stream:
        listening = Listening()
        futures = ask_all(house, speaker, questions, listening.listener)
        await settled(futures, listening.begun)
        scored = partial(logprobs, lambda score: asyncio.wrap_future(house.asking.call(score)))
        return event_stream(chunks_of(reply, futures, listening, scored, metrics, began))
    try:
        generations = await unless_gone(request, ask_all(house, speaker, questions))
    except StepladderError as error:
        raise refused(error) from None
    usage = usage_of(generations, len(questions))
    count_answers(metrics, "chat", usage, began)
    scored = partial(logprobs, partial(run_on_models, house, request))
    choices = [reply.choice(index, generation) for index, generation in enumerate(generations)]
    for choice, generation in zip(choices, generations, strict=True):
        choice["logprobs"] = within(choice["message"]["content"] or "", await scored(choice["index"], generation))
    return JSONResponse(
        {
            **reply.head("chat.completion"),
            "system_fingerprint": _fingerprint(generations[0]),
            "choices": choices,
            "usage": usage,
        }
    )


def _fingerprint(generation: Generation) -> str:
    """Changes with the weights that answered."""
    return f"fp_{hash_json([generation.model_sha256, generation.adapter_sha256])[:10]}"
