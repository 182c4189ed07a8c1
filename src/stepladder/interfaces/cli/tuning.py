"""The command that only tunes: `tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepladder.interfaces.cli.climbing import noted, watching
from stepladder.service.tune import tune as tune_task


def tune(task: Path, *, as_json: bool, **options: Any) -> None:
    """Fine-tune, and show what came of it. `options`: those of `service.tune.tune`."""
    output = options.get("output")
    with watching() as watcher, noted(task, *([Path(output)] if output is not None else [])):
        done = tune_task(task, watcher=watcher, **options)
    if as_json:
        print(json.dumps({**asdict(done), "folder": str(done.folder)}, ensure_ascii=False, indent=2))
        return
    print(done)
