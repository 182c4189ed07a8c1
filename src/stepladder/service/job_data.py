"""The files of a fine-tuning job: read as OpenAI's API reads them, refused with its codes, and told of with our own checks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder import files
from stepladder.data.checks import Finding, Severity, build_context, run_checks
from stepladder.data.checks.rows import read_rows
from stepladder.data.readers.assemble import name_rows
from stepladder.data.readers.draft import Draft
from stepladder.data.readers.shapes import read_drafts
from stepladder.domain.errors import DataError, StepladderError
from stepladder.domain.jobs import EventLevel, Job, JobError, NewEvent
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Conversation, Preference
from stepladder.domain.task import DataSettings, Task
from stepladder.storage.store import Store

FEWEST_EXAMPLES = 10  # OpenAI's own limit
TRAINING, VALIDATION = "training_file.jsonl", "validation_file.jsonl"
SHOWN_LINES = 20
TASK = "task.toml"
ABOUT_CLIMBS = frozenset({"too-few-rows"})
"""Findings that say what a climb could not do."""


class JobRefused(StepladderError):
    """The job cannot be done as asked; `error` is what its owner is told."""

    def __init__(self, error: JobError) -> None:
        Exception.__init__(self, error)
        self.error = error
        self.problem = error.message
        self.hint = ""


@dataclass(frozen=True)
class JobFiles:
    """A job's files, read. Validation rows may be missing; preferences are there for method dpo only."""

    training: tuple[Draft, ...]
    validation: tuple[Draft, ...]

    def conversations(self) -> tuple[list[Conversation], list[Conversation]]:
        """Rows to learn and rows to stop by; of preferences, the preferred answers."""
        return _conversations(self.training), _conversations(self.validation)

    def preferences(self) -> tuple[list[Preference], list[Preference]]:
        """Pairs to learn and pairs to stop by."""
        return _preferences(self.training), _preferences(self.validation)


def fetch_files(store: Store, job: Job, folder: Path) -> None:
    """Lay the job's files into `folder` under plain names.

    Raises:
        JobRefused: One is gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {TRAINING: job.request.training_file, VALIDATION: job.request.validation_file}
    for name, id in wanted.items():
        if id is None or (folder / name).exists():
            continue
        found = store.files(job.project).held(id)
        param = name.removesuffix(".jsonl")
        if found is None:
            raise JobRefused(JobError("file_not_found", f"The file {id} does not exist any more.", param))
        with store.files(job.project).open(found) as source, (folder / f"{name}.tmp").open("wb") as target:
            shutil.copyfileobj(source, target)
        (folder / f"{name}.tmp").replace(folder / name)


def read_files(job: Job, folder: Path) -> JobFiles:
    """The rows of the files that `fetch_files` laid into `folder`.

    Raises:
        JobRefused: They cannot be used; with OpenAI's code, the line, and what to do.
    """
    training = _read(job, folder / TRAINING)
    if len(training) < FEWEST_EXAMPLES:
        message = f"Training file has {len(training)} example(s), but must have at least {FEWEST_EXAMPLES} examples"
        raise JobRefused(JobError("invalid_n_examples", message, "training_file"))
    return JobFiles(training, _read(job, folder / VALIDATION) if (folder / VALIDATION).exists() else ())


def findings(job: Job, folder: Path) -> list[NewEvent]:
    """What our data checks say of the files, as events; nothing of it stops the job."""
    names = [name for name in (TRAINING, VALIDATION) if (folder / name).exists()]
    data = {"train": TRAINING, "test": VALIDATION} if len(names) == 2 else {"examples": TRAINING}
    lines = [f"name = {json.dumps(job.id)}", 'instruction = "Answer."', "[data]"]
    files.write_text(folder / TASK, "\n".join([*lines, *(f"{key} = {json.dumps(name)}" for key, name in data.items())]) + "\n")
    task = Task.load(folder)
    with suppress(DataError):
        report = run_checks(build_context(task, read_rows(task), embedder=None))
        return [_event(finding) for finding in report.findings if finding.code not in ABOUT_CLIMBS]
    return []  # a file that only we cannot read whole is no reason to stop


def _event(finding: Finding) -> NewEvent:
    level: EventLevel = "info" if finding.severity is Severity.NOTE else "warn"
    lines = [[mark.file, mark.line] for mark in finding.rows[:SHOWN_LINES]]
    data = {"code": finding.code, "severity": finding.severity, "rows": len(finding.rows), "lines": lines, "fix": finding.fix}
    return NewEvent(f"Data check {finding.code}: {finding.evidence}", level, data=data, key=f"check {finding.code}")


def _read(job: Job, path: Path) -> tuple[Draft, ...]:
    param = path.name.removesuffix(".jsonl")
    what = param.replace("_", " ")
    labelled = job.request.method != "reinforcement"  # whose answers a grader judges
    try:
        drafts = read_drafts(path, DataSettings(examples=path.name), labelled=labelled).drafts
        name_rows(drafts)
    except DataError as error:
        where = "" if error.line is None else f" Line {error.line}:"
        message = (
            f"The job failed due to a file format error in the {what}. Invalid file format.{where} {error.problem} {error.hint}"
        )
        raise JobRefused(JobError("invalid_file_format", message.strip(), param)) from error
    pairs = job.request.method == "dpo"
    odd = next((draft for draft in drafts if (draft.rejected is not None) != pairs), None)
    if odd is not None and labelled:
        wanted = (
            'method dpo needs "input", "preferred_output" and "non_preferred_output"'
            if pairs
            else 'method supervised needs "messages"; for pairs of answers choose method dpo'
        )
        message = f"The job failed due to a file format error in the {what}. Invalid file format. Line {odd.row.line}: {wanted}."
        raise JobRefused(JobError("invalid_file_format", message, param))
    return drafts


def _conversations(drafts: Sequence[Draft]) -> list[Conversation]:
    return [_conversation(draft, name, draft.reference) for draft, name in zip(drafts, name_rows(drafts), strict=True)]


def _preferences(drafts: Sequence[Draft]) -> list[Preference]:
    return [
        Preference(*(_answer_only(_conversation(draft, name, answer)) for answer in (draft.reference, draft.rejected)))
        for draft, name in zip(drafts, name_rows(drafts), strict=True)
    ]


def _conversation(draft: Draft, name: str, answer: Message | None) -> Conversation:
    """The row as it stands, system message and all: what is asked later is asked as the client sends it."""
    assert answer is not None
    return Conversation(name, (*draft.messages, answer), draft.tools)


def _answer_only(row: Conversation) -> Conversation:
    """Earlier turns are the same on both sides: learning them would say nothing."""
    earlier = tuple(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in row.messages[:-1])
    return replace(row, messages=(*earlier, replace(row.messages[-1], weight=1.0)))
