"""The command `check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stepladder.interfaces.cli.climbing import watching
from stepladder.interfaces.exit_codes import DATA, OK
from stepladder.service.check import check as check_task
from stepladder.service.check import report_lines, to_json

COLOURS = {"block": "bold red", "warn": "yellow", "note": "cyan"}


def check(task: Path, *, fix: bool, with_model: bool, device: str, as_json: bool) -> int:
    """Check, show, and return the exit code."""
    with watching() as watcher:
        checked = check_task(task, fix=fix, with_model=with_model, device=device, progress=watcher.progress)
    if as_json:
        print(json.dumps(to_json(checked), ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _print_coloured(report_lines(checked))
    else:
        for line in report_lines(checked):
            print(line)
    return DATA if checked.blocked else OK


def _print_coloured(lines: list[str]) -> None:
    console = Console()
    for line in lines:
        word = line.partition("  ")[0]
        text = Text(line)
        if word in COLOURS:
            text.stylize(COLOURS[word], 0, len(word))
        console.print(text, soft_wrap=True)
