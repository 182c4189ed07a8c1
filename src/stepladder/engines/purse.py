"""Money for hosted calls: set aside before a call, settled after it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from stepladder.domain.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Prices:
    """What a hosted model charges."""

    usd_per_million_prompt_tokens: float
    usd_per_million_completion_tokens: float

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (
            prompt_tokens * self.usd_per_million_prompt_tokens + completion_tokens * self.usd_per_million_completion_tokens
        ) / 1_000_000


class Purse:
    """A budget that many threads, and many engines, may draw on without ever exceeding it together."""

    def __init__(self, budget_usd: float) -> None:
        self.budget_usd = budget_usd
        self.spent_usd = 0.0
        self._reserved_usd = 0.0
        self._changed = threading.Condition()

    def reserve(self, usd: float) -> None:
        """Set `usd` aside; wait while other calls hold money that may come back.

        Raises:
            BudgetError: It does not fit even with everything settled.
        """
        with self._changed:
            while self.spent_usd + self._reserved_usd + usd > self.budget_usd:
                if self._reserved_usd == 0.0:
                    raise BudgetError(
                        f"The next call may cost {usd:.4f} USD, but {self.spent_usd:.4f} of {self.budget_usd:g} USD are spent.",
                        "Raise `[budget] usd`, or leave the hosted model out.",
                    )
                self._changed.wait()
            self._reserved_usd += usd

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Give a reservation back and book what was really spent."""
        with self._changed:
            self._reserved_usd -= reserved_usd
            if self._reserved_usd < 1e-12:  # rounding must not look like an open reservation
                self._reserved_usd = 0.0
            self.spent_usd += spent_usd
            self._changed.notify_all()
