"""What hosted models may cost once a climb is over and its rungs go to work: in a server, or in a talk."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from math import isinf
from pathlib import Path

from stepladder import files
from stepladder.domain.errors import BudgetError
from stepladder.domain.task import Task
from stepladder.engines.purse import Purse
from stepladder.service import wiring
from stepladder.service.predict import money_beside
from stepladder.storage.run_folder import RunFolder


class WorkingPurse(Purse):
    """A budget that outlives the process: what was spent stands in a ledger, which one process at a time may use.

    The ledger is opened, and closed to others, when the first call is about to be paid for: a rung that asks no hosted model
    leaves no trace.
    """

    def __init__(self, budget_usd: float, ledger: Path) -> None:
        super().__init__(budget_usd)
        self._path = ledger
        self._held: ExitStack | None = None
        self._opening = threading.Lock()

    def reserve(self, usd: float) -> int:
        """As `Purse.reserve`.

        Raises:
            BudgetError: As there; or another process uses the ledger, or it cannot be written.
        """
        self._open_ledger()
        try:
            return super().reserve(usd)
        except BudgetError as error:
            hint = f"To begin a new budget, stop what uses it and remove {self._path.name}, which lies beside the run."
            raise BudgetError(error.problem, hint) from error

    def close(self) -> None:
        """Let another process use the ledger."""
        if self._held is not None:
            self._held.close()

    def _open_ledger(self) -> None:
        with self._opening:
            if self._held is not None:
                return
            held = ExitStack()
            try:
                held.enter_context(files.lock(self._path.with_name(f".{self._path.name}.lock")))
                self.keep_in(self._path)
            except files.Locked as error:
                raise BudgetError(f"another process spends what {self._path.name} counts.", "Stop it, or use it.") from error
            except OSError as error:
                problem = f"what is spent cannot be kept in {self._path.name}: {error.strerror}."
                raise BudgetError(problem, "Make the folder of the run writable.") from error
            self._held = held


def purse_beside_run(run: RunFolder, use: str) -> Purse:
    """The task's budget for one use of a run, less what earlier processes spent on it: `RUN.USE.money.jsonl` beside the run."""
    purse = wiring.build_purse(Task.load(run.task_folder))
    if isinf(purse.budget_usd):
        return purse
    return WorkingPurse(purse.budget_usd, money_beside(run.path.with_name(f"{run.path.name}.{use}")))


class ServedPurses:
    """A server's purses: one for each run, which all its rungs share, whether they have to make room or not."""

    def __init__(self) -> None:
        self._purses: dict[Path, Purse] = {}

    def of(self, run: Path) -> Purse:
        """For the asking thread."""
        run = run.resolve()
        if run not in self._purses:
            self._purses[run] = purse_beside_run(RunFolder.open(run), "serve")
        return self._purses[run]

    def close(self) -> None:
        for purse in self._purses.values():
            if isinstance(purse, WorkingPurse):
                purse.close()
