"""The commands that use a finished climb: `predict`, `score`, `report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stepladder.files import write_text
from stepladder.interfaces.cli.climbing import show, watching
from stepladder.interfaces.exit_codes import DATA, OK, TARGET_NOT_REACHED
from stepladder.service.climb import Climb
from stepladder.service.figures import counted
from stepladder.service.junit import junit_xml
from stepladder.service.open_run import find_run
from stepladder.service.predict import predict as predict_file
from stepladder.service.report import render_report
from stepladder.service.score import Scored
from stepladder.service.score import score as score_file
from stepladder.service.score_lines import score_lines
from stepladder.service.show import review_line
from stepladder.storage.records import to_json


def predict(run: Path, file: Path, *, output: Path | None, rung: str | None, device: str, as_json: bool) -> None:
    """Answer a file of inputs."""
    target = output or file.with_name(file.name + ".answers.jsonl")
    with watching() as watcher:
        done = predict_file(run, file, target, rung=rung, device=device, watcher=watcher)
    if as_json:
        print(json.dumps({**vars(done), "file": str(target)}))
        return
    print(f"{counted(done.answered, 'answer')} by '{done.rung}' in {target} ({done.new} new, {done.cut} cut).")


def score(
    run: Path,
    file: Path,
    *,
    rung: str | None,
    against: Path | None,
    target: float | None,
    junit: Path | None,
    fresh: bool,
    device: str,
    as_json: bool,
) -> int:
    """Grade a rung on labelled rows, show the result, and return the exit code."""
    with watching() as watcher:
        scored = score_file(run, file, rung=rung, against=against, target=target, fresh=fresh, device=device, watcher=watcher)
    if junit is not None:
        write_text(junit, junit_xml(scored))
    if as_json:
        print(json.dumps({**to_json(scored), "passed": scored.passed, "failures": scored.failures}, indent=2))
    else:
        _print_score(scored)
    if scored.interval is None:
        return DATA
    return OK if scored.passed else TARGET_NOT_REACHED


def _print_score(scored: Scored) -> None:
    lines = score_lines(scored)
    if not sys.stdout.isatty():
        print("\n".join(lines))
        return
    colour = "green" if scored.passed else "red"
    console = Console()
    for number, line in enumerate(lines):
        style = "bold" if number == 0 else f"bold {colour}" if line in ("Passed.", "Failed.") else ""
        console.print(Text(line, style=style), soft_wrap=True)


def report(run: Path, *, as_json: bool) -> None:
    """Show a climb and write its report again."""
    folder = find_run(run)
    record, reviews = folder.read_verdict(), folder.read_reviews()
    folder.write_report(render_report(record, reviews))
    if as_json:
        print(json.dumps({**to_json(record), "reviews": to_json(reviews)}, ensure_ascii=False, indent=2))
        return
    show(Climb(record, folder.path), as_json=False)
    for review in reviews:
        print(review_line(review))
