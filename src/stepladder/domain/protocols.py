"""How the rooms meet: `techniques` ask for engines, embedders and tuners by these shapes; `service` hands them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.hosted import HostedTuner
from stepladder.domain.messages import Chunk, Example, Input, Message
from stepladder.domain.prediction import Generation, Grade, Prediction
from stepladder.domain.task import DpoSettings, LoraSettings, Task

Recipe = Mapping[str, Any]
"""Everything that a fitted rung is, as JSON: written to the run folder and enough to answer again later."""


class Progress(Protocol):
    """Where long work says how far it is. Calls nest: a `start` inside another is a part of it."""

    def start(self, label: str, total: int | None = None) -> None: ...
    def advance(self, count: int = 1, detail: str = "") -> None: ...
    def finish(self) -> None: ...
    def note(self, text: str) -> None: ...


class SilentProgress:
    """Progress that nobody watches."""

    def start(self, label: str, total: int | None = None) -> None: ...
    def advance(self, count: int = 1, detail: str = "") -> None: ...
    def finish(self) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights, tokenizer and template answer. Hashes are sha256 in hex; empty for a hosted model."""

    name: str
    engine: str  # "transformers", "endpoint", "anthropic", "fake"
    base_sha256: str = ""
    tokenizer_sha256: str = ""
    template_sha256: str = ""
    parameters: int | None = None
    context_tokens: int = 0  # 0 = unknown
    dtype: str = ""
    revision: str = ""
    hosted: bool = False

    @property
    def served(self) -> bool:
        """Whether a server answers, on this machine or elsewhere: its speed, its template and its weights are its own."""
        return self.engine in ("endpoint", "anthropic")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer may look like: a JSON Schema (as JSON text), a JSON list of labels, or a regular expression."""

    kind: Literal["json_schema", "labels", "regex"]
    text: str


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is drawn. Temperature 0 is greedy; `seed` and `top_p` count only above it.

    `top_p`: only the likeliest tokens that hold this share of the probability together may be drawn. `logprobs`: how many
    of the likeliest tokens are reported at every place besides the one chosen; None reports nothing.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    grammar: Grammar | None = None
    top_p: float = 1.0
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: turns (system first, if any), then the model's turn. `id` is the input's."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt with settings of its own. Several answers to one prompt are several requests, a seed each."""

    prompt: Prompt
    decoding: Decoding
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class CompletionScore:
    """Natural-log probability of a completion and its end-of-turn token after a prompt, and its number of tokens.

    `seconds` = its share of the wall time in which the engine computed it and others. `adapter_sha256` = whose weights they
    were, as in `Generation`.
    """

    log_probability: float
    tokens: int
    seconds: float = 0.0
    adapter_sha256: str | None = None


class Engine(Protocol):
    """What runs a model. An engine keeps nothing between calls but caches that cannot change an answer."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def can(self) -> frozenset[str]:
        """Among "score" (log-probabilities), "grammar", "regex" (as a grammar), "adapter", "count" (tokens before sending).

        Also "tools" (tools on offer reach the model) and "calls" (tool calls do, and those in an answer are read back).
        """
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt once, in order. `on_answer(index, generation)` is called as each one is finished.

        An answer with tool calls comes as the text that `domain.answer.answer_text` makes of it. Where a server gave one prompt
        no answer in spite of all attempts, its generation has a `fault`.

        Raises:
            EngineError: The provider answered none of them, or a prompt plus `max_new_tokens` exceeds the context
                (never cut silently).
            NotOffered: The grammar or the adapter is beyond this engine.
        """
        ...

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        """Log-probability of each of `completions[i]` (plus end-of-turn) as the answer to `prompts[i]`."""
        ...

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each rendered prompt, the opening of the model's turn included."""
        ...

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each bare text, no template."""
        ...


@runtime_checkable
class Serving(Protocol):
    """An engine that answers requests of different settings and adapters side by side, and can be listened to meanwhile."""

    def answer(
        self,
        requests: Sequence[Request],
        *,
        on_text: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every request once, in order.

        Args:
            on_text: Called with a request's place and the next piece of its answer, from the thread that computes. The pieces
                together are what the model wrote; tool calls in it come in one form only with the finished answer.
            on_answer: Called as each answer is finished.
        """
        ...


class ServingEngine(Engine, Serving, Protocol):
    """What a server asks: an engine for single settings, and for many at once."""


@runtime_checkable
class Drafting(Protocol):
    """An engine that answers faster where somebody already has an idea of the answer. Never handed to a technique.

    Drafts come from the learning curve of a tuned rung (`service.curve`), where only scores are wanted, and from nowhere else.
    A draft changes no answer, only its time: whatever the model would not have written itself is thrown away.
    """

    def generate_drafted(
        self,
        prompts: Sequence[Prompt],
        drafts: Sequence[str | None],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As `generate`. Greedy answers only: a draw at a temperature is made without the drafts.

        Latencies of drafted answers say nothing about those of others.
        """
        ...


@runtime_checkable
class Comparing(Protocol):
    """An engine that can also lay tuned weights beside their base."""

    def text_nll(self, texts: Sequence[str], *, adapter: Path | None = None) -> list[float]:
        """Mean nats per token of each plain text, no template."""
        ...

    def divergence(self, prompts: Sequence[Prompt], answers: Sequence[str], *, adapter: Path) -> list[float]:
        """KL(base‖tuned) in nats per token along `answers[i]` (plus end-of-turn) after `prompts[i]`."""
        ...


@runtime_checkable
class Reading(Protocol):
    """An engine that can say what its model reads, so that an answer can be found by all that decided it."""

    @property
    def setting(self) -> Mapping[str, Any]:
        """What an answer depends on besides identity, prompt and decoding, as JSON: stop ids, device, versions."""
        ...

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt as the model reads it, the opening of its turn included."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """An engine that has something to say about how its answers came."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was asked otherwise than meant, or came otherwise than it should: a sentence each, with the model's name."""
        ...


class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimensions), rows of length 1 (0 for a text without any known token)."""
        ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """A training row: a whole conversation; assistant turns of weight 1 are learned (completion only)."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """A training row for preference tuning: two conversations that differ in their last turn, the better one first."""

    chosen: Conversation
    rejected: Conversation


@dataclass(frozen=True, slots=True)
class TrainPoint:
    """The training at one moment. Losses are mean nats per learned token, or the mean loss of a pair in preference tuning.

    `held_out_nll` is None between evaluations.
    """

    step: int
    epoch: float
    learning_rate: float
    loss: float
    held_out_nll: float | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """A finished fine-tune: a PEFT adapter folder and how it went.

    `held_out_nll[i]` = mean nats per learned token of held-out row i at the kept checkpoint (loss of pair i for preferences).
    """

    folder: Path
    adapter_sha256: str
    held_out_nll: tuple[float, ...]
    history: tuple[TrainPoint, ...]
    best_step: int
    steps: int
    seconds: float
    tokens: int  # tokens of the rows seen, prompts included, summed over epochs


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What a training is about to do; `history` is what it has done already, when it was broken off before."""

    steps: int  # at most
    epochs: int  # at most
    batch_size: int
    learning_rate: float  # at its peak
    rank: int
    alpha: float
    history: tuple[TrainPoint, ...]


class TrainWatch(Protocol):
    """Who is told what a training does.

    A training that is killed and goes on from a checkpoint tells again what came after that checkpoint.
    """

    def begun(self, plan: TrainPlan) -> None: ...
    def stepped(self, point: TrainPoint) -> None: ...

    def epoch_ended(self, point: TrainPoint, adapter: Callable[[], Mapping[str, bytes]]) -> None:
        """After every epoch and the last step, before it is saved. `adapter` gives the PEFT folder's files by name."""
        ...

    def may_go_on(self) -> None:
        """Asked between two steps, when all is told. A KeyboardInterrupt from here ends the training in order: it is saved."""
        ...

    def saved(self, step: int) -> None:
        """A kill from now on loses nothing up to `step`."""
        ...


class Unwatched:
    """A training that nobody watches."""

    def begun(self, plan: TrainPlan) -> None: ...
    def stepped(self, point: TrainPoint) -> None: ...
    def epoch_ended(self, point: TrainPoint, adapter: Callable[[], Mapping[str, bytes]]) -> None: ...
    def may_go_on(self) -> None: ...
    def saved(self, step: int) -> None: ...


UNWATCHED = Unwatched()


class Tuner(Protocol):
    """What trains an adapter."""

    def tune(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        settings: LoraSettings,
        *,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> Tuned:
        """Train LoRA on `rows`, stop by `held_out`, leave a PEFT folder at `folder`; continue a broken-off training there.

        Raises:
            DataError / ModelError: A row is longer than allowed, or has nothing to learn; named.
        """
        ...

    def prefer(
        self,
        rows: Sequence[Preference],
        held_out: Sequence[Preference],
        settings: DpoSettings,
        *,
        start: Path,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> Tuned:
        """Train the adapter at `start` on to prefer the chosen answers, stop by `held_out`, leave a PEFT folder at `folder`.

        Raises:
            DataError / ModelError: As `tune`; or a pair's answers are equal, or `start` was trained on another base.
        """
        ...


@dataclass(frozen=True, slots=True)
class Choices:
    """How many variants the rungs may try; `plan` lowers them until the budget holds."""

    forms: int = 10
    shots: tuple[int, ...] = (2, 4, 8)
    orders: int = 3
    passages: tuple[int, ...] = (1, 3, 5)
    lora_prompts: int = 2
    seeds: int = 2
    folds: int = 5


@dataclass(frozen=True, slots=True)
class FitContext:
    """What a technique may see while it is fitted. Predictors never see references beyond `train`.

    `validation` are the rows choices are scored on: in the middle size regime they are the `train` rows themselves, so a
    predictor must answer a training input as if that input's cluster were not in `train`.
    `held_out` are rows a fine-tune stops and chooses by; `tune_rows` those it learns (train without `held_out`).
    """

    task: Task
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    tune_rows: tuple[Example, ...]
    held_out: tuple[Example, ...]
    clusters: Mapping[str, int]  # example id -> near-duplicate cluster
    chunks: tuple[Chunk, ...]
    engine: Engine
    embedder: Embedder
    score: Callable[[Sequence[Prediction]], list[Grade]]  # grades answers to validation inputs, by input id
    folder: Path  # the rung's own place in the run folder (adapters)
    tuner: Tuner | None = None
    choices: Choices = field(default_factory=Choices)
    seed: int = 0
    progress: Progress = field(default_factory=SilentProgress)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)  # what lower rungs chose, by rung name
    max_new_tokens: int = 64
    recorded: Mapping[str, str] = field(default_factory=dict)  # input id -> answer of the present system, of every split
    hosted: HostedTuner | None = None  # where `[rungs.hosted]` names an endpoint


class Predictor(Protocol):
    """A fitted rung."""

    @property
    def recipe(self) -> Recipe: ...

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order."""
        ...


class Technique(Protocol):
    """One way of adapting a model (or of doing without)."""

    @property
    def name(self) -> str: ...

    @property
    def tuned(self) -> bool:
        """Whether weights are trained; tuned rungs carry the burden of proof."""
        ...

    def reason_not_to(self, context: FitContext) -> str | None:
        """Why this rung does not apply here, in a sentence; None when it does."""
        ...

    def fit(self, context: FitContext) -> Predictor:
        """Make every choice on `context.validation` (or `held_out`), then return the predictor."""
        ...

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        """The predictor of a recorded recipe, without choosing anything again."""
        ...
