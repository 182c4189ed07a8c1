"""The local engine: a loaded model answers and scores many prompts at a time, their common beginning computed once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stepladder.domain.answer import answer_text
from stepladder.domain.errors import EngineError, ModelError
from stepladder.domain.plain import Continuation
from stepladder.domain.prediction import Generation, TokenLogprob
from stepladder.domain.protocols import CompletionScore, Decoding, Grammar, ModelIdentity, Prompt, Request
from stepladder.engines.transformers.answering import Answering, Ask, BatchLimits, batches
from stepladder.engines.transformers.attention import use_short_attention
from stepladder.engines.transformers.caches import PrefixMemory, stock_source
from stepladder.engines.transformers.comparing import chunks, divergences, text_nll
from stepladder.engines.transformers.grammar import GrammarCompiler, RowGrammar
from stepladder.engines.transformers.grouping import prefix_groups
from stepladder.engines.transformers.heads import Head, head_on
from stepladder.engines.transformers.rows import Row, draw_seed
from stepladder.engines.transformers.scoring import Options, place_logits, score_batch, score_trie
from stepladder.engines.transformers.speakers import Speakers, speaking
from stepladder.engines.transformers.streaming import TextStream
from stepladder.files import hash_json
from stepladder.models.conversation import encode_answer, encode_prompt
from stepladder.models.loading import LoadedModel
from stepladder.models.shape import ModelShape, shape_of
from stepladder.models.tool_calls import CallFormat, call_format

FORMAT = 4
"""Raise it with every change after which the same weights and versions may answer otherwise, in 16 bits too: where something is
rounded, in which order it is added up, how a token is chosen. Else answers kept before are taken for those of today.

In 1 the model's own modules chose in 16 bits; in 2 attention and norms rounded elsewhere.
"""


class TransformersEngine:
    """Answers with a model in this process. One call at a time: a second thread waits.

    Greedy answers are those of plain `model.generate`, prompt by prompt, up to rounding (identical in fp32 but for ties).
    """

    def __init__(self, loaded: LoadedModel, limits: BatchLimits | None = None) -> None:
        use_short_attention(loaded.model)
        self._loaded = loaded
        self._limits = limits or BatchLimits.of(loaded.model)
        self._stop_ids = frozenset(loaded.stop_ids)
        self._speakers = Speakers(loaded)
        self._scored_prefixes = PrefixMemory()
        self._grammars: GrammarCompiler | None = None
        self._lock = threading.RLock()

    @property
    def identity(self) -> ModelIdentity:
        return self._loaded.identity

    @property
    def loaded(self) -> LoadedModel:
        """The model that answers."""
        return self._loaded

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
            "format": FORMAT,
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
        return self.answer([Request(prompt, decoding, adapter) for prompt in prompts], on_answer=on_answer)

    def answer(
        self,
        requests: Sequence[Request],
        *,
        on_text: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every request once, in order, those of different adapters and settings side by side.

        Raises:
            EngineError / ModelError / MissingExtra: As `generate`.
        """
        return self._answer(requests, [None] * len(requests), on_text, on_answer)

    def generate_drafted(
        self,
        prompts: Sequence[Prompt],
        drafts: Sequence[str | None],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As `generate`, with an idea of each answer: what of it the model would write too costs one pass, not one a token.

        Raises:
            EngineError / ModelError / MissingExtra: As `generate`.
        """
        return self._answer([Request(prompt, decoding, adapter) for prompt in prompts], drafts, None, on_answer)

    def _answer(
        self,
        requests: Sequence[Request],
        drafts: Sequence[str | None],
        on_text: Callable[[int, str], None] | None,
        on_answer: Callable[[int, Generation], None] | None,
    ) -> list[Generation]:
        encoded = [self._encode(request.prompt) for request in requests]
        needed = [
            len(ids) + request.decoding.max_new_tokens for ids, request in zip(encoded, requests, strict=True)
        ]  # fmt: skip
        self._check_lengths([request.prompt for request in requests], needed)
        answers: dict[int, Generation] = {}
        with self._lock:
            asks = [
                self._ask(place, request, ids, draft, on_text)
                for place, (request, ids, draft) in enumerate(zip(requests, encoded, drafts, strict=True))
            ]
            for ask in self._answering.finish(asks):
                place = ask.row.index
                answers[place] = self._generation(ask, requests[place].prompt)
                if on_answer is not None:
                    on_answer(place, answers[place])
        return [answers[place] for place in range(len(requests))]

    def _ask(
        self, place: int, request: Request, ids: Sequence[int], draft: str | None, on_text: Callable[[int, str], None] | None
    ) -> Ask:
        decoding = request.decoding
        row = Row(place, ids, decoding, draw_seed(decoding.seed, ids), self._start_grammar(decoding.grammar))
        if draft is not None and decoding.temperature == 0:
            with suppress(ModelError):  # what the template cannot render the model can hardly write
                # Without its end of turn, and shorter than the answer may be: the last token of an answer is never read again.
                row.draft = self._encode_answer(request.prompt, draft)[:-1][: max(0, decoding.max_new_tokens - 1)]
        if on_text is not None:
            row.listener = TextStream(self._decode, lambda piece: on_text(place, piece)).follow
        return Ask(row, ids, self._speakers.of(request.adapter, read=self._answering.writer is not None))

    def continue_ids(self, ids: Sequence[int], decoding: Decoding, *, adapter: Path | None = None) -> Continuation:
        """What the model writes behind bare token ids, chosen and drawn as answers are; without a grammar."""
        with self._lock:
            speaker = self._speakers.of(adapter, read=self._answering.writer is not None)
            row = Row(0, ids, decoding, draw_seed(decoding.seed, ids))
            list(self._answering.finish([Ask(row, ids, speaker)]))
        return Continuation(self._decode(row.answer), row.completion_tokens, cut=row.end == "length")

    def next_logits(self, ids: Sequence[int], *, adapter: Path | None = None) -> Iterator[torch.Tensor]:
        """Logits of the token after each of bare token ids, (vocabulary,), by the output layer that answers are chosen with."""
        with self._lock:
            bare, speaker = self._answering.head, self._speakers.of(adapter, read=False)
            with speaking(self._loaded, speaker) as model:
                yield from place_logits(model, head_on(model, bare), ids)

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
        with self._lock:
            writer, bare = self._answering.writer, self._answering.head
            speaker = self._speakers.of(adapter, read=writer is not None)
            started = time.perf_counter()
            with speaking(self._loaded, speaker) as model:
                if len(prompts) > 1 and writer is not None and speaker.readable:
                    sums = score_trie(model, writer.chooser, encoded, answers)
                else:
                    sums = self._score_stock(model, head_on(model, bare), speaker.key, encoded, answers)
            seconds = time.perf_counter() - started
        return [
            [CompletionScore(value, len(ids), share, speaker.weights_sha256) for value, ids in zip(values, options, strict=True)]
            for values, options, share in zip(sums, answers, _shares(seconds, encoded, answers), strict=True)
        ]

    def _score_stock(
        self, model: Any, head: Head, key: str, encoded: Sequence[Sequence[int]], answers: Sequence[Options]
    ) -> list[list[float]]:
        """By the model's own modules, with beginnings that are remembered."""
        sums: list[list[float]] = [[] for _ in encoded]
        longest = max((len(ids) for options in answers for ids in options), default=0)
        source = stock_source(model, key)
        for group in prefix_groups(encoded):
            prefix = self._scored_prefixes.prefix_of(source, [encoded[place] for place in group])
            suffixes = [encoded[place][prefix.length :] for place in group]
            for batch in batches(model, suffixes, prefix.length + longest, self._limits):
                places = [group[number] for number in batch]
                own = [suffixes[number] for number in batch]
                found = score_batch(model, head, prefix, own, [answers[place] for place in places])
                for place, values in zip(places, found, strict=True):
                    sums[place] = values
        return sums

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
        speaker = self._speakers.of(adapter, read=False)
        with self._lock, speaking(self._loaded, speaker) as model:
            return [text_nll(model, ids) for ids in encoded]

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
            raise type(error)(f"Prompt '{prompt.id}': {error.problem}", error.hint) from error

    def _encode_answer(self, prompt: Prompt, completion: str) -> list[int]:
        return encode_answer(self._loaded.template, self._loaded.tokenizer, prompt.messages, completion, prompt.tools)

    @cached_property
    def _answering(self) -> Answering:
        """Built when first asked: it lays the weights out for speed."""
        return Answering(self._loaded, self._limits, self._stop_ids)

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

    def _start_grammar(self, grammar: Grammar | None) -> RowGrammar | None:
        if grammar is None:
            return None
        if self._grammars is None:
            vocabulary = self._loaded.model.config.get_text_config().vocab_size
            self._grammars = GrammarCompiler(self._loaded.tokenizer.backend.to_str(), vocabulary, sorted(self._stop_ids))
        return self._grammars.start(grammar)

    def _generation(self, ask: Ask, prompt: Prompt) -> Generation:
        row = ask.row
        return Generation(
            text=self._with_calls(self._decode(row.answer), prompt),
            prompt_tokens=len(ask.ids),
            completion_tokens=row.completion_tokens,
            latency_seconds=row.seconds,
            cut=row.end == "length",
            shared_prompt_tokens=ask.shared_tokens,
            model_sha256=self.identity.base_sha256,
            adapter_sha256=ask.speaker.weights_sha256,
            prompt_sha256=hash_json(list(ask.ids)),
            logprobs=tuple(
                TokenLogprob(self._decode([token]), value, tuple((self._decode([other]), less) for other, less in top))
                for (token, value), top in row.logprobs
            ),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        # Control tokens inside an answer are the model's fault and stay visible.
        return self._loaded.tokenizer.decode(ids, keep_control_tokens=True)


def _shares(seconds: float, encoded: Sequence[Sequence[int]], answers: Sequence[Options]) -> Iterator[float]:
    """A call's wall time shared out by tokens: what each completion of every prompt gets."""
    weights = [len(ids) + sum(map(len, options)) if options else 0 for ids, options in zip(encoded, answers, strict=True)]
    for weight, options in zip(weights, answers, strict=True):
        yield seconds * weight / max(1, sum(weights)) / max(1, len(options))
