"""Test rows, out of reach until the contest opens them.

Whoever fits or chooses is handed a `FitContext`, which holds no such thing; whoever holds a `World` sees how many test rows there
are and which, and needs proof of an entry in the ledger of openings to see what they ask and expect.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepladder.domain.messages import Example


@dataclass(frozen=True, slots=True)
class Opened:
    """Proof that the ledger in `splits.json` knows of this look at the test rows; made where the entry is made.

    `openings` = how often they have been opened for a choice by now, this time included.
    """

    run: str
    openings: int


class SealedRows:
    """Some test rows. Their number and ids are no secret."""

    __slots__ = ("_rows",)

    def __init__(self, rows: tuple[Example, ...] = ()) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self._rows)} sealed rows>"

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self._rows)

    def open(self, opened: Opened) -> tuple[Example, ...]:
        """The rows, for answering and grading."""
        if not isinstance(opened, Opened):
            raise TypeError("test rows open only with proof of an entry in the ledger")
        return self._rows

    def for_leak_check(self) -> tuple[Example, ...]:
        """The rows, for looking whether prompts, documents or learned rows give them away; nothing is answered or chosen."""
        return self._rows
