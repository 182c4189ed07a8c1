"""Claude, by Anthropic's Messages API."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import anthropic

from stepladder.domain.answer import answer_text, parse_arguments
from stepladder.domain.errors import EngineError, NotOffered
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.output import dump_json
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.address import ANTHROPIC_URL, Address
from stepladder.engines.calls import TIMEOUT_SECONDS, hash_prompt
from stepladder.engines.endings import MESSAGES_ENDINGS, UNSPOKEN
from stepladder.engines.failures import CallFailure, Sdk, ask
from stepladder.engines.held_output import asked_for, unwrap_label
from stepladder.engines.remarks import Remarks
from stepladder.engines.served import ServedEngine, secret_of
from stepladder.engines.usage import Most, read_counts

SDK = Sdk(anthropic.APIStatusError, anthropic.APITimeoutError, anthropic.APIConnectionError, anthropic.AnthropicError)
NO_WORDS = "(no text)"
"""What stands for a turn without a word: the API takes no blank text, and turns have to alternate."""
_STANDARD = frozenset({"model", "messages", "max_tokens", "system", "tools", "output_config"})
KEYWORDS = frozenset(
    {"$schema", "$id", "$defs", "$ref", "type", "enum", "const", "anyOf", "allOf", "properties", "required", "items"}
    | {"additionalProperties", "title", "description", "default", "format"}
)
"""What structured outputs know of JSON Schema. The SDK turns the rest into words of the description, which hold nobody."""


class AnthropicEngine(ServedEngine):
    """Asks Claude. There are no log-probabilities, and no regular expressions.

    Args:
        timeout_seconds: For one whole answer.
        settings: As of `ServedEngine`.
    """

    def __init__(self, address: Address, api_key: str, *, timeout_seconds: float = TIMEOUT_SECONDS, **settings: Any) -> None:
        super().__init__(Messages(address, api_key, timeout_seconds), address, "anthropic", **settings)

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As every served engine; what the API does not have is refused before anything is sent."""
        if decoding.logprobs is not None:
            raise NotOffered(f"{self.identity.name} gives no log-probabilities.", "Use another model.")
        if decoding.grammar is not None:
            _check_grammar(decoding.grammar, self.identity.name)
        return super().generate(prompts, decoding, adapter=adapter, on_answer=on_answer)


class Messages:
    """The Messages API. It took a temperature and `top_p` once; a model that refuses one is asked without, and that is said."""

    def __init__(self, address: Address, api_key: str, timeout_seconds: float) -> None:
        self.remarks = Remarks(address.name)
        staying = anthropic.DefaultHttpxClient(follow_redirects=False)  # prompts go where the task says, and nowhere else
        self.client = anthropic.Anthropic(
            base_url=address.url, api_key=api_key, timeout=timeout_seconds, max_retries=0, http_client=staying
        )
        weakref.finalize(self, staying.close)
        self._address = address
        self._secret = secret_of(api_key)
        self._timeout_seconds = timeout_seconds
        self._left_out: set[str] = set()
        self._learning = threading.Lock()

    @property
    def name(self) -> str:
        return self._address.name

    @property
    def url(self) -> str:
        return self._address.public_url

    @property
    def secret(self) -> str:
        return self._secret

    @property
    def thinks_within_limit(self) -> bool:
        """Anthropic's own `max_tokens` counts thoughts, too."""
        return self.url == ANTHROPIC_URL

    def build_request(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        """System turns go apart from the others, as the API wants them.

        Raises:
            EngineError: A demonstrated call's arguments are no JSON object.
        """
        said = [message.content for message in prompt.messages if message.role == "system"]
        system = "\n\n".join(one for one in said if one.strip())
        turns = [message for message in prompt.messages if message.role != "system"]
        request: dict[str, Any] = {
            "model": self._address.model,
            "max_tokens": decoding.max_new_tokens,
            "messages": _turns(turns, prompt.id),
        }
        drawn = {"temperature": decoding.temperature}
        if decoding.temperature > 0 and decoding.top_p < 1:
            drawn["top_p"] = decoding.top_p
        request |= {name: value for name, value in drawn.items() if name not in self._left_out}
        if system:
            request["system"] = system
        if prompt.tools:
            request["tools"] = [_tool(tool) for tool in prompt.tools]
        if decoding.grammar is not None:
            request["output_config"] = {"format": {"type": "json_schema", "schema": asked_for(decoding.grammar)}}
        return request

    def send(self, request: Mapping[str, Any]) -> Any:
        """The reply's body."""
        own = {key: value for key, value in request.items() if key in _STANDARD}
        other = {key: value for key, value in request.items() if key not in _STANDARD}
        create = self.client.messages.with_streaming_response.create
        return ask(
            SDK, lambda: create(**own, extra_body=other or None), timeout_seconds=self._timeout_seconds, secret=self._secret
        )

    def adapts_to(self, failure: CallFailure, request: Mapping[str, Any]) -> bool:
        """Learn that this model takes no `top_p`, which some take only without a temperature, or no temperature."""
        words = failure.words.lower()
        for name in ("top_p", "temperature") if failure.status == 400 else ():
            if name in request and name in words:
                with self._learning:
                    self._left_out.add(name)
                    self.remarks.note(f"takes no {name}: its answers are drawn its own way and may differ from call to call")
                return True
        return False

    def read(self, body: Any, prompt: Prompt, decoding: Decoding, *, seconds: float, most: Most) -> Generation:
        """The generation in a reply; thoughts are left out of it, and counted."""
        if not isinstance(body, dict) or not isinstance(body.get("content"), list):
            raise CallFailure("shape", "there is no 'content' in the reply")
        text = _text(body["content"], prompt)
        usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
        cut = MESSAGES_ENDINGS.was_cut(body.get("stop_reason"), text, usage.get("output_tokens"))
        cached = usage.get("cache_read_input_tokens") or 0
        counts = read_counts(
            _sum(usage.get("input_tokens"), usage.get("cache_creation_input_tokens"), cached),
            usage.get("output_tokens"),
            cached,
            most=most,
            text=text,
        )
        if counts.estimated:
            self.remarks.count("answers came without token counts that can be right; theirs are estimated")
        if cut and not text:
            self.remarks.count(UNSPOKEN)
        if text == NO_WORDS and any(map(_is_blank, prompt.messages)):
            text = ""  # as it was shown
        labelled = decoding.grammar is not None and decoding.grammar.kind == "labels" and not cut
        return Generation(
            text=unwrap_label(text) if labelled else text,
            prompt_tokens=counts.prompt,
            completion_tokens=counts.completion,
            latency_seconds=seconds,
            cut=cut,
            shared_prompt_tokens=counts.cached,
            prompt_sha256=hash_prompt(prompt),
            counts_estimated=counts.estimated,
        )


def _sum(first: Any, *others: Any) -> Any:
    """All input tokens; what is no number is left for `read_counts` to refuse."""
    if not isinstance(first, int):
        return first
    return first + sum(part for part in others if isinstance(part, int))


def _text(blocks: Sequence[Any], prompt: Prompt) -> str:
    """What was said and called.

    Raises:
        CallFailure: A text that is none, or a call without a name.
    """
    texts: list[Any] = [block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
    called = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_use"]
    if not all(isinstance(one, str) for one in (*texts, *(block.get("name") for block in called))):
        raise CallFailure("shape", "a block of its 'content' is malformed")
    said = "".join(texts)
    calls = tuple(ToolCall(str(block.get("id")), block["name"], dump_json(block.get("input", {}))) for block in called)
    return answer_text(Message("assistant", said, tool_calls=calls), prompt.tools)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI-shaped function as the Messages API describes one."""
    function = tool.get("function", tool)
    found = {"name": function["name"], "input_schema": dict(function.get("parameters") or {"type": "object", "properties": {}})}
    found["input_schema"].setdefault("type", "object")
    if function.get("description"):
        found["description"] = function["description"]
    return found


def _turns(messages: Sequence[Message], id: str) -> list[dict[str, Any]]:
    """User and assistant turns in turn. Results stand in the user's turn after their calls; one without gets an empty result."""
    turns: list[dict[str, Any]] = []
    ids: dict[str, str] = {}  # the API takes few letters, and no id twice; so calls are numbered anew
    numbers = count(1)
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool":
            called = ids.get(message.tool_call_id or "", message.tool_call_id or "")
            open_calls = [one for one in open_calls if one != called]
            _add(turns, "user", {"type": "tool_result", "tool_use_id": called, "content": message.content})
            continue
        for call in open_calls:
            _add(turns, "user", {"type": "tool_result", "tool_use_id": call, "content": ""})
        open_calls = []
        ids |= {call.id: f"call_{next(numbers)}" for call in message.tool_calls}
        for block in _blocks(message, ids, id):
            _add(turns, message.role, block)
        open_calls = [ids[call.id] for call in message.tool_calls]
    for call in open_calls:
        _add(turns, "user", {"type": "tool_result", "tool_use_id": call, "content": ""})
    return turns


def _add(turns: list[dict[str, Any]], role: str, block: dict[str, Any]) -> None:
    if not turns or turns[-1]["role"] != role:
        turns.append({"role": role, "content": []})
    turns[-1]["content"].append(block)


def _blocks(message: Message, ids: Mapping[str, str], prompt_id: str) -> Iterator[dict[str, Any]]:
    if message.content.strip():
        yield {"type": "text", "text": message.content}
    elif _is_blank(message):
        yield {"type": "text", "text": NO_WORDS}
    for call in message.tool_calls:
        arguments = parse_arguments(call.arguments)
        if arguments is None:
            raise EngineError(
                f"Prompt '{prompt_id}': the arguments of a call of '{call.name}' are no JSON object, and Claude takes no others.",
                "Correct the row.",
            )
        yield {"type": "tool_use", "id": ids[call.id], "name": call.name, "input": arguments}


def _is_blank(message: Message) -> bool:
    return message.role in ("user", "assistant") and not message.content.strip() and not message.tool_calls


def _check_grammar(grammar: Grammar, name: str) -> None:
    """Raises: NotOffered when the API cannot hold an answer to it; what is in the way is named."""
    if grammar.kind == "regex":
        raise NotOffered(f"{name} cannot hold answers to a regular expression.", "Use a local base model, or a JSON Schema.")
    if grammar.kind == "json_schema":
        fault = next(_schema_faults(json.loads(grammar.text), ""), None)
        if fault is not None:
            raise NotOffered(
                f"{name} cannot hold answers to this schema: {fault}.",
                'Change the schema, or leave the rung out (`[rungs] skip = ["constrained"]`).',
            )


def _schema_faults(schema: Any, path: str) -> Iterator[str]:
    where = f"at '{path}'" if path else "at its top"
    if not isinstance(schema, dict):
        yield f"{where} it is no object"
        return
    types = schema.get("type")
    is_object = "properties" in schema or "object" in (types if isinstance(types, list) else [types])
    if is_object and schema.get("additionalProperties") is not False:
        yield f"{where} `additionalProperties` is not false"
    for keyword in schema:
        if keyword not in KEYWORDS and (keyword != "minItems" or schema[keyword] not in (0, 1)):
            yield f"{where} it knows no `{keyword}`"
    for name, part in _parts(schema):
        yield from _schema_faults(part, f"{path}/{name}")


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas inside a schema, with their names; two may have the same one."""
    yield from schema.get("properties", {}).items()
    yield from ((f"$defs/{name}", part) for name, part in schema.get("$defs", {}).items())
    for key in ("anyOf", "allOf"):
        yield from ((f"{key}/{number}", part) for number, part in enumerate(schema.get(key, ())))
    if "items" in schema:
        yield "items", schema["items"]
