"""What all engines that ask a server share: calls side by side, sent again when they fail in passing, paid for one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from stepladder.domain.errors import EngineError, Unanswered
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.failures import CallFailure
from stepladder.engines.pace import LONGEST_ASKED_SECONDS, Pace, resting
from stepladder.engines.purse import Prices, Purse
from stepladder.engines.retries import Patience, retry_after_seconds
from stepladder.engines.usage import Most
from stepladder.files import hash_json

CONCURRENCY = 8
TIMEOUT_SECONDS = 120.0
MAX_RETRIES = 4
GIVE_UP_AFTER = 8
"""Calls in a row that may end without an answer; then the server is down, and the rest is not waited for."""

_ADVICE = {
    400: "The server refuses the request: read its words above.",
    401: "Check the API key.",
    402: "The provider wants money first: look into the account.",
    403: "Check the API key and what it may use.",
    404: "Check the URL and the model's name.",
    408: "Try again later, or allow more time (`[model] timeout_seconds`).",
    413: "The prompt is too long for this server: use fewer demonstrations.",
    422: "The server refuses the request: read its words above.",
    429: "The rate or spending limit is reached: try again later, or lower `[model] concurrency`.",
}


class Provider(Protocol):
    """One protocol as one server speaks it."""

    @property
    def name(self) -> str:
        """Of the model, for messages."""
        ...

    @property
    def url(self) -> str:
        """Of the server, for messages."""
        ...

    @property
    def secret(self) -> str:
        """What no message may repeat; empty where there is nothing."""
        ...

    @property
    def thinks_within_limit(self) -> bool:
        """Whether no more tokens are billed than the limit on new ones allows; else a model may think on beyond it, unseen."""
        ...

    def build_request(self, prompt: Prompt, decoding: Decoding) -> Mapping[str, Any]:
        """All that is sent, as JSON. Raises: EngineError where the protocol has no words for it."""
        ...

    def send(self, request: Mapping[str, Any]) -> Any:
        """The reply's body. Raises: CallFailure."""
        ...

    def read(self, body: Any, prompt: Prompt, decoding: Decoding, *, seconds: float, most: Most) -> Generation:
        """The generation in a reply. Raises: CallFailure, of the kinds "shape", "empty" and "withheld"."""
        ...

    def adapts_to(self, failure: CallFailure, request: Mapping[str, Any]) -> bool:
        """Whether this refusal taught it to ask differently, so that the request shall be built anew."""
        ...


class Calls:
    """Asks a provider for many prompts.

    Args:
        concurrency: Most calls at once; fewer while the server pushes back.
        max_retries: Attempts beyond the first for a call that failed in passing.
        first_pause_seconds: Before the second, where the server does not say.
        prices, purse: With both, the most an attempt can cost is set aside before it is sent.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        concurrency: int,
        max_retries: int,
        first_pause_seconds: float,
        prices: Prices | None,
        purse: Purse | None,
    ) -> None:
        self._provider = provider
        self._concurrency = concurrency
        self._max_retries = max_retries
        self._first_pause_seconds = first_pause_seconds
        self._prices = prices
        self._purse = purse
        self._standing = _Standing()
        self.pace = Pace(concurrency)

    def answer_all(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt, several at a time; `on_answer` is called in the caller's thread.

        A call that brings no answer in spite of all attempts leaves a generation with a `fault`. When this server has never
        answered, or too many calls in a row bring nothing, or one fails for a reason that concerns them all (a pause that the
        server wants and nobody waits for is one), the others are cancelled and the failure is raised; calls under way are still
        waited for and reported, since they are paid for.

        Raises:
            EngineError, BudgetError.
        """
        found = _Found(self._provider, self._standing, on_answer)
        with ThreadPoolExecutor(max_workers=self._concurrency) as pool:
            calls = {pool.submit(self.answer, prompt, decoding): index for index, prompt in enumerate(prompts)}
            try:
                for call in as_completed(calls):
                    if call.cancelled():
                        continue
                    found.take(calls[call], prompts[calls[call]], call)
                    if found.failure is not None:
                        _cancel(calls)
            finally:
                _cancel(calls)
        return found.generations(len(prompts))

    def answer(self, prompt: Prompt, decoding: Decoding) -> Generation:
        """One prompt's answer, after as many attempts as it takes.

        Raises:
            CallFailure: No attempt brought an answer.
            EngineError, BudgetError.
        """
        patience = Patience(self._max_retries, self._first_pause_seconds)
        while True:
            request = self._provider.build_request(prompt, decoding)
            began = time.monotonic()
            try:
                with self.pace.turn() as began:
                    generation = self._attempt(request, prompt, decoding)
            except CallFailure as failure:
                if self._provider.adapts_to(failure, request):
                    continue
                pause = patience.pause_seconds(failure)
                if failure.pushes_back:
                    asked = retry_after_seconds(failure.headers) or 0.0
                    self.pace.pushed_back(began, max(pause or 0.0, asked))
                    if asked > LONGEST_ASKED_SECONDS:  # the pace tells it to the calls that wait, too
                        raise resting(asked) from None
                if pause is None:
                    raise
                if not failure.pushes_back:
                    time.sleep(pause)
                continue
            self.pace.answered()
            return generation

    def pace_remarks(self) -> tuple[str, ...]:
        """How far the server slowed the calls down, in a sentence; nothing when it did not."""
        if not self.pace.refusals:
            return ()
        times = "once" if self.pace.refusals == 1 else f"{self.pace.refusals:,} times"
        return (f"{self._provider.name}: pushed back {times}; down to {self.pace.slowest} calls at once.",)

    def _attempt(self, request: Mapping[str, Any], prompt: Prompt, decoding: Decoding) -> Generation:
        """One call, with the most it can cost set aside before it is sent."""
        most = Most(len(json.dumps(request, default=str).encode()), decoding.max_new_tokens, self._provider.thinks_within_limit)
        usd = 0.0 if self._prices is None else self._prices.cost_usd(most.prompt, most.completion)
        call = self._purse.reserve(usd) if self._purse is not None else 0
        spent = usd  # a call that breaks off may have been billed
        try:
            start = time.perf_counter()
            body = self._provider.send(request)
            seconds = time.perf_counter() - start
            generation = self._provider.read(body, prompt, decoding, seconds=seconds, most=most)
            if self._prices is not None and not generation.counts_estimated:
                spent = self._prices.cost_usd(generation.prompt_tokens, generation.completion_tokens)
        except CallFailure as failure:
            spent = usd if failure.may_be_billed else 0.0
            raise failure.without(self._provider.secret) from None
        finally:
            if self._purse is not None:
                self._purse.settle(call, spent)
        return generation


@dataclass
class _Standing:
    """How a server has done so far, from round to round."""

    ever_answered: bool = False
    lost_in_a_row: int = 0

    def answered(self) -> None:
        self.ever_answered = True
        self.lost_in_a_row = 0


class _Found:
    """What came back of one round of calls."""

    def __init__(self, provider: Provider, standing: _Standing, on_answer: Callable[[int, Generation], None] | None) -> None:
        self.failure: BaseException | None = None
        self._provider = provider
        self._standing = standing
        self._on_answer = on_answer
        self._generations: dict[int, Generation] = {}
        self._lost: list[CallFailure] = []

    def take(self, index: int, prompt: Prompt, call: Future[Generation]) -> None:
        error = call.exception()
        standing = self._standing
        if error is None:
            standing.answered()
            self._report(index, call.result())
        elif isinstance(error, CallFailure) and error.of_the_call and standing.lost_in_a_row + 1 < GIVE_UP_AFTER:
            if error.kind == "withheld":
                standing.answered()  # a reply, if no answer
            else:
                standing.lost_in_a_row += 1
            self._lost.append(error)
            self._report(index, unanswered(prompt, f"{self._provider.name} {error.reason}"))
        else:
            standing.lost_in_a_row = 0  # whoever asks again gives the server another chance
            self.failure = self.failure or error

    def _report(self, index: int, generation: Generation) -> None:
        self._generations[index] = generation
        if self._on_answer is not None:
            self._on_answer(index, generation)

    def generations(self, count: int) -> list[Generation]:
        """Raises: EngineError where there is no answer at all, or what ended the round."""
        if self.failure is None and len(self._lost) == count and not self._standing.ever_answered:
            self.failure = self._lost[0]
        if isinstance(self.failure, CallFailure):
            raise_as_engine_error(self._provider, self.failure)
        if self.failure is not None:
            raise self.failure
        return [self._generations[index] for index in range(count)]


def unanswered(prompt: Prompt, reason: str) -> Generation:
    """What stands in for an answer that did not come."""
    return Generation("", 0, 0, 0.0, prompt_sha256=hash_prompt(prompt), fault=reason)


def hash_prompt(prompt: Prompt) -> str:
    """Of the turns and tools; a server's own template is not known here."""
    return hash_json([[message.as_chat() for message in prompt.messages], [dict(tool) for tool in prompt.tools]])


def raise_as_engine_error(provider: Provider, failure: CallFailure) -> NoReturn:
    """A failure in words for a user, with what to do."""
    advice = {
        "timeout": "Try again later, or allow more time (`[model] timeout_seconds`).",
        "unreachable": "Is the server running, and the URL right?",
        "broken": "Try again later, or look into the server's log.",
        "shape": "Check that the URL is that of the protocol (OpenAI's usually ends in /v1).",
        "empty": "Look at what the server sends: a model that thinks may leave its answer among its thoughts.",
        "withheld": "The provider's own filter keeps it back: look at the row.",
        "resting": "Run it again then: what was answered and kept is not asked again.",
        "status": _ADVICE.get(failure.status or 0, "The server has a fault: try again later, or look into its log."),
    }[failure.kind]
    refused = failure.kind == "status" and not failure.of_the_call
    kind = EngineError if refused else Unanswered
    raise kind(f"{provider.name} at {provider.url} {failure.reason}.", advice) from failure


def _cancel(calls: Mapping[Future[Generation], int]) -> None:
    for call in calls:
        call.cancel()
