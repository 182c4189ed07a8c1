"""What a verdict is derived from, and what the rules found before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from stepladder.data.placing import Growth
from stepladder.domain.verdict import Gain, Outcome, Route
from stepladder.evaluation.compare import Contender, strongest_untuned, why_not_eligible
from stepladder.evaluation.cost import costs_less, when_it_pays
from stepladder.evaluation.planning import rows_to_decide
from stepladder.evaluation.statistics import effective_rows, graded, rows_per_effective_row, seed_spread


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
        not_comparable: Compared models whose scores may not stand beside the base's, and tuned rungs whose abilities were not
            laid beside it, and why, in sentences.
        leaks: Test rows that training rows or demonstrations give away, in words; any makes the verdict invalid.
        accepted_leaks: Those in documents that the user has accepted; any keeps the verdict from being confirmed.
        learned_before: Test rows that learned or chose in an earlier climb; any keeps the verdict from being confirmed.
        refit_faults: By contender, why its fit on all rows, which would be shipped after cross-fitting, cannot be used.
        calls_total: Calls after which the job is over; None = it has no end.
        tune_anyway: Whether a tuned rung may be recommended although the job is over before its training pays.
        split_growth: How the test split grows with rows that are added; None where the user says which rows are tested.
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
    accepted_leaks: tuple[str, ...] = ()
    learned_before: tuple[str, ...] = ()
    seed: int = 0
    why_nothing_tuned: str = ""
    data_may_leave: bool = True
    growth: tuple[str, ...] = ()
    refit_faults: Mapping[str, str] = field(default_factory=dict)
    not_comparable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    calls_total: float | None = None
    tune_anyway: bool = False
    split_growth: Growth | None = None

    def why_not(self, contender: Contender) -> str | None:
        """Which limit of the user's this contender breaks, in a sentence; None when it may be recommended."""
        return self._limit(contender) or self._never_pays(contender)

    def _limit(self, contender: Contender) -> str | None:
        return why_not_eligible(contender, self.max_latency_seconds, data_may_leave=self.data_may_leave)

    def independent_rows(self, rung: Contender) -> float:
        """What its rows with a score are worth in rows without near-duplicates."""
        return effective_rows(graded(rung.scores, self._clusters))

    @property
    def _clusters(self) -> NDArray[np.int64] | None:
        return None if self.clusters is None else np.asarray(self.clusters, dtype=np.int64)

    def rows_to_decide(self, rung: Contender) -> int | None:
        """Test size at which its observed score decides about the target; None where no practical one does."""
        assert self.target is not None
        return rows_to_decide(
            rung.mean,
            self.target,
            rows_per_effective=rows_per_effective_row(rung.scores, self._clusters, cross_fit=self.cross_fit, seed=self.seed),
            at_least=rung.items + 1,
            seeds=seed_spread(rung.scores),
        )

    def _never_pays(self, contender: Contender) -> str | None:
        """A job that is over before a training pays for itself is not trained for (design §4)."""
        if self.calls_total is None or self.tune_anyway or not contender.tuned:
            return None
        untuned = strongest_untuned([rung for rung in self.contenders if self._limit(rung) is None])
        if untuned is None:
            return None
        job, without = (replace(rung.cost, calls=self.calls_total) for rung in (contender, untuned))
        if not costs_less(without, job):
            return None
        when = when_it_pays(job, without)
        return f"{contender.rung} is ruled out: the job ends after {self.calls_total:,.0f} calls, and its training pays {when}."


@dataclass(frozen=True, eq=False)
class Ruling:
    """What the rules found.

    `rung` is the recommended contender, or the best bet. `against` is the one it was weighed against and `proof` the gain
    between the two, or without a target over the other rung that it finds hardest to beat. `odds` holds P(score ≥ target), or
    without a target, of the dearer contenders, the least P(gain ≥ minimum_gain) over the rungs that they have to beat.
    `unproved` holds, by contender that the walk passed over, the gain that it did not prove.
    """

    outcome: Outcome
    rung: Contender
    route: Route | None
    probability: float | None
    needed_test_rows: int | None = None
    odds: Mapping[str, float] = field(default_factory=dict)
    against: Contender | None = None
    proof: Gain | None = None
    unproved: Mapping[str, Gain] = field(default_factory=dict)
