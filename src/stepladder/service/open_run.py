"""Finding and reading finished runs."""

from __future__ import annotations

from pathlib import Path

from stepladder.domain.errors import RunError
from stepladder.service.climb import Climb
from stepladder.storage.run_folder import RunFolder


def find_run(path: Path | str) -> RunFolder:
    """The run at `path`, or the newest finished run of the task at `path`.

    Raises:
        RunError: There is neither.
    """
    path = Path(path)
    if (path / "climb.json").is_file():
        return RunFolder.open(path)
    finished = sorted((path / "runs").glob("*/verdict.json"), key=lambda file: file.stat().st_mtime)
    if not finished:
        raise RunError(f"{path} is no run folder and holds no finished run.", f"Run: stepladder climb {path}")
    return RunFolder.open(finished[-1].parent)


def load_climb(path: Path | str) -> Climb:
    """A finished climb from its run folder, or from a task folder (its newest run)."""
    run = find_run(path)
    return Climb(run.read_verdict(), run.path)
