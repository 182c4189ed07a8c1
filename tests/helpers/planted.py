"""Rows of the bundled tasks with faults planted into them, and what the checks say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder.data.bundled import copy_bundled
from stepladder.data.checks import CheckContext, CheckReport, build_context, run_checks
from stepladder.data.checks.rows import read_rows
from stepladder.data.documents import load_documents
from stepladder.domain.task import Task
from stepladder.techniques.fake import FakeEmbedder

Row = dict[str, Any]

LABELS_TOML = """name = "kinds"
instruction = "Name the kind of message."
[data]
examples = "examples.jsonl"
"""


@dataclass
class Folder:
    """A task folder under test; `rows` by file name without suffix."""

    path: Path
    rows: dict[str, list[Row]]
    toml: str

    def write(self) -> Task:
        (self.path / "task.toml").write_text(self.toml, encoding="utf-8")
        for name, rows in self.rows.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (self.path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return Task.load(self.path)

    def split_in_two(self) -> None:
        """Turn `examples` into a train and a test file of one half each."""
        rows = self.rows.pop("examples")
        (self.path / "examples.jsonl").unlink(missing_ok=True)
        self.rows |= {"train": rows[::2], "test": rows[1::2]}
        self.toml = self.toml.replace('examples = "examples.jsonl"', 'train = "train.jsonl"\ntest = "test.jsonl"')


def bundled_folder(folder: Path, name: str) -> Folder:
    """A bundled task; "kinds" is `tickets` with the category alone as the answer, and no `[output]`."""
    source = copy_bundled("tickets" if name == "kinds" else name, folder)
    lines = (source / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    toml = (source / "task.toml").read_text(encoding="utf-8")
    if name == "kinds":
        rows = [{**row, "completion": json.loads(row["completion"])["category"]} for row in rows]
        toml = LABELS_TOML
    return Folder(source, {"examples": rows}, toml)


def context_of(task: Task, *, embedder: Any = None, **parts: Any) -> CheckContext:
    read = read_rows(task)
    prompts = {"the instruction": read.shared_instruction or task.settings.instruction}
    prompts |= {prompt.file: task.path(prompt.file).read_text(encoding="utf-8") for prompt in task.settings.prompts}
    context = build_context(task, read, chunks=load_documents(task), prompts=prompts, embedder=embedder or FakeEmbedder())
    return replace(context, **parts)


def report_of(folder: Folder, **parts: Any) -> CheckReport:
    return run_checks(context_of(folder.write(), **parts))


def lines_of(report: CheckReport, *codes: str) -> set[tuple[str, int]]:
    """(file, line) of every row that one of these codes names."""
    return {(mark.file, mark.line) for one in report.findings if one.code in codes for mark in one.rows}


def plant(
    folder: Folder, change: Callable[[Row, int], object], *, every: int = 13, count: int = 10, file: str = ""
) -> set[tuple[str, int]]:
    """Change `count` rows, every so many, and say where they are."""
    name = file or next(iter(folder.rows))
    rows = folder.rows[name]
    places = [place * every % len(rows) for place in range(count)]
    for number, place in enumerate(places):
        change(rows[place], number)
    return {(f"{name}.jsonl", place + 1) for place in places}


def prompt(form: str) -> Callable[[Row, int], object]:
    """A change of the prompt: `{}` stands for what it was, `{n}` for the number of the change."""
    return lambda row, n: row.update(prompt=form.replace("{}", row["prompt"]).replace("{n}", str(n)))


def answer(form: str) -> Callable[[Row, int], object]:
    return lambda row, n: row.update(completion=form.replace("{}", row["completion"]).replace("{n}", str(n)))


def field(**values: Any) -> Callable[[Row, int], object]:
    """A change of fields of a JSON answer."""
    return lambda row, n: row.update(completion=json.dumps({**json.loads(row["completion"]), **values}))


def one_of(changes: Sequence[Callable[[Row, int], object]]) -> Callable[[Row, int], object]:
    return lambda row, n: changes[n % len(changes)](row, n)


def appended(folder: Folder, rows: Sequence[Mapping[str, Any]], file: str = "") -> set[tuple[str, int]]:
    """Add rows at the end of a file, and say where they are."""
    name = file or next(iter(folder.rows))
    start = len(folder.rows[name])
    folder.rows[name] += [dict(row) for row in rows]
    return {(f"{name}.jsonl", line) for line in range(start + 1, len(folder.rows[name]) + 1)}
