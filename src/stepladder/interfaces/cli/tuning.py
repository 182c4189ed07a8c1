"""The command that only tunes: `tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from stepladder.interfaces.cli.climbing import watching
from stepladder.service.tune import tune as tune_task


def tune(task: Path, *, output: Path | None, device: str, seed: int, as_json: bool) -> None:
    """Fine-tune, and show what came of it."""
    with watching() as watcher:
        done = tune_task(task, output=output, device=device, seed=seed, watcher=watcher)
    if as_json:
        print(json.dumps({**asdict(done), "folder": str(done.folder)}, ensure_ascii=False, indent=2))
        return
    print(done)
