"""What a person who did not know which was which preferred."""

from __future__ import annotations

from dataclasses import dataclass

from stepladder.domain.verdict import Interval


@dataclass(frozen=True, slots=True)
class Review:
    """A blind comparison of two answers to the same test rows.

    `preferred`: share of rows in which `rung` was preferred, ties as halves, with its Wilson interval.
    `probability_better`: P(the true share is above one half), from a uniform prior.
    """

    rung: str
    against: str  # "reference", or another rung
    preferred: Interval
    wins: int
    losses: int
    ties: int  # judged equal
    identical: int  # the same text: equal without being asked
    skipped: int
    probability_better: float
