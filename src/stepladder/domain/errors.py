"""Everything that can go wrong, by who has to act. Each message says where, what and what to do."""

from __future__ import annotations

from pathlib import Path


class StepladderError(Exception):
    """Base of all errors a user may see.

    Arguments are positional and stay in `args`, so an error crosses process borders (pickle) unchanged.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem} {self.hint}".strip()


class UsageError(StepladderError):
    """The command or the call does not make sense as given."""


class DataError(StepladderError):
    """A user's file cannot be used: which file, which line (from 1; None = the file as a whole), what, what to do."""

    def __init__(self, path: Path | str, line: int | None, problem: str, hint: str = "") -> None:
        Exception.__init__(self, path, line, problem, hint)
        self.path = Path(path)
        self.line = line
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        where = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.problem} {self.hint}".strip()


class RunError(StepladderError):
    """A run folder is missing, broken, cannot be written, or belongs to other data."""


class DiskError(RunError):
    """The disk is full or fails. What was saved before is whole, and the work goes on from there once there is room."""


class ModelError(StepladderError):
    """A model cannot be found, loaded, or used for what was asked."""


class NotShown(ModelError):
    """A model's chat template cannot show earlier answers as they were given."""


class LackOfMemory(ModelError):
    """A model needs more memory than this machine can give."""


class EngineError(StepladderError):
    """A provider or a local engine failed to answer."""


class NotOffered(EngineError):
    """An engine or its provider lacks what was asked for: a grammar, an adapter, log-probabilities."""


class Unanswered(EngineError):
    """A server gave no answer in spite of all attempts; it may give one later."""


class EvaluationError(StepladderError):
    """Scores cannot be computed or compared."""


class BudgetError(StepladderError):
    """The time or money the user allowed is used up."""


class PrivacyError(StepladderError):
    """Data would leave the machine although `[use] data_may_leave` is false."""


class MissingExtra(StepladderError):
    """An optional part of Stepladder is not installed."""

    def __init__(self, extra: str, what: str) -> None:
        Exception.__init__(self, extra, what)
        self.extra = extra
        self.problem = f"{what} is not installed."
        self.hint = f"Run: pip install 'stepladder[{extra}]'"
