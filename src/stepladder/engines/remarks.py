"""What a server made otherwise than it was asked, kept until the record is written."""

from __future__ import annotations

import threading
from collections import Counter


class Remarks:
    """Lines about one model, each said once; from several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: dict[str, None] = {}
        self._counts: Counter[str] = Counter()
        self._guard = threading.Lock()

    def note(self, what: str) -> None:
        """`what` follows the model's name."""
        with self._guard:
            self._said[what] = None

    def count(self, what: str) -> None:
        """`what` follows how often it was counted: "answers came …"."""
        with self._guard:
            self._counts[what] += 1

    @property
    def lines(self) -> tuple[str, ...]:
        with self._guard:
            counted = [f"{count:,} {what}" for what, count in self._counts.items()]
            return tuple(f"{self._name}: {line}." for line in (*self._said, *counted))
