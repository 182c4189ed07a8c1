"""What the server promises under load, and how much is asked of it to see whether that holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One promised figure.

    Attributes:
        unit: `s`; `%` for a share (0.05 is 5 %); `x` for a factor.
        at_least: The bound is a floor; else the figure has to stay below it.
    """

    what: str
    bound: float
    unit: str
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value < self.bound


PROMISES = {
    "reads": Promise("99 of 100 reads, 200 a second", 0.050, "s"),
    "creation": Promise("99 of 100 jobs created, 50 a second", 0.150, "s"),
    "listing": Promise("a page of 100 out of 10,000 jobs, the slowest", 0.100, "s"),
    "streams": Promise("a running training is slowed by 100 event streams", 0.05, "%"),
    "chats": Promise("16 chats at once over 4 adapters, to one at a time", 3.0, "x", at_least=True),
}


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked. The committed figures are of the full load; a quick one shows that every part works.

    Attributes:
        window_seconds, windows: Each window of the training is so long, and there are so many with streams and as many without.
        rounds: How often chats are asked one by one, and as often at once.
    """

    jobs: int = 10_000
    reads_per_second: float = 200.0
    creations_per_second: float = 50.0
    seconds: float = 15.0
    pages: int = 50
    streams: int = 100
    window_seconds: float = 20.0
    windows: int = 4
    chats: int = 16
    adapters: int = 4
    answer_tokens: int = 48
    rounds: int = 3


QUICK = Load(
    jobs=200,
    reads_per_second=40.0,
    creations_per_second=10.0,
    seconds=1.0,
    pages=6,
    streams=5,
    window_seconds=0.5,
    windows=1,
    chats=4,
    adapters=2,
    answer_tokens=4,
    rounds=1,
)
