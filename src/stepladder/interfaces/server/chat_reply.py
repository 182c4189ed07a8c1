"""An answer to `/v1/chat/completions` in OpenAI's shape, whole or in chunks."""

from __future__ import annotations

from stepladder.domain.answer import read_answer
from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.interfaces.server.answers import stopped_at
from stepladder.interfaces.server.chat_request import ChatRequest
from stepladder.interfaces.server.shared import JsonObject
from stepladder.storage.ids import new_id


class Reply:
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
            message |= {"content": said.content or None, "tool_calls": calls_in(said)}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def calls_in(said: Message) -> list[JsonObject]:
    return [
        {"id": new_id("call_"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in said.tool_calls
    ]
