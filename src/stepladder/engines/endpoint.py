"""Any server with OpenAI-shaped chat completions: OpenAI itself, vLLM, Ollama, llama.cpp and others, by URL."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from stepladder.domain.answer import answer_text
from stepladder.domain.errors import EngineError, UsageError
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.output import dump_json
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, Grammar, ModelIdentity, Prompt
from stepladder.engines.purse import Prices, Purse
from stepladder.engines.retries import may_be_billed, pause_before_retry
from stepladder.files import hash_json

OPENAI_URL = "https://api.openai.com/v1"
LABEL_KEY = "label"

_ADVICE = {
    400: "The server refuses the request: read its words above; some models take no temperature or no JSON Schema.",
    401: "Check the API key.",
    403: "Check the API key and what it may use.",
    404: "Check the URL (it usually ends in /v1) and the model's name.",
    408: "Try again later, or allow more time.",
    413: "The prompt is too long for this server: use fewer demonstrations.",
    422: "The server refuses the request: read its words above.",
    429: "The rate or spending limit is reached: try again later, or lower the concurrency.",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a hosted or served model is found, and the name of the environment variable that holds its key."""

    url: str
    model: str
    key_variable: str

    @property
    def name(self) -> str:
        """As `[model] base` would spell it."""
        return f"openai:{self.model}" if self.url == OPENAI_URL else f"{self.url} {self.model}"

    @property
    def hosted(self) -> bool:
        """Whether the data leaves this machine."""
        return not _is_loopback(urlsplit(self.url).hostname or "")

    def api_key(self) -> str:
        """The key from the environment; a placeholder for a server on this machine, which needs none.

        Raises:
            EngineError: The server is elsewhere and the variable is not set.
        """
        key = os.environ.get(self.key_variable, "")
        if not key and self.hosted:
            raise EngineError(f"{self.name} needs an API key.", f"Set the environment variable {self.key_variable}.")
        return key or "none"


def parse_model(name: str) -> Address | None:
    """`openai:NAME` or `URL NAME` as an address; None for anything else (a folder, a starter name, …).

    Raises:
        UsageError: It begins like one of the two, but is not complete.
    """
    if name.startswith("openai:"):
        model = name.removeprefix("openai:").strip()
        if not model:
            raise UsageError("'openai:' lacks the model's name.", "Write openai:NAME.")
        return Address(OPENAI_URL, model, "OPENAI_API_KEY")
    if not name.startswith(("http://", "https://")):
        return None
    url, _, model = name.partition(" ")
    parts = urlsplit(url)
    if not model.strip() or not parts.hostname:
        raise UsageError(f"{name!r} is not a server and a model.", "Write the URL, a space, and the model's name.")
    if parts.username or parts.password:
        raise UsageError("The server's URL holds a password.", "Put the key into STEPLADDER_API_KEY instead.")
    return Address(url.rstrip("/"), model.strip(), "STEPLADDER_API_KEY")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class EndpointEngine:
    """Asks a server. Calls that failed in passing (429, 5xx, broken connections) are sent again, when `Retry-After` says.

    Args:
        max_retries: Attempts beyond the first.
        prices, purse: With both, the most an attempt can cost is set aside before it is sent.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str,
        *,
        concurrency: int = 8,
        timeout_seconds: float = 120.0,
        max_retries: int = 4,
        prices: Prices | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._concurrency = concurrency
        self._prices = prices
        self._purse = purse
        self._max_retries = max_retries
        self._client = openai.OpenAI(base_url=self._url, api_key=api_key, timeout=timeout_seconds, max_retries=0)
        address = Address(self._url, model, "")
        self._identity = ModelIdentity(name=address.name, engine="endpoint", hosted=address.hosted)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def can(self) -> frozenset[str]:
        """Grammars (JSON Schema and labels) and tools: servers report no tokens before, nor log-probabilities of a given text."""
        return frozenset({"grammar", "tools", "calls"})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt, `concurrency` at a time; `on_answer` is called in the caller's thread.

        When one call fails for good, the calls under way are still waited for and reported, since they are paid for.

        Raises:
            EngineError, BudgetError.
        """
        if adapter is not None:
            raise EngineError(f"{self._identity.name} cannot load an adapter.", "Use a local base model for tuned rungs.")
        extra = _response_format(decoding.grammar, self._identity.name)
        generations: dict[int, Generation] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(max_workers=self._concurrency) as pool:
            calls = {pool.submit(self._answer, prompt, decoding, extra): index for index, prompt in enumerate(prompts)}
            try:
                for call in as_completed(calls):
                    if call.cancelled():
                        continue
                    error = call.exception()
                    if error is not None:
                        failure = failure or error
                        _cancel(calls)
                        continue
                    generations[calls[call]] = call.result()
                    if on_answer is not None:
                        on_answer(calls[call], call.result())
            finally:
                _cancel(calls)
        if failure is not None:
            raise failure
        return [generations[index] for index in range(len(prompts))]

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        """Not offered by chat completions.

        Raises:
            EngineError: Always.
        """
        raise EngineError(f"{self._identity.name} gives no log-probabilities of given answers.", "Use a local base model.")

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Not offered by chat completions; what a call used is in its generation.

        Raises:
            EngineError: Always.
        """
        raise self._no_count()

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        """As `count_tokens`.

        Raises:
            EngineError: Always.
        """
        raise self._no_count()

    def _no_count(self) -> EngineError:
        return EngineError(
            f"{self._identity.name} does not say how many tokens a text has before it is sent.",
            "Read `prompt_tokens` of an answer instead.",
        )

    def _answer(self, prompt: Prompt, decoding: Decoding, extra: Mapping[str, Any]) -> Generation:
        request = self._request(prompt, decoding, extra)
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._attempt(request, prompt, decoding)
            except openai.APIError as error:
                pause = pause_before_retry(error, attempt) if attempt <= self._max_retries else None
                if pause is None:
                    self._fail(error)
                time.sleep(pause)
            except (openai.OpenAIError, ValueError) as error:
                self._fail(error)

    def _attempt(self, request: Mapping[str, Any], prompt: Prompt, decoding: Decoding) -> Generation:
        """One call, with money set aside before it is sent."""
        most = self._most_usd(request, decoding.max_new_tokens)
        call = self._purse.reserve(most) if self._purse is not None else 0
        spent = most  # a call that breaks off may have been billed
        try:
            completion, seconds = self._send(request)
            generation = _read(completion, prompt, seconds, decoding.grammar, self._identity.name)
            spent = self._cost_usd(generation)
        except openai.APIError as error:
            spent = most if may_be_billed(error) else 0.0
            raise
        finally:
            if self._purse is not None:
                self._purse.settle(call, spent)
        return generation

    def _request(self, prompt: Prompt, decoding: Decoding, extra: Mapping[str, Any]) -> dict[str, Any]:
        # OpenAI's newer models know only the new name of the limit, many other servers only the old one.
        limit = "max_completion_tokens" if self._url == OPENAI_URL else "max_tokens"
        request: dict[str, Any] = {
            "model": self._model,
            "messages": _chat(prompt.messages),
            "temperature": decoding.temperature,
            limit: decoding.max_new_tokens,
            **extra,
        }
        if decoding.temperature > 0:
            request["seed"] = decoding.seed
        if prompt.tools:
            request["tools"] = [dict(tool) for tool in prompt.tools]
        return request

    def _send(self, request: Mapping[str, Any]) -> tuple[ChatCompletion, float]:
        """The reply and the seconds it took."""
        reply = self._client.chat.completions.with_raw_response.create(**request)
        return reply.parse(), reply.elapsed.total_seconds()

    def _most_usd(self, request: Mapping[str, Any], max_new_tokens: int) -> float:
        """Upper bound of a call's price: no tokenizer makes more tokens than there are bytes."""
        if self._prices is None:
            return 0.0
        return self._prices.cost_usd(len(json.dumps(request, default=str).encode()), max_new_tokens)

    def _cost_usd(self, generation: Generation) -> float:
        if self._prices is None:
            return 0.0
        return self._prices.cost_usd(generation.prompt_tokens, generation.completion_tokens)

    def _fail(self, error: Exception) -> NoReturn:
        where = self._identity.name
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            advice = _ADVICE.get(status, "The server has a fault: try again later, or look into its log.")
            raise EngineError(f"{where} at {self._url} answered with status {status}: {_brief(error)}.", advice) from error
        if isinstance(error, openai.APITimeoutError):
            raise EngineError(
                f"{where} at {self._url} did not answer in time.", "Try again later, or allow more time."
            ) from error
        if isinstance(error, openai.APIConnectionError):
            raise EngineError(
                f"{where} at {self._url} cannot be reached.", "Is the server running, and the URL right?"
            ) from error
        raise EngineError(
            f"{where} at {self._url} did not answer in OpenAI's shape: {_brief(error)}.",
            "Check that the URL is that of chat completions (it usually ends in /v1).",
        ) from error


def _cancel(calls: Mapping[Future[Generation], int]) -> None:
    for call in calls:
        call.cancel()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _response_format(grammar: Grammar | None, name: str) -> dict[str, Any]:
    """OpenAI's structured outputs. Labels travel as an object with one enum field, unwrapped again by `_read`."""
    if grammar is None:
        return {}
    if grammar.kind == "regex":
        raise EngineError(f"{name} cannot hold answers to a regular expression.", "Use a local base model, or a JSON Schema.")
    schema: Any = json.loads(grammar.text)
    if grammar.kind == "labels":
        schema = {
            "type": "object",
            "properties": {LABEL_KEY: {"type": "string", "enum": schema}},
            "required": [LABEL_KEY],
            "additionalProperties": False,
        }
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}}


def _read(completion: Any, prompt: Prompt, seconds: float, grammar: Grammar | None, name: str) -> Generation:
    """The generation in a reply.

    Raises:
        ValueError: The reply lacks a choice or its token counts.
    """
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise ValueError("there is no 'choices' in the reply")
    if completion.usage is None:
        raise ValueError("there is no 'usage' in the reply, so its cost is unknown")
    choice = completion.choices[0]
    cut = choice.finish_reason == "length"
    text = _text(choice.message, prompt)
    if grammar is not None and grammar.kind == "labels" and not cut:
        text = _unwrap_label(text)
    details = completion.usage.prompt_tokens_details
    return Generation(
        text=text,
        prompt_tokens=completion.usage.prompt_tokens,
        completion_tokens=completion.usage.completion_tokens,
        latency_seconds=seconds,
        cut=cut,
        shared_prompt_tokens=(details.cached_tokens or 0) if details is not None else 0,
        prompt_sha256=hash_json([[message.as_chat() for message in prompt.messages], [dict(tool) for tool in prompt.tools]]),
    )


def _text(message: Any, prompt: Prompt) -> str:
    """What was said: text and tool calls; where there is neither, a refusal's words. Half-formed arguments stay as they are."""
    calls = tuple(
        ToolCall(str(call.id), str(call.function.name), _arguments(call.function.arguments))
        for call in message.tool_calls or ()
        if call.type == "function" and call.function is not None  # servers in between send odd things
    )
    said = str(message.content or "")
    if not said and not calls:
        return str(getattr(message, "refusal", None) or "")
    return answer_text(Message("assistant", said, tool_calls=calls), prompt.tools)


def _arguments(value: Any) -> str:
    """Arguments as text; some servers send the object itself, or nothing at all."""
    return value if isinstance(value, str) else dump_json({} if value is None else value)


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns as OpenAI's protocol wants them: every call is followed by a result, so a demonstrated one gets an empty one."""
    chat = []
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool" and message.tool_call_id in open_calls:
            open_calls.remove(message.tool_call_id)
        elif message.role != "tool":
            chat += [_empty_result(call) for call in open_calls]
            open_calls = [call.id for call in message.tool_calls]
        chat.append(message.as_chat())
    return chat + [_empty_result(call) for call in open_calls]


def _empty_result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": ""}


def _unwrap_label(text: str) -> str:
    """The label inside the object; a reply in another shape stays as it is, for the grader to judge."""
    try:
        return str(json.loads(text)[LABEL_KEY])
    except (ValueError, KeyError, TypeError):
        return text
