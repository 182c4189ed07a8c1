"""Money for hosted calls: set aside before a call, settled after it, and written down so that a kill forgets nothing."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from stepladder import files
from stepladder.domain.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Prices:
    """What a hosted model charges.

    `longer`: the prompt tokens beyond which a whole call is charged otherwise, and how; never less.
    """

    usd_per_million_prompt_tokens: float
    usd_per_million_completion_tokens: float
    longer: tuple[int, Prices] | None = None

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of one call."""
        if self.longer is not None and prompt_tokens > self.longer[0]:
            return self.longer[1].cost_usd(prompt_tokens, completion_tokens)
        return (
            prompt_tokens * self.usd_per_million_prompt_tokens + completion_tokens * self.usd_per_million_completion_tokens
        ) / 1_000_000


class Purse:
    """A budget that many threads, and many engines, may draw on without ever exceeding it together.

    After `keep_in`, each reservation is on disk before its call is sent, and each settlement once its answer is there. A
    reservation without a settlement belongs to a process that was killed: its call may have been billed, so it counts as
    spent in full.
    """

    def __init__(self, budget_usd: float) -> None:
        self.budget_usd = budget_usd
        self._settled_usd = 0.0
        self._open: dict[int, float] = {}
        self._earlier: dict[int, float] = {}  # reservations of an earlier process, counted as spent
        self._calls = 0
        self._ledger: Path | None = None
        self._changed = threading.Condition()

    @property
    def spent_usd(self) -> float:
        """Without what is set aside for calls under way."""
        return self._settled_usd

    def keep_in(self, ledger: Path) -> None:
        """Take up what a ledger (a line file) says was spent, and write every further movement into it.

        One process at a time may keep its purse in a ledger; the lock of the run folder, or of an output, sees to that.
        """
        with self._changed:
            reserved, settled = _read(ledger)
            self._settled_usd += sum(settled.get(call, usd) for call, usd in reserved.items())
            self._earlier = {call: usd for call, usd in reserved.items() if call not in settled}
            self._calls = max(reserved, default=self._calls)
            self._ledger = ledger

    def reserve(self, usd: float) -> int:
        """Set `usd` aside; wait while other calls hold money that may come back.

        Returns:
            The reservation's number, for `settle`.
        Raises:
            BudgetError: It does not fit even with everything settled.
        """
        with self._changed:
            while self._settled_usd + sum(self._open.values()) + usd > self.budget_usd:
                if not self._open:
                    spent = f"{self._settled_usd:.4f} of {self.budget_usd:g} USD are spent"
                    raise BudgetError(
                        f"The next call may cost {usd:.4f} USD, but {spent}.",
                        "Raise `[budget] usd`, or leave the hosted model out.",
                    )
                self._changed.wait()
            self._calls += 1
            self._write({"call": self._calls, "reserved_usd": usd})
            self._open[self._calls] = usd
            return self._calls

    def settle(self, call: int, spent_usd: float) -> None:
        """Give a reservation back and book what was really spent; also one of an earlier process, when its bill is known."""
        with self._changed:
            if call in self._open:
                del self._open[call]
            else:
                self._settled_usd -= self._earlier.pop(call, 0.0)
            self._settled_usd += spent_usd
            self._changed.notify_all()
            self._write({"call": call, "spent_usd": spent_usd})

    def _write(self, entry: dict[str, float]) -> None:
        if self._ledger is not None:
            files.append_line(self._ledger, json.dumps(entry))


def _read(ledger: Path) -> tuple[dict[int, float], dict[int, float]]:
    """What was reserved and what was settled, by call.

    A line that a kill has torn is passed over: the call of a torn reservation was never sent, and a torn settlement leaves
    its reservation open, which counts in full. A line that lacks only its end is read, since the next one will end it: its
    call's number must not be given again.
    """
    reserved: dict[int, float] = {}
    settled: dict[int, float] = {}
    text = ledger.read_text(encoding="utf-8", errors="replace") if ledger.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            call = int(entry["call"])
            if "reserved_usd" in entry:
                reserved[call] = float(entry["reserved_usd"])
            else:
                settled[call] = float(entry["spent_usd"])
        except (ValueError, TypeError, KeyError):
            continue
    return reserved, settled
