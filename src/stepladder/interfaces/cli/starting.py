"""The command that begins: `init`."""

from __future__ import annotations

import json
from pathlib import Path

from stepladder.service.figures import visible
from stepladder.service.init import Started, init_task
from stepladder.storage.records import to_json


def init(
    folder: Path,
    file: Path,
    *,
    input: str | None,
    reference: str | None,
    test: Path | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Write a task folder, then say what was guessed and why."""
    started = init_task(folder, file, input=input, reference=reference, model=model, test=test)
    if as_json:
        print(json.dumps(to_json(started), ensure_ascii=False, indent=2))
        return
    for line in [*started_lines(started), f"  stepladder climb {started.folder}"]:
        print(visible(line))


def started_lines(started: Started) -> list[str]:
    """What was guessed and written; the command to go on with follows."""
    width = max(len(guess.what) for guess in started.guesses)
    return [
        *started.notes,
        "",
        "Guessed:",
        *(f"  {guess.what:<{width}}  {guess.value}  ({guess.why})" for guess in started.guesses),
        *(["", "Look at this:", *(f"  {doubt}" for doubt in started.doubts)] if started.doubts else []),
        "",
        f"Written to {started.folder}: {', '.join(started.files)}. Correct task.toml where a guess is wrong, then:",
    ]
