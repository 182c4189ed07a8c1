"""Fine-tuning at an endpoint: its settings, and how a technique meets whatever speaks to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import Field, model_validator

from stepladder.domain.settings import Settings

if TYPE_CHECKING:
    from stepladder.domain.protocols import Conversation, Engine, Progress


class HostedSettings(Settings):
    """`[rungs.hosted]`: a fine-tune at an endpoint with OpenAI's fine-tuning API; climbed when `model` is given."""

    model: str | None = Field(None, description="What is tuned there: `openai:NAME`, or `URL NAME` of a compatible endpoint.")
    epochs: int | None = Field(
        None, ge=1, le=50, description="Passes over the rows; by default 3, and more of few rows: 100 divided by their number."
    )
    batch_size: int | None = Field(
        None, ge=1, le=256, description="Examples an optimizer step; by default the endpoint's choice."
    )
    learning_rate_multiplier: float | None = Field(
        None, gt=0, description="Times the endpoint's own learning rate; by default its choice."
    )
    suffix: str | None = Field(None, min_length=1, max_length=40, description="Part of the tuned model's name.")
    usd_per_million_training_tokens: float | None = Field(
        None,
        ge=0,
        description="Price of training, each pass counted; an endpoint elsewhere is refused without the three prices, "
        "unless `[budget] usd = inf`.",
    )
    usd_per_million_prompt_tokens: float | None = Field(None, ge=0, description="Price of the tuned model's input.")
    usd_per_million_completion_tokens: float | None = Field(None, ge=0, description="Price of the tuned model's output.")
    wait_minutes: float = Field(240, gt=0, description="Longest wait for one job; one that takes longer is cancelled.")
    poll_seconds: float = Field(10, gt=0, description="Time between two looks at a job.")

    @model_validator(mode="after")
    def _prices_together(self) -> HostedSettings:
        prices = (
            self.usd_per_million_training_tokens,
            self.usd_per_million_prompt_tokens,
            self.usd_per_million_completion_tokens,
        )
        if any(price is None for price in prices) and any(price is not None for price in prices):
            raise ValueError("the three prices come together")
        return self

    @property
    def priced(self) -> bool:
        """Whether what it charges is known."""
        return self.usd_per_million_training_tokens is not None

    def epochs_for(self, rows: int) -> int:
        """Passes over so many rows: as set, else three, and for fewer than 34 rows as many as make 100 examples, at most 25.

        Source:
            The rule of OpenAI's published script for preparing chat data. The number is sent, so that a price can be told
            beforehand.
        """
        if self.epochs is not None:
            return self.epochs
        if 3 * rows < 100:
            return max(1, min(25, 100 // max(1, rows)))
        return max(1, 25_000 // rows) if 3 * rows > 25_000 else 3


@dataclass(frozen=True, slots=True)
class HostedTune:
    """A finished job at an endpoint. `usd` is None where no price is known; `seconds` is the wait, queueing included."""

    model: str
    job: str
    epochs: int
    trained_tokens: int
    usd: float | None
    seconds: float


class HostedTuner(Protocol):
    """An endpoint that tunes and then answers."""

    @property
    def name(self) -> str:
        """Of the endpoint and the model tuned there, as `[rungs.hosted] model` spells it."""
        ...

    @property
    def closed(self) -> str | None:
        """Why it takes no jobs any more, in a sentence; None when it does."""
        ...

    def tune(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        *,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> HostedTune:
        """Submit the rows and wait. A job that was submitted from `folder` before is waited for, not submitted again.

        Raises:
            BudgetError: The money does not last, or the job took too long and was cancelled.
            EngineError: The endpoint refused, or could not be reached for a long time; the job goes on there.
            ModelError: The job failed, or somebody cancelled it.
        """
        ...

    def spoken_name(self, model: str) -> str:
        """What an engine that asks this tuned model is called."""
        ...

    def answering(self, model: str) -> Engine:
        """What asks a model tuned there."""
        ...
