"""An engine whose model lies on a server: what it can do, and what it refuses in words, whatever protocol is spoken there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from stepladder.domain.errors import EngineError, NotOffered
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, ModelIdentity, Prompt
from stepladder.engines.address import PLACEHOLDER, Address
from stepladder.engines.calls import CONCURRENCY, MAX_RETRIES, Calls, Provider
from stepladder.engines.failures import CallFailure
from stepladder.engines.purse import Prices, Purse
from stepladder.engines.remarks import Remarks
from stepladder.engines.retries import FIRST_PAUSE_SECONDS


class Speaking(Provider, Protocol):
    """A provider that notes what it made otherwise than it was asked."""

    @property
    def remarks(self) -> Remarks: ...

    @property
    def client(self) -> Any: ...


class ServedEngine:
    """Asks a server. Calls that failed in passing (429, 5xx, broken connections) are sent again, when `Retry-After` says.

    Args:
        concurrency: Most calls at once; fewer while the server pushes back.
        max_retries: Attempts beyond the first; before the second it waits `first_pause_seconds`, where the server does not say.
        prices, purse: With both, the most an attempt can cost is set aside before it is sent.
    """

    def __init__(
        self,
        provider: Speaking,
        address: Address,
        engine: str,
        *,
        concurrency: int = CONCURRENCY,
        max_retries: int = MAX_RETRIES,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        prices: Prices | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._identity = ModelIdentity(name=address.identity_name, engine=engine, hosted=address.hosted)
        self._provider = provider
        self._calls = Calls(
            provider,
            concurrency=concurrency,
            max_retries=max_retries,
            first_pause_seconds=first_pause_seconds,
            prices=prices,
            purse=purse,
        )

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def can(self) -> frozenset[str]:
        """Grammars and tools: servers report no tokens before, nor log-probabilities of a given text."""
        return frozenset({"grammar", "tools", "calls"})

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was asked otherwise than meant, or came otherwise than it should; for the record."""
        return (*self._provider.remarks.lines, *self._calls.pace_remarks())

    def close(self) -> None:
        """Close the connections."""
        self._provider.client.close()

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt, as `Calls.answer_all` says.

        Raises:
            NotOffered: An adapter that this server does not have, or a grammar that it refuses.
            EngineError, BudgetError.
        """
        if adapter is not None:
            raise NotOffered(f"{self._identity.name} cannot load an adapter.", "Use a local base model for tuned rungs.")
        try:
            return self._calls.answer_all(prompts, decoding, on_answer) if prompts else []
        except EngineError as error:
            refusal = error.__cause__
            if decoding.grammar is None or not isinstance(refusal, CallFailure) or refusal.status not in (400, 422):
                raise
            raise NotOffered(
                error.problem, 'Change the schema, or leave the rung out (`[rungs] skip = ["constrained"]`).'
            ) from refusal

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        """Not offered.

        Raises:
            NotOffered: Always.
        """
        raise NotOffered(f"{self._identity.name} gives no log-probabilities of given answers.", "Use a local base model.")

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Not offered; what a call used is in its generation.

        Raises:
            NotOffered: Always.
        """
        raise self._no_count()

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        """As `count_tokens`.

        Raises:
            NotOffered: Always.
        """
        raise self._no_count()

    def _no_count(self) -> NotOffered:
        return NotOffered(
            f"{self._identity.name} does not say how many tokens a text has before it is sent.",
            "Read `prompt_tokens` of an answer instead.",
        )


def secret_of(api_key: str) -> str:
    """What must never be written down; a placeholder may."""
    secret = api_key.strip()  # also found where the white space around it stands escaped
    return "" if secret == PLACEHOLDER else secret
