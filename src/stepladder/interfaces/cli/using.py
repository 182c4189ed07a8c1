"""The commands that use a finished climb: `predict`, `report`."""

from __future__ import annotations

import json
from pathlib import Path

from stepladder.interfaces.cli.climbing import show, watching
from stepladder.service.climb import Climb
from stepladder.service.open_run import find_run
from stepladder.service.predict import predict as predict_file
from stepladder.service.report import render_report
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
    print(f"{done.answered} answers by '{done.rung}' in {target} ({done.new} new, {done.cut} cut).")


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
