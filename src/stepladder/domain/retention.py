"""What a tuned model kept of its base's general abilities, as it is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stepladder.domain.verdict import Interval


@dataclass(frozen=True, slots=True)
class RetentionMeasure:
    """One ability, base against tuned, on the same probes.

    `loss` is positive when the tuned model is worse; its upper end is the one-sided 95 % bound (a 90 % interval). In nats per
    token for a divergence, a share of the base's value for "general text", else a share of the probes or points of probability.
    `base` is None for a divergence. `limit` None = only reported; `bound` says which figure must not exceed it.
    """

    name: str
    base: float | None
    tuned: float | None
    loss: Interval
    limit: float | None = None
    bound: Literal["mean", "upper"] = "mean"
    always: bool = False  # counts even when the model has no other tasks

    @property
    def figure(self) -> float:
        """What is held against the limit."""
        return self.loss.high if self.bound == "upper" else self.loss.value

    @property
    def within(self) -> bool:
        return self.limit is None or self.figure <= self.limit


@dataclass(frozen=True, slots=True)
class TriedRemedy:
    """A remedy, the measures that still failed under it, and its validation score (None when it was not looked at)."""

    name: str
    failed: tuple[str, ...]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """Retention of one tuned rung as it went to the test rows, remedies included.

    `gate` = `[use] other_tasks`. `unmeasured` says why there are no measures. `remedy` names what restored the abilities.
    """

    rung: str
    gate: bool
    measures: tuple[RetentionMeasure, ...] = ()
    unmeasured: str = ""
    remedy: str = ""
    tried: tuple[TriedRemedy, ...] = ()
    fold: int | None = None
    refit: bool = False  # of the adapter fitted again on all rows, which is shipped

    @property
    def failed(self) -> tuple[RetentionMeasure, ...]:
        """Measures over a limit that counts here."""
        return tuple(one for one in self.measures if not one.within and (self.gate or one.always))

    @property
    def unknown(self) -> str:
        """What nobody knows of a rung that may be recommended all the same, in a sentence; empty where it was measured."""
        if self.gate or not self.unmeasured:
            return ""
        return f"Not measured of {self.rung}: self-stopping, repetition and refusals, which could rule it out. {self.unmeasured}"

    @property
    def blocked(self) -> str:
        """Why the rung may not be recommended, in a sentence; empty when it may."""
        if self.unmeasured:
            return f"`[use] other_tasks` is true, and its general abilities were not measured: {self.unmeasured}" * self.gate
        if not self.failed:
            return ""
        tried = f" Tried in vain: {', '.join(one.name for one in self.tried)}." if self.tried else ""
        return f"it lost general abilities ({', '.join(one.name for one in self.failed)}).{tried}"
