"""The local engine: a loaded model answers and scores many prompts at a time, their common beginning computed once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepladder.domain.answer import answer_text
from stepladder.domain.errors import EngineError, ModelError
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, Grammar, ModelIdentity, Prompt
from stepladder.engines.adapter import hash_adapter, hash_adapter_weights
from stepladder.engines.transformers.attention import use_short_attention
from stepladder.engines.transformers.caches import Prefix, PrefixMemory, is_plain
from stepladder.engines.transformers.comparing import chunks, divergences, text_nll
from stepladder.engines.transformers.decode import Row, decode, draw_seed
from stepladder.engines.transformers.grammar import GrammarCompiler, RowGrammar
from stepladder.engines.transformers.grouping import prefix_groups
from stepladder.engines.transformers.scoring import score_batch
from stepladder.files import hash_json
from stepladder.models.conversation import encode_answer, encode_prompt
from stepladder.models.loading import LoadedModel
from stepladder.models.shape import ModelShape, shape_of
from stepladder.models.tool_calls import CallFormat, call_format

KEYS_AND_VALUES_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much is computed at once: prompts, and tokens of keys and values (prompt and answer, over all rows)."""

    rows: int = 96
    tokens: int = 16_384

    @classmethod
    def of(cls, model: Any) -> BatchLimits:
        """As many tokens as their keys and values fit into 2 GiB, at most 65,536."""
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token_bytes = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
        return cls(tokens=min(65_536, max(2_048, KEYS_AND_VALUES_BYTES // token_bytes)))


@dataclass(frozen=True, slots=True)
class _Speaker:
    """The weights that answer: the base model, or the base model under an adapter."""

    model: Any
    weights_sha256: str | None  # of the adapter
    key: str  # of everything in the adapter that changes keys and values; "" for the base


class TransformersEngine:
    """Answers with a model in this process. One call at a time: a second thread waits.

    Greedy answers are those of plain `model.generate`, prompt by prompt, up to rounding (identical in fp32 but for ties).
    """

    def __init__(self, loaded: LoadedModel, limits: BatchLimits | None = None) -> None:
        use_short_attention(loaded.model)
        self._loaded = loaded
        self._limits = limits or BatchLimits.of(loaded.model)
        self._stop_ids = frozenset(loaded.stop_ids)
        self._prefixes = PrefixMemory()
        self._grammars: GrammarCompiler | None = None
        self._lock = threading.RLock()

    @property
    def identity(self) -> ModelIdentity:
        return self._loaded.identity

    @property
    def shape(self) -> ModelShape:
        """The model's sizes, for predicting memory."""
        model = self._loaded.model
        return shape_of(
            model.config.get_text_config(decoder=True),
            parameters=self.identity.parameters or 0,
            bytes_per_number=model.dtype.itemsize,
            device=self._loaded.device.type,
        )

    @property
    def setting(self) -> Mapping[str, Any]:
        """What an answer depends on besides identity, prompt and decoding."""
        packages = ("stepladder", "torch", "transformers", "llguidance")
        return {
            "stop_ids": sorted(self._stop_ids),
            "device": self._loaded.device.type,
            "versions": {name: version(name) for name in packages if find_spec(name) is not None},
        }

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each rendered prompt, the opening of the model's turn included."""
        return [self._encode(prompt) for prompt in prompts]

    @property
    def limits(self) -> BatchLimits:
        """How much is computed at once."""
        return self._limits

    @property
    def can(self) -> frozenset[str]:
        """What this machine can do, and what the model's chat template can carry."""
        tools = ["tools"] if self._loaded.template.renders_tools() else []
        calls = ["calls"] if self._call_format is not None else []
        return frozenset({"score", "grammar", "regex", "adapter", "count", *tools, *calls})

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt once, in order; the longest prompts are asked first.

        Raises:
            EngineError: A prompt plus `max_new_tokens` exceeds the context, or the grammar cannot be followed.
            ModelError: The template cannot render a prompt, or the adapter does not fit.
            MissingExtra: A grammar is asked for and llguidance is not installed.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        self._check_lengths(prompts, [len(ids) + decoding.max_new_tokens for ids in encoded])
        answers: dict[int, Generation] = {}
        with self._lock, self._speaking(adapter) as speaker:
            for group in prefix_groups(encoded):
                for row, prefix in self._answer_group(speaker, encoded, group, decoding):
                    answers[row.index] = self._generation(row, prompts[row.index], encoded[row.index], prefix, speaker)
                    if on_answer is not None:
                        on_answer(row.index, answers[row.index])
        return [answers[index] for index in range(len(prompts))]

    def _answer_group(
        self, speaker: _Speaker, encoded: Sequence[Sequence[int]], group: Sequence[int], decoding: Decoding
    ) -> Iterator[tuple[Row, Prefix]]:
        """Rows of one group as they finish, and the beginning they share."""
        prefix, prefix_seconds = self._share(speaker, [encoded[place] for place in group])
        rows = [
            Row(
                place,
                encoded[place][prefix.length :],
                draw_seed(decoding.seed, encoded[place]),
                self._start_grammar(decoding.grammar),
            )
            for place in group
        ]
        for batch in self._batches(speaker.model, [row.suffix for row in rows], prefix.length + decoding.max_new_tokens):
            finished = decode(
                speaker.model,
                prefix,
                [rows[place] for place in batch],
                stop_ids=self._stop_ids,
                max_new_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
            )
            for row in finished:
                row.seconds += prefix_seconds
                yield row, prefix

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        """Σ log p of each completion's tokens and its end-of-turn, by teacher forcing.

        Raises:
            EngineError: A prompt with its longest completion exceeds the context.
            ModelError: As `generate`.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        answers = [
            [self._encode_answer(prompt, completion) for completion in options]
            for prompt, options in zip(prompts, completions, strict=True)
        ]
        longest = [max(map(len, options), default=0) for options in answers]
        self._check_lengths(prompts, [len(ids) + extra for ids, extra in zip(encoded, longest, strict=True)])
        scores: list[list[CompletionScore]] = [[] for _ in prompts]
        with self._lock, self._speaking(adapter) as speaker:
            for group in prefix_groups(encoded):
                prefix, _ = self._share(speaker, [encoded[place] for place in group])
                suffixes = [encoded[place][prefix.length :] for place in group]
                for batch in self._batches(speaker.model, suffixes, prefix.length + max(longest, default=0)):
                    places = [group[number] for number in batch]
                    sums = score_batch(
                        speaker.model, prefix, [suffixes[number] for number in batch], [answers[place] for place in places]
                    )
                    for place, values in zip(places, sums, strict=True):
                        scores[place] = [CompletionScore(v, len(ids)) for v, ids in zip(values, answers[place], strict=True)]
        return scores

    def text_nll(self, texts: Sequence[str], *, adapter: Path | None = None) -> list[float]:
        """Mean nats per token of plain texts, no template.

        Raises:
            EngineError: A text is longer than the context, or shorter than two tokens.
        """
        encoded = [self._loaded.tokenizer.encode_plain(text) for text in texts]
        for number, ids in enumerate(encoded, start=1):
            if len(ids) < 2:
                raise EngineError(f"Text {number} has {len(ids)} tokens: nothing can be foretold.", "Give a longer text.")
        self._check_lengths([Prompt(f"text {number}", ()) for number in range(1, len(texts) + 1)], list(map(len, encoded)))
        with self._lock, self._speaking(adapter) as speaker:
            return [text_nll(speaker.model, ids) for ids in encoded]

    def divergence(self, prompts: Sequence[Prompt], answers: Sequence[str], *, adapter: Path) -> list[float]:
        """KL(base‖tuned) in nats per token along given answers, end of turn included.

        Raises:
            EngineError: A prompt with its answer exceeds the context.
            ModelError: As `generate`.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        spoken = [self._encode_answer(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        self._check_lengths(prompts, [len(ids) + len(answer) for ids, answer in zip(encoded, spoken, strict=True)])
        found: list[float] = []
        with self._lock:
            for places in chunks(spoken, self._loaded.model.config.get_text_config().vocab_size):
                tuned = self._loaded.adapter(adapter)
                part = [encoded[place] for place in places], [spoken[place] for place in places]
                found += divergences(self._loaded.model, tuned, *part)
        return found

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each rendered prompt, the opening of the model's turn included."""
        return [len(self._encode(prompt)) for prompt in prompts]

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each bare text."""
        return [self._loaded.tokenizer.count(text) for text in texts]

    def _encode(self, prompt: Prompt) -> list[int]:
        try:
            return encode_prompt(self._loaded.template, self._loaded.tokenizer, prompt.messages, prompt.tools)
        except ModelError as error:
            raise ModelError(f"Prompt '{prompt.id}': {error.problem}", error.hint) from error

    def _encode_answer(self, prompt: Prompt, completion: str) -> list[int]:
        return encode_answer(self._loaded.template, self._loaded.tokenizer, prompt.messages, completion, prompt.tools)

    @cached_property
    def _call_format(self) -> CallFormat | None:
        return call_format(self._loaded.template)

    def _with_calls(self, text: str, prompt: Prompt) -> str:
        """The answer in the one form of tool calls, where it holds any in the way of the model's template."""
        form = self._call_format
        if form is None or not (prompt.tools or form.opening):  # bare JSON is a call only where tools are on offer
            return text
        message = form.read(text)
        return answer_text(message, prompt.tools) if message.tool_calls else text

    def _check_lengths(self, prompts: Sequence[Prompt], needed: Sequence[int]) -> None:
        context = self.identity.context_tokens
        for prompt, tokens in zip(prompts, needed, strict=True):
            if 0 < context < tokens:
                raise EngineError(
                    f"Prompt '{prompt.id}' and its answer need {tokens} tokens, but {self.identity.name} has {context}.",
                    "Shorten the prompt, or use fewer demonstrations or passages.",
                )

    @contextmanager
    def _speaking(self, adapter: Path | None) -> Iterator[_Speaker]:
        if adapter is None:
            yield _Speaker(self._loaded.model, None, "")
            return
        weights, key = hash_adapter_weights(adapter), hash_adapter(adapter)
        with self._loaded.adapter(adapter) as model:
            yield _Speaker(model, weights, key)

    def _share(self, speaker: _Speaker, encoded: Sequence[Sequence[int]]) -> tuple[Prefix, float]:
        """The common prefix, and each prompt's share of the seconds it took."""
        started = time.perf_counter()
        prefix = self._prefixes.prefix_of(speaker.model, encoded, speaker.key)
        return prefix, (time.perf_counter() - started) / max(1, len(encoded))

    def _start_grammar(self, grammar: Grammar | None) -> RowGrammar | None:
        if grammar is None:
            return None
        if self._grammars is None:
            vocabulary = self._loaded.model.config.get_text_config().vocab_size
            self._grammars = GrammarCompiler(self._loaded.tokenizer.backend.to_str(), vocabulary, sorted(self._stop_ids))
        return self._grammars.start(grammar)

    def _batches(self, model: Any, suffixes: Sequence[Sequence[int]], extra: int) -> Iterator[list[int]]:
        """Places of prompts that are computed together: of similar length, the longest first, within the limits.

        Args:
            extra: Tokens each row holds besides its own suffix (shared prefix, answer).
        """
        one_length = not is_plain(model)  # padding would be taken for tokens
        batch: list[int] = []
        for place in sorted(range(len(suffixes)), key=lambda place: -len(suffixes[place])):
            width = len(suffixes[batch[0]]) if batch else 0
            full = len(batch) == self._limits.rows or (len(batch) + 1) * (width + extra) > self._limits.tokens
            if batch and (full or (one_length and len(suffixes[place]) != width)):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _generation(self, row: Row, prompt: Prompt, ids: Sequence[int], prefix: Prefix, speaker: _Speaker) -> Generation:
        # Control tokens inside an answer are the model's fault and stay visible.
        text = self._loaded.tokenizer.decode(row.answer, keep_control_tokens=True)
        return Generation(
            text=self._with_calls(text, prompt),
            prompt_tokens=len(ids),
            completion_tokens=row.completion_tokens,
            latency_seconds=row.seconds,
            cut=row.end == "length",
            shared_prompt_tokens=prefix.length,
            model_sha256=self.identity.base_sha256,
            adapter_sha256=speaker.weights_sha256,
            prompt_sha256=hash_json(list(ids)),
        )
