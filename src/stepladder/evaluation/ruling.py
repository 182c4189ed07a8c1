"""What a verdict is derived from, and what the rules found before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepladder.domain.verdict import Gain, Outcome, Route
from stepladder.evaluation.compare import Contender, why_not_eligible


@dataclass(frozen=True, eq=False)
class VerdictInputs:
    """Everything the verdict depends on.

    Args:
        contenders: Their scores on the test split, in ladder order.
        clusters: Near-duplicate cluster of each row; None = every row on its own.
        cross_fit: The scores come from folds, not from a test split.
        openings: How often the test split was opened for a choice, this time included.
        base_parameters: Size of the base model; None = unknown.
        larger_models_compared: Whether prompted models of `[model] compare` were climbed too.
        why_nothing_tuned: Where no contender is tuned, the reason in a sentence.
        left_out: Tuned rungs that the budget did not hold, where no tuned rung was climbed.
        data_may_leave: Whether a rung on a hosted model may be recommended.
        growth: What learning curves forecast for twice the training rows, in sentences.
        not_comparable: Compared models whose scores may not stand beside the base's, and why, in sentences.
        leaks: Test rows that training rows or demonstrations give away, in words; any makes the verdict invalid.
        refit_faults: By contender, why its fit on all rows, which would be shipped after cross-fitting, cannot be used.
    """

    contenders: tuple[Contender, ...]
    target: float | None
    minimum_gain: float
    clusters: tuple[int, ...] | None = None
    cross_fit: bool = False
    openings: int = 1
    base_parameters: int | None = None
    larger_models_compared: bool = False
    max_latency_seconds: float | None = None
    leaks: tuple[str, ...] = ()
    seed: int = 0
    why_nothing_tuned: str = ""
    data_may_leave: bool = True
    growth: tuple[str, ...] = ()
    refit_faults: Mapping[str, str] = field(default_factory=dict)
    not_comparable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def why_not(self, contender: Contender) -> str | None:
        """Which limit of the user's this contender breaks, in a sentence; None when it may be recommended."""
        return why_not_eligible(contender, self.max_latency_seconds, data_may_leave=self.data_may_leave)


@dataclass(frozen=True, eq=False)
class Ruling:
    """What the rules found.

    `rung` is the recommended contender, or the best bet. `against` is the one it was weighed against and `proof` the gain
    between the two. `odds` holds P(score ≥ target), or without a target P(gain ≥ minimum_gain) of the dearer contenders.
    """

    outcome: Outcome
    rung: Contender
    route: Route | None
    probability: float | None
    needed_test_rows: int | None = None
    odds: Mapping[str, float] = field(default_factory=dict)
    against: Contender | None = None
    proof: Gain | None = None
