"""What a climb found out: intervals, gains, and the verdict that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from html import escape


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean score with its uncertainty: `value` in [0, 1] (or [-1, 1] for a gain), `level` the coverage, 0.95 = 95 %."""

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""  # "wilson", "bca", "wilson-summed", ...
    items: int = 0
    ungraded: int = 0

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Gain:
    """Paired difference of two rungs on the same examples, in score units; positive favours `candidate`."""

    baseline: str
    candidate: str
    interval: Interval
    wins: int
    losses: int
    ties: int
    probability_better: float  # P(gain > 0)
    probability_minimum: float  # P(gain >= minimum_gain)
    probability_not_worse: float  # P(gain >= -minimum_gain)


@dataclass(frozen=True, slots=True)
class Cost:
    """What adopting a rung costs over the horizon. Seconds are of this machine; usd None when no price was given.

    `labels` are the examples that have to be labelled again over the horizon, because the facts behind them change; those
    that exist today are paid for. `usd_labels` is their price, 0 when none was given. `labelled_rows` are the examples the rung
    is made of, `by_token` says that its calls are charged by the token: with both, the cost can be reckoned anew for another use.
    """

    seconds_once: float = 0.0  # choosing and training
    seconds_per_call: float = 0.0
    usd_once: float | None = None
    usd_per_call: float | None = None
    prompt_tokens_per_call: float = 0.0
    completion_tokens_per_call: float = 0.0
    retrainings: float = 0.0
    calls: float = 0.0
    labels: float = 0.0
    usd_labels: float = 0.0
    labelled_rows: int = 0
    by_token: bool = False

    @property
    def seconds_total(self) -> float:
        """Machine seconds over the horizon, retraining included."""
        return self.seconds_once * (1 + self.retrainings) + self.seconds_per_call * self.calls

    @property
    def usd_total(self) -> float | None:
        """Dollars over the horizon, retraining and new labels included; None when a price is missing."""
        if self.usd_once is None or self.usd_per_call is None:
            return None
        return self.usd_once * (1 + self.retrainings) + self.usd_labels + self.usd_per_call * self.calls


class Outcome(StrEnum):
    SUFFICIENT = "sufficient"
    NOT_REACHED = "not_reached"
    UNDECIDED = "undecided"
    INVALID = "invalid"


class Route(StrEnum):
    """How a rung won."""

    TARGET = "target"  # first in adoption order with P(score >= target) >= .9
    GAIN = "gain"  # proved better than the cheaper ones, by enough
    CHEAPEST = "cheapest"  # nothing dearer proved better
    CHEAPER_TO_RUN = "cheaper_to_run"  # tuned, not worse, and cheaper over the horizon


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to "which rung is the cheapest that suffices, and how sure is that?"

    `rung` is the recommended rung (None when invalid); for UNDECIDED and NOT_REACHED it is the best bet so far.
    `needed_test_rows` is the test size at which the observed rates would decide, for UNDECIDED. `facts` are short lines that
    every outcome has: price, break-even, latency, base model.
    """

    outcome: Outcome
    rung: str | None
    route: Route | None
    confidence: str  # "confirmed", "indicative"
    sentence: str  # the verdict in one or two plain sentences
    probability: float | None = None  # of the claim the outcome rests on
    needed_test_rows: int | None = None
    reasons: tuple[str, ...] = ()  # why invalid, why indicative, what was not tried
    would_change: tuple[str, ...] = ()
    gains: tuple[Gain, ...] = field(default=())
    facts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.outcome.value.replace('_', ' ')}, {self.confidence}: {self.sentence}"

    def _repr_html_(self) -> str:
        return f"<p><b>{escape(self.outcome.value.replace('_', ' '))}</b>, {escape(self.confidence)}: {escape(self.sentence)}</p>"
