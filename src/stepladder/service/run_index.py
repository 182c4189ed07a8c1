"""The index of climbs and tunes: which there are on this machine, and how each ended. It is read off their folders."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from stepladder.domain.jobs import LOCAL_PROJECT, RunEntry
from stepladder.storage.store import Store, home_folder

SIDE_FILE = "stepladder.json"  # marks an adapter folder that `tune` left
DEEPEST = 6
SKIPPED = frozenset({"rungs", "node_modules", "site-packages", "blobs", "adapters"})


def note_runs(*roots: Path) -> None:
    """Enter the climbs and tunes in these folders as they are now. That the index cannot be written stops nothing: it can be
    made again."""
    with suppress(Exception), Store(home_folder()) as store:
        for entry in find_runs(roots):
            store.runs().put(entry)


def list_runs() -> list[RunEntry]:
    """What the index knows, newest first; a run whose folder is gone is `missing`."""
    with Store(home_folder()) as store:
        return [entry if Path(entry.folder).is_dir() else _missing(entry) for entry in store.runs().list()]


def rebuild(roots: Iterable[Path]) -> list[RunEntry]:
    """Read the index anew: from `roots` and from every task folder that it knows of."""
    with Store(home_folder()) as store:
        known = {Path(entry.folder).parent.parent for entry in store.runs().list()}
        entries = {entry.folder: entry for entry in find_runs(sorted({root.resolve() for root in (*roots, *known)}))}
        store.runs().replace(list(entries.values()))
        return store.runs().list()


def find_runs(roots: Iterable[Path]) -> Iterator[RunEntry]:
    """Climbs and tunes below `roots`, some levels deep."""
    for root in roots:
        for folder in _folders(root.resolve(), DEEPEST):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                if (folder / "climb.json").is_file() and folder.parent.name == "runs":
                    yield _climb(folder)
                elif (folder / SIDE_FILE).is_file() and (folder / "adapter_config.json").is_file():
                    yield _tune(folder)


def _folders(root: Path, deeper: int) -> Iterator[Path]:
    if not root.is_dir():
        return
    yield root
    if deeper == 0 or (root / "climb.json").is_file():  # adapters inside a climb belong to it
        return
    with suppress(OSError):
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name not in SKIPPED:
                yield from _folders(path, deeper - 1)


def _climb(folder: Path) -> RunEntry:
    state = _read(folder / "climb.json")
    settings = tomllib.loads((folder / "task" / "task.toml").read_text(encoding="utf-8"))
    verdict = folder / "verdict.json"
    done = verdict.is_file()
    return RunEntry(
        project=LOCAL_PROJECT,
        folder=str(folder),
        kind="climb",
        task=str(settings["name"]),
        model=str(settings.get("model", {}).get("base", "")),
        status="finished" if done else "unfinished",
        created_at=int(datetime.fromisoformat(state["created"]).timestamp()),
        finished_at=int(verdict.stat().st_mtime) if done else None,
        summary=_said(verdict) if done else "",
    )


def _tune(folder: Path) -> RunEntry:
    side = _read(folder / SIDE_FILE)
    finished = int((folder / SIDE_FILE).stat().st_mtime)
    task = folder.parent.parent / "task.toml"
    name = tomllib.loads(task.read_text(encoding="utf-8"))["name"] if task.is_file() else folder.name
    return RunEntry(
        project=LOCAL_PROJECT,
        folder=str(folder),
        kind="tune",
        task=str(name),
        model=str(side["pins"]["base"]),
        status="finished",
        created_at=finished - int(side["seconds"]),
        finished_at=finished,
        summary=f"{folder.name}: step {side['best_step']} of {side['steps']} kept",
    )


def _said(path: Path) -> str:
    """The verdict in a few words."""
    try:
        verdict = _read(path)["record"]["verdict"]
        rung = f": {verdict['rung']}" if verdict["rung"] else ""
        return f"{str(verdict['outcome']).replace('_', ' ')}{rung}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} cannot be read"


def _missing(entry: RunEntry) -> RunEntry:
    return replace(entry, status="missing")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
