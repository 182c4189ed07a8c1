"""An engine without a model: answers come from a function or a table. For tests, and for trying things out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs

from stepladder.domain.answer import answer_text
from stepladder.domain.errors import EngineError
from stepladder.domain.output import dump_json
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, Grammar, ModelIdentity, Prompt, Request
from stepladder.engines.adapter import WEIGHTS
from stepladder.files import hash_file, hash_json, hash_text

Answer = Callable[[Prompt, Decoding, Path | None], str]

SECONDS_PER_TOKEN = 0.001
_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class FakeCall:
    """One prompt the engine was asked, in the order asked; `decoding` is None for a `score`."""

    prompt: Prompt
    decoding: Decoding | None
    adapter: Path | None
    completions: tuple[str, ...] = ()


def last_user_turn(prompt: Prompt) -> str:
    """Text of the last user turn, or "" without one."""
    return next((message.content for message in reversed(prompt.messages) if message.role == "user"), "")


class FakeEngine:
    """Deterministic answers, counted in words.

    Args:
        answer: What is said to a prompt: a function, or a table by the last user turn. What a table lacks, and
            everything when no answer is given, is answered by repeating the last user turn. Tool calls are given as
            the text of `domain.answer.answer_text`.
        name: Name in `identity`; its hashes derive from it.
        context_tokens: Words a prompt and its answer may have together.
    """

    def __init__(self, answer: Answer | Mapping[str, str] | None = None, name: str = "fake", context_tokens: int = 4096) -> None:
        self._answer = _as_function(answer)
        self._identity = ModelIdentity(
            name=name,
            engine="fake",
            base_sha256=hash_text(f"base {name}"),
            tokenizer_sha256=hash_text(f"tokenizer {name}"),
            template_sha256=hash_text(f"template {name}"),
            parameters=1,
            context_tokens=context_tokens,
            dtype="words",
        )
        self.calls: list[FakeCall] = []

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def can(self) -> frozenset[str]:
        return frozenset({"score", "grammar", "adapter", "count", "tools", "calls"})

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """One generation per prompt, in order; `calls` grows by one per prompt."""
        for prompt in prompts:
            self._check_length(prompt, decoding.max_new_tokens)
        generations = []
        for index, prompt in enumerate(prompts):
            self.calls.append(FakeCall(prompt, decoding, adapter))
            generation = self._generate_one(prompt, decoding, adapter)
            generations.append(generation)
            if on_answer is not None:
                on_answer(index, generation)
        return generations

    def answer(
        self,
        requests: Sequence[Request],
        *,
        on_text: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As `generate`, one request after the other; answers are heard word by word."""
        answers = []
        for place, request in enumerate(requests):
            answers += self.generate([request.prompt], request.decoding, adapter=request.adapter)
            for word in re.findall(r"\s*\S+|\s+$", answers[-1].text):
                if on_text is not None:
                    on_text(place, word)
            if on_answer is not None:
                on_answer(place, answers[-1])
        return answers

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        """Near 0 for the completion that `answer` gives, at least one nat per token below for any other.

        All completions of a prompt take one token's time together.
        """
        scores = []
        for prompt, options in zip(prompts, completions, strict=True):
            self.calls.append(FakeCall(prompt, None, adapter, tuple(options)))
            expected = self._answer(prompt, Decoding(max_new_tokens=self._identity.context_tokens), adapter).strip()
            speaker = None if adapter is None else _hash_adapter(adapter)
            scores.append([_score_one(prompt, option, expected, SECONDS_PER_TOKEN / len(options), speaker) for option in options])
        return scores

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Words of all turns, tool calls included, plus one per turn and one that opens the model's."""
        return [sum(1 + len(_words(answer_text(message))) for message in prompt.messages) + 1 for prompt in prompts]

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [len(_words(text)) for text in texts]

    def _check_length(self, prompt: Prompt, max_new_tokens: int) -> None:
        needed = self.count_tokens([prompt])[0] + max_new_tokens
        if needed > self._identity.context_tokens:
            raise EngineError(
                f"Prompt '{prompt.id}' and its answer need {needed} tokens, but {self._identity.name} has"
                f" {self._identity.context_tokens}.",
                "Shorten the prompt, or use fewer demonstrations.",
            )

    def _generate_one(self, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> Generation:
        text = self._answer(prompt, decoding, adapter)
        if decoding.grammar is not None:
            text = _fit_grammar(text, decoding.grammar)
        words = _words(text)
        cut = len(words) > decoding.max_new_tokens
        if cut:
            words = words[: decoding.max_new_tokens]
            text = "".join(words)
        return Generation(
            text=text,
            prompt_tokens=self.count_tokens([prompt])[0],
            completion_tokens=min(len(words) + 1, decoding.max_new_tokens),  # the end-of-turn counts, as in a real model
            latency_seconds=SECONDS_PER_TOKEN * (len(words) + 1),
            cut=cut,
            model_sha256=self._identity.base_sha256,
            adapter_sha256=None if adapter is None else _hash_adapter(adapter),
            prompt_sha256=_hash_prompt(prompt),
        )


class ComparingFakeEngine(FakeEngine):
    """A fake whose weights can be compared too.

    Args:
        moved: How far an adapter has moved from the base, 0 = not at all: the share by which the loss on plain texts
            (1 nat per token) rises, and the divergence in nats per token.
    """

    def __init__(
        self,
        answer: Answer | Mapping[str, str] | None = None,
        name: str = "fake",
        context_tokens: int = 4096,
        *,
        moved: Callable[[Path], float] = lambda adapter: 0.0,
    ) -> None:
        super().__init__(answer, name, context_tokens)
        self._moved = moved

    def text_nll(self, texts: Sequence[str], *, adapter: Path | None = None) -> list[float]:
        """Equal for all texts."""
        return [1.0 + (self._moved(adapter) if adapter is not None else 0.0)] * len(texts)

    def divergence(self, prompts: Sequence[Prompt], answers: Sequence[str], *, adapter: Path) -> list[float]:
        """Equal for all prompts."""
        return [self._moved(adapter) for _ in zip(prompts, answers, strict=True)]


def _as_function(answer: Answer | Mapping[str, str] | None) -> Answer:
    if callable(answer):
        return answer
    table = dict(answer or {})

    def look_up(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        turn = last_user_turn(prompt)
        return table.get(turn, turn)

    return look_up


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _hash_prompt(prompt: Prompt) -> str:
    return hash_json([[message.as_chat() for message in prompt.messages], list(prompt.tools)])


def _hash_adapter(folder: Path) -> str:
    """A test's adapter folder may be empty: then its name stands for the weights."""
    weights = folder / WEIGHTS
    return hash_file(weights) if weights.is_file() else hash_text(folder.name)


def _score_one(prompt: Prompt, completion: str, expected: str, seconds: float, speaker: str | None) -> CompletionScore:
    tokens = len(_words(completion)) + 1
    digest = hashlib.sha256(f"{_hash_prompt(prompt)} {completion}".encode()).digest()
    fraction = int.from_bytes(digest[:4], "big") / 2**32
    nats_per_token = 0.1 if completion.strip() == expected else 1.0 + fraction
    return CompletionScore(-nats_per_token * tokens, tokens, seconds, speaker)


def _fit_grammar(text: str, grammar: Grammar) -> str:
    """`text` if the grammar allows it, else an answer it does allow."""
    if grammar.kind == "labels":
        labels: list[str] = json.loads(grammar.text)
        return text if text in labels else next((label for label in labels if label in text), labels[0])
    if grammar.kind == "json_schema":
        return _fit_schema(text, json.loads(grammar.text))
    if re.fullmatch(grammar.text, text):
        return text
    raise EngineError(
        f"The fake engine's answer {text[:40]!r} does not match the regex {grammar.text!r}.",
        "Give FakeEngine an `answer` that does.",
    )


def _fit_schema(text: str, schema: Any) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if value is None or not jsonschema_rs.is_valid(schema, value):
        value = _smallest(schema)
    if not jsonschema_rs.is_valid(schema, value):
        raise EngineError("The fake engine finds no value for this JSON Schema.", "Give FakeEngine an `answer` that fits it.")
    return dump_json(value, schema)


def _smallest(schema: Mapping[str, Any]) -> Any:
    """A plain value for the common kinds of schema; whether it is valid is for the caller to check."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _smallest(schema[union][0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {key: _smallest(properties.get(key, {})) for key in schema.get("required", properties)}
    if kind == "array":
        return [_smallest(schema.get("items", {}))] * schema.get("minItems", 0)
    if kind == "string":
        return "x" * schema.get("minLength", 0)
    if kind in {"integer", "number"}:
        return schema.get("minimum", 0)
    return False if kind == "boolean" else None
