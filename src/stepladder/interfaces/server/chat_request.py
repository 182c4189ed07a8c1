"""What `/v1/chat/completions` takes, as a question to a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema_rs
from pydantic import BaseModel, ConfigDict, Field, field_validator

from stepladder.domain.messages import Message, Role, ToolCall
from stepladder.domain.protocols import Grammar, Prompt
from stepladder.interfaces.server.errors import invalid
from stepladder.service.serving.question import Question

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


MOST_TOKENS = 10_000_000
COLDEST = 1e-3
"""A temperature below is greedy: dividing by it would leave the range of numbers, for answers that are the same."""
Seed = Annotated[int, Field(ge=-(2**53), le=2**53)]


class Strict(BaseModel):
    """A JSON object in which an unknown key is an error, as OpenAI's API has it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(Strict):
    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Strict):
    name: str
    arguments: str


class CallIn(Strict):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageIn(Strict):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[CallIn] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None  # what an answer of ours may carry when it is sent back

    def as_message(self) -> Message:
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        return Message(_ROLES[self.role], self._text(), self.name, calls, self.tool_call_id)

    def _text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        if self.content is None:
            return self.refusal or ""
        return "\n".join(part.text or part.refusal or "" for part in self.content)


class FunctionIn(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolIn(Strict):
    type: Literal["function"]
    function: FunctionIn

    def as_tool(self) -> dict[str, Any]:
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, **function}}


class JsonSchema(Strict):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    json_schema: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def grammar(self) -> Grammar | None:
        """Raises ApiError 400 where the schema is missing."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Grammar("json_schema", '{"type": "object"}')
        if self.json_schema is None:
            raise invalid("Missing required parameter: 'response_format.json_schema'.", "response_format.json_schema")
        schema = self.json_schema.json_schema
        check_schema(schema)
        return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def check_schema(schema: dict[str, Any]) -> None:
    """Raises ApiError 400 for what is no JSON Schema, or refers to something outside itself, which is never fetched."""
    param = "response_format.json_schema.schema"
    if any(not reference.startswith("#") for reference in _references(schema)):
        raise invalid("A '$ref' in the schema points outside it. Put what it means under '$defs'.", param)
    own = {key: value for key, value in schema.items() if key != "$schema"}  # another dialect would have to be fetched
    try:
        jsonschema_rs.meta.validate(own)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise invalid(f"Invalid schema: {str(error).splitlines()[0][:300]}", param) from None


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (inner for key, inner in value.items() if key in ("$ref", "$dynamicRef") and isinstance(inner, str))
        inside = list(value.values())
    else:
        inside = value if isinstance(value, list) else []
    for inner in inside:
        yield from _references(inner)


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Strict):
    """The request. Keys that change nothing here are read and left alone; those that would change the answer in a way that the
    engine cannot follow are refused by name."""

    model: str
    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=2048)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Seed | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolIn], Field(max_length=128)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    modalities: list[str] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    # Nothing here follows from these.
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    prediction: Any = None

    @field_validator("stop")
    @classmethod
    def _some_text(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and any(not text for text in value):
            raise ValueError("a stop sequence is not empty")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def offers_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    def questions(self) -> list[Question]:
        """One question a choice.

        Raises:
            ApiError: 400 for what the engine cannot do.
        """
        refuse_other_sampling(self.presence_penalty, self.frequency_penalty, self.logit_bias)
        self._refuse_unknown_ways()
        tools = tuple(tool.as_tool() for tool in self.tools or ()) if self.offers_tools else ()
        prompt = Prompt("chat", tuple(message.as_message() for message in self.messages), tools)
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        temperature, top_p = drawn_at(self.temperature, self.top_p)
        grammar = self.response_format.grammar() if self.response_format else None
        seeds = [None if self.seed is None else self.seed + number for number in range(self.n or 1)]
        likeliest = (self.top_logprobs or 0) if self.logprobs else None
        return [Question(prompt, limit, temperature, seed, grammar, likeliest, top_p) for seed in seeds]

    def _refuse_unknown_ways(self) -> None:
        if self.tool_choice not in (None, "auto", "none"):
            raise invalid("'tool_choice' can be 'auto' or 'none' here; a call cannot be forced.", "tool_choice")
        if any(message.audio is not None for message in self.messages) or set(self.modalities or ()) - {"text"}:
            raise invalid("Models here read and write text only.", "modalities")
        if any(message.function_call is not None for message in self.messages):
            raise invalid("'function_call' is no longer supported. Use 'tool_calls'.", "messages")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise invalid("'stream_options' is only allowed when 'stream' is true.", "stream_options")


def drawn_at(temperature: float | None, top_p: float | None) -> tuple[float, float]:
    """The temperature and the nucleus that are used: OpenAI's defaults where none are given."""
    warmth = 1.0 if temperature is None else temperature
    return warmth if warmth >= COLDEST else 0.0, 1.0 if top_p is None else top_p


def refuse_other_sampling(
    presence_penalty: float | None, frequency_penalty: float | None, logit_bias: dict[str, float] | None
) -> None:
    """Engines here draw by temperature and `top_p`, and by nothing else; what would bend that is refused, not ignored.

    Raises:
        ApiError: 400; the key is named.
    """
    for name, value in (("presence_penalty", presence_penalty), ("frequency_penalty", frequency_penalty)):
        if value:
            raise invalid(f"'{name}' is not supported here: leave it out.", name)
    if logit_bias:
        raise invalid("'logit_bias' is not supported here: leave it out.", "logit_bias")
