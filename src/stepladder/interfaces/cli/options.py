"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TaskFolder = Annotated[Path, typer.Argument(help="Task folder with a task.toml.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, or a task folder (its newest run).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Budget = Annotated[float | None, typer.Option("--budget-minutes", min=0.1, help="Instead of `[budget] minutes`.")]
Seed = Annotated[int, typer.Option(help="Seed of the split, the choices and the training.")]
TuneAnyway = Annotated[bool, typer.Option("--tune-anyway", help="Tune even where tuning would be refused.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew instead of continuing an unfinished run.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep answers of other climbs.")]
ServiceFolder = Annotated[Path | None, typer.Option("--folder", help="The service's folder; STEPLADDER_HOME by default.")]
