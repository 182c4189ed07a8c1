"""Rungs of finished climbs as models, `rung:RUN/NAME`: a verdict's winner goes to work by a change of the model's name."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import RunError
from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.domain.protocols import Predictor
from stepladder.service.serving.speakers import RungSpeaker
from stepladder.service.shipping import plain_name
from stepladder.storage.run_folder import RunFolder

PREFIX = "rung:"
WINNER = "winner"


@dataclass(frozen=True, slots=True)
class ServedRung:
    """A rung that can be asked. `name` is the model's, e.g. `rung:2026-11-22-1015-quiet-heron/few-shot`."""

    name: str
    run: Path
    rung: str
    created_at: int


class Rungs:
    """The rungs of some run folders. They are looked at anew at every listing, so a climb that ends appears by itself.

    Args:
        places: Run folders, or task folders (all their finished runs), that are served to every project.
        known: Further run folders, for the local project alone: what the index of this machine's climbs holds.
        restore: Brings a rung back; on the asking thread.
        hold: Called with a rung before every answer, so that the weights it stands on count among those in use. It may `forget`.
    """

    def __init__(
        self,
        places: Sequence[Path],
        *,
        restore: Callable[[Path, str], Predictor],
        known: Callable[[], Sequence[Path]] = tuple,
        hold: Callable[[Path, str], None] = lambda run, rung: None,
    ) -> None:
        self._places = tuple(places)
        self._known = known
        self._restore = restore
        self._hold = hold
        self._ready: dict[tuple[Path, str], Predictor] = {}

    def list(self, project: str) -> builtins.list[ServedRung]:
        """All rungs that a project may ask, by name."""
        return sorted((rung for run in self._runs(project) for rung in _rungs_of(run)), key=lambda rung: rung.name)

    def find(self, project: str, name: str) -> ServedRung | None:
        if not name.startswith(PREFIX):
            return None
        run = name.removeprefix(PREFIX).partition("/")[0]
        found = (rung for folder in self._runs(project) if folder.name == run for rung in _rungs_of(folder))
        return next((rung for rung in found if rung.name == name), None)

    def speaker(self, project: str, name: str) -> RungSpeaker | None:
        """Who answers to `rung:RUN/NAME`; None where there is no such rung. `winner` is the rung of the verdict."""
        found = self.find(project, name)
        return None if found is None else RungSpeaker(name, found.run, lambda: self._predictor(found))

    def _predictor(self, rung: ServedRung) -> Predictor:
        self._hold(rung.run, rung.rung)
        key = (rung.run, rung.rung)  # not the name: projects may see different runs of one name
        if key not in self._ready:
            self._ready[key] = self._restore(*key)
        return self._ready[key]

    def forget(self) -> None:
        """Let go of the rungs in memory, and of the models they hold."""
        self._ready.clear()

    def _runs(self, project: str) -> builtins.list[Path]:
        found: builtins.list[Path] = [*self._known()] if project == LOCAL_PROJECT else []
        for place in self._places:
            if (place / "climb.json").is_file():
                found.append(place)
            else:
                found += [file.parent for file in place.glob("runs/*/climb.json")]
        return [run for run in dict.fromkeys(found) if (run / "verdict.json").is_file()]


def _rungs_of(run: Path) -> list[ServedRung]:
    """Every rung that is ready to answer, and the winner.

    `recorded` has answers for the climb's own rows only. After cross-fitting, only what was fitted once more on all rows is
    ready: the others would have to be trained first.
    """
    folder = RunFolder.open(run)
    try:
        record = folder.read_verdict()
    except RunError:
        return []
    created = int((run / "climb.json").stat().st_mtime)
    ran = [rung.name for rung in record.rungs if rung.status is RungStatus.RAN and rung.name != "recorded"]
    names = [(name, name) for name in ran if folder.read_result(name, None) is not None]
    winner = plain_name(record.verdict.rung)
    if winner in {name for name, _ in names}:
        names.append((WINNER, str(winner)))
    return [ServedRung(f"{PREFIX}{run.name}/{name}", run, rung, created) for name, rung in names]
