"""The first 60 rows of the bundled tickets task: what a climb says when there is little data ("indicative")."""

from __future__ import annotations

from pathlib import Path

from task_folder import REPOSITORY, WORK, write_task_folder

import stepladder

NAME = "tickets-60"
ROWS = 60


def bundled_folder() -> Path:
    return Path(stepladder.__file__).parent / "data" / "bundled" / "tickets"


def build(folder: Path, *, rows: int = ROWS) -> Path:
    """Write the task folder; only the name and the number of rows differ from the bundled task."""
    bundled = bundled_folder()
    settings = (bundled / "task.toml").read_text(encoding="utf-8")
    lines = (bundled / "examples.jsonl").read_text(encoding="utf-8").split("\n")
    copies = {
        "examples.jsonl": "\n".join(lines[:rows]) + "\n",
        "ticket.schema.json": (bundled / "ticket.schema.json").read_text(encoding="utf-8"),
    }
    return write_task_folder(folder, settings.replace('name = "tickets"', f'name = "{NAME}"', 1), copies)


if __name__ == "__main__":
    print(f"{build(WORK / NAME).relative_to(REPOSITORY)} written")
