"""Any server with OpenAI-shaped chat completions, by URL: OpenAI itself, vLLM, Ollama, llama.cpp, Stepladder and others."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai

from stepladder.domain.answer import answer_text
from stepladder.domain.errors import NotOffered
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.output import dump_json
from stepladder.domain.prediction import Generation, TokenLogprob
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.address import OPENAI_URL, Address
from stepladder.engines.calls import TIMEOUT_SECONDS, hash_prompt, raise_as_engine_error
from stepladder.engines.endings import CHAT_ENDINGS, UNSPOKEN
from stepladder.engines.failures import CallFailure, Sdk, ask
from stepladder.engines.held_output import PROBE, UNPROVEN, Way, asked_for, probe_of, unwrap_label, was_held, ways_for
from stepladder.engines.remarks import Remarks
from stepladder.engines.served import ServedEngine, secret_of
from stepladder.engines.usage import Most, read_counts

SDK = Sdk(openai.APIStatusError, openai.APITimeoutError, openai.APIConnectionError, openai.OpenAIError)
_STANDARD = frozenset(
    {"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "seed", "tools"}
    | {"top_p", "logprobs", "top_logprobs"}
)
"""What the SDK has arguments for; the rest goes into the body as it is."""


MOST_TOP_LOGPROBS = 20
"""The protocol allows no more at one place."""


class EndpointEngine(ServedEngine):
    """Asks a server with OpenAI-shaped chat completions.

    Servers differ in small things: the name of the token limit, whether they take a temperature, how an answer is held to a
    schema. OpenAI's own are known. Elsewhere a refusal in words is taken at its word, and how answers are held is tried out
    once with a probe: a server that ignores a schema would pass off plain prompts as constrained ones.

    Args:
        address: Or its URL, with `model`.
        timeout_seconds: For one whole answer.
        settings: As of `ServedEngine`.
    """

    def __init__(
        self,
        address: Address | str,
        model: str = "",
        api_key: str = "none",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        **settings: Any,
    ) -> None:
        address = address if isinstance(address, Address) else Address(address.rstrip("/"), model)
        self._chat = ChatCompletions(address, api_key, timeout_seconds)
        super().__init__(self._chat, address, "endpoint", **settings)

    @property
    def can(self) -> frozenset[str]:
        """Regular expressions too, where a server may know them; whether it does is found out when one is wanted."""
        return super().can | (frozenset() if self._chat.known else {"regex"})

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As every served engine, after the one probe that the first grammar takes."""
        if decoding.grammar is not None and prompts:
            self._find_way(decoding.grammar)
        return super().generate(prompts, decoding, adapter=adapter, on_answer=on_answer)

    def _find_way(self, grammar: Grammar) -> None:
        """Learn, once, in which words this server holds an answer to such a grammar.

        Raises:
            NotOffered: In none.
        """
        chat, kind = self._chat, _kind(grammar)
        if kind in chat.ways:
            return
        refusals = []
        for way in () if kind in chat.without else ways_for(grammar):
            chat.ways[kind] = way
            if chat.known and kind == "schema":
                return
            try:
                answer = self._calls.answer(PROBE, probe_of(grammar))
            except CallFailure as failure:
                del chat.ways[kind]
                if failure.kind != "empty" and failure.status not in (400, 404, 422, 501):
                    raise_as_engine_error(chat, failure)
                refusals.append(f"{way.name}: {failure.words}")
                continue
            if was_held(grammar, answer):
                if answer.cut:
                    chat.remarks.note(UNPROVEN)
                return
            del chat.ways[kind]
            refusals.append(f"{way.name}: ignored")
        chat.without.setdefault(kind, "; ".join(refusals))
        what = "a regular expression" if kind == "regex" else "a JSON Schema"
        raise NotOffered(
            f"{self._identity.name} at {chat.url} does not hold its answers to {what} ({chat.without[kind] or 'not offered'}).",
            'Leave the rung out (`[rungs] skip = ["constrained"]`), or use a server or a local model that does.',
        )


def _kind(grammar: Grammar) -> str:
    return "regex" if grammar.kind == "regex" else "schema"


class ChatCompletions:
    """OpenAI's chat completions as one server speaks them; what it refuses in words is learned.

    Attributes:
        known: It is OpenAI itself, whose ways are known.
        ways: How it holds answers to a grammar, by "schema" and "regex"; `without`: those it does not, and what it said.
    """

    def __init__(self, address: Address, api_key: str, timeout_seconds: float) -> None:
        self.known = address.url == OPENAI_URL
        self.ways: dict[str, Way] = {}
        self.without: dict[str, str] = {"regex": ""} if self.known else {}
        self.remarks = Remarks(address.name)
        staying = openai.DefaultHttpxClient(follow_redirects=False)  # prompts go where the task says, and nowhere else
        self.client = openai.OpenAI(
            base_url=address.url, api_key=api_key, timeout=timeout_seconds, max_retries=0, http_client=staying
        )
        weakref.finalize(self, staying.close)
        self._address = address
        self._secret = secret_of(api_key)
        self._timeout_seconds = timeout_seconds
        # OpenAI's newer models know only the new name of the limit, many other servers only the old one.
        self._limit = "max_completion_tokens" if self.known else "max_tokens"
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
        """OpenAI's `max_completion_tokens` counts thoughts, too; what another server's limit counts is not known."""
        return self.known

    def build_request(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        """The request in this server's own spelling."""
        request: dict[str, Any] = {
            "model": self._address.model,
            "messages": _chat(prompt.messages),
            "temperature": decoding.temperature,
            self._limit: decoding.max_new_tokens,
        }
        if decoding.grammar is not None:
            request |= self.ways[_kind(decoding.grammar)].body(asked_for(decoding.grammar))
        if decoding.temperature > 0:
            request["seed"] = decoding.seed
            request |= {"top_p": decoding.top_p} if decoding.top_p < 1 else {}
        if decoding.logprobs is not None:
            request |= {"logprobs": True, "top_logprobs": min(decoding.logprobs, MOST_TOP_LOGPROBS)}
        if prompt.tools:
            request["tools"] = [dict(tool) for tool in prompt.tools]
        return {key: value for key, value in request.items() if key not in self._left_out}

    def send(self, request: Mapping[str, Any]) -> Any:
        """The reply's body."""
        own = {key: value for key, value in request.items() if key in _STANDARD}
        other = {key: value for key, value in request.items() if key not in _STANDARD}
        create = self.client.chat.completions.with_streaming_response.create
        return ask(
            SDK, lambda: create(**own, extra_body=other or None), timeout_seconds=self._timeout_seconds, secret=self._secret
        )

    def adapts_to(self, failure: CallFailure, request: Mapping[str, Any]) -> bool:
        """Learn from a refusal that names a parameter which can be spelled otherwise or left to the server."""
        if failure.status not in (400, 422):
            return False
        with self._learning:
            if "max_tokens" in request and "max_completion_tokens" in failure.words:
                self._limit = "max_completion_tokens"
                return True
            if "logprobs" in request and "logprobs" in failure.words.lower():
                self._left_out |= {"logprobs", "top_logprobs"}
                return True
            for name in ("temperature", "seed"):
                if name in request and name in failure.words.lower():
                    self._left_out.add(name)
                    self.remarks.note(f"takes no {name}: its answers are drawn its own way and may differ from call to call")
                    return True
        return False

    def read(self, body: Any, prompt: Prompt, decoding: Decoding, *, seconds: float, most: Most) -> Generation:
        """The generation in a reply."""
        choice = _first_choice(body)
        message = choice["message"]
        text = _text(message, prompt)
        usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
        tokens = usage.get("completion_tokens")
        cut = CHAT_ENDINGS.was_cut(choice.get("finish_reason"), text, tokens if "content" in message else None)
        details = usage.get("prompt_tokens_details")
        counts = read_counts(
            usage.get("prompt_tokens"),
            tokens,
            details.get("cached_tokens") if isinstance(details, dict) else 0,
            most=most,
            text=text,
        )
        if counts.estimated:
            self.remarks.count("answers came without token counts that can be right; theirs are estimated")
        if cut and not text:
            self.remarks.count(UNSPOKEN)
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
            logprobs=self._logprobs(choice, decoding),
        )

    def _logprobs(self, choice: Mapping[str, Any], decoding: Decoding) -> tuple[TokenLogprob, ...]:
        """What the server tells of each token, where it was asked for; that it tells nothing is noted."""
        if decoding.logprobs is None:
            return ()
        told = choice.get("logprobs")
        try:
            return tuple(_logprob(entry) for entry in (told or {})["content"] or ())
        except (KeyError, TypeError, ValueError):
            self.remarks.note("gives no log-probabilities, though they were asked for")
            return ()


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    likeliest = tuple((str(one["token"]), float(one["logprob"])) for one in entry.get("top_logprobs") or ())
    return TokenLogprob(str(entry["token"]), float(entry["logprob"]), likeliest)


def _first_choice(body: Any) -> dict[str, Any]:
    """The first choice of a reply, which has a message.

    Raises:
        CallFailure: There is none.
    """
    if isinstance(body, dict) and isinstance(body.get("error"), (dict, str)) and not body.get("choices"):
        error = body["error"]
        said = error.get("message", error) if isinstance(error, dict) else error
        raise CallFailure("shape", f"an error under status 200: {said}")
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        raise CallFailure("shape", "there is no 'choices' in the reply")
    if not isinstance(choices[0], dict) or not isinstance(choices[0].get("message"), dict):
        raise CallFailure("shape", "there is no 'message' in the reply")
    content = choices[0]["message"].get("content")
    if content is not None and not isinstance(content, str):
        raise CallFailure("shape", "the message's 'content' is no text")
    return dict(choices[0])


def _text(message: Mapping[str, Any], prompt: Prompt) -> str:
    """What was said: text and tool calls; where there is neither, a refusal's words. Half-formed arguments stay as they are."""
    called = message.get("tool_calls")
    calls = tuple(
        ToolCall(str(call.get("id")), call["function"]["name"], _arguments(call["function"].get("arguments")))
        for call in (called if isinstance(called, list) else ())
        if _is_call(call)
    )
    said = str(message.get("content") or "")
    if not said and not calls:
        refusal = message.get("refusal")
        return refusal if isinstance(refusal, str) else ""
    return answer_text(Message("assistant", said, tool_calls=calls), prompt.tools)


def _is_call(value: Any) -> bool:
    """Servers in between send odd things."""
    function = value.get("function") if isinstance(value, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


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
