"""How a worker and the trainer it starts understand each other: exit codes, one file, and the options of the command line."""

from __future__ import annotations

from dataclasses import dataclass

DONE, LEFT, LOST = 0, 75, 76
"""Exit codes: it said itself what became of the job; it stopped in order and is to be continued; the job is not its own."""
STOP = "stop"
"""A file of this name in the attempt's folder tells the trainer to leave in order."""
SECONDS_TO_LEAVE = 15.0


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """How a trainer works.

    `save_every_seconds`: longest time between two checkpoints. `compare_rows`: validation rows that the finished model and
    the untuned one answer, at most; 0 for none.
    """

    device: str = "auto"
    save_every_seconds: float = 60.0
    compare_rows: int = 100
