"""The command that brings a fine-tuning job home: `migrate-openai`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stepladder.domain.errors import ModelError, UsageError
from stepladder.domain.jobs import Job, JobStatus
from stepladder.interfaces.cli.climbing import watching
from stepladder.interfaces.cli.starting import started_lines
from stepladder.service.figures import visible
from stepladder.service.migrate import Migration, attach_recorded, bring_home, make_job
from stepladder.service.migrate_score import Succession, compare_successor, record_answers, succession_lines
from stepladder.service.openai_job import OldJob, fetch_job, read_job
from stepladder.service.setup import Watcher
from stepladder.service.worker_process import follow
from stepladder.storage.records import to_json
from stepladder.storage.store import Store, home_folder


@dataclass(frozen=True, slots=True)
class Source:
    """Where the job comes from: an id, or files."""

    job: str | None
    job_file: Path | None
    train: Path | None
    validation: Path | None
    result: Path | None

    def read(self) -> OldJob:
        """Raises: UsageError where neither or both are given; what `fetch_job` and `read_job` raise."""
        if (self.job is None) == (self.job_file is None):
            raise UsageError("say which job.", "Give its id, or --job-file with --train.")
        if self.job is not None:
            if self.train or self.validation or self.result:
                raise UsageError("files are given beside a job's id.", "Give --job-file instead of the id.")
            return fetch_job(self.job)
        if self.job_file is None or self.train is None:
            raise UsageError("--job-file needs --train.", "Give the training file too.")
        return read_job(self.job_file, self.train, self.validation, self.result)

    @property
    def named(self) -> bool:
        return self.job is not None or self.job_file is not None


def migrate(
    folder: Path,
    source: Source,
    *,
    recorded: Path | None,
    record: bool,
    model: str,
    queue: bool,
    service: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Task folder, job, training, scores; each is left as it is where an earlier call has done it."""
    if recorded is not None and record:
        raise UsageError("--recorded and --record are given.", "Give the answers, or let the model be asked for them.")
    with watching() as watcher, Store(service or home_folder()) as store:
        brought = _bring(folder, source, model, watcher, quiet=as_json)
        if recorded is not None:
            attach_recorded(folder, recorded)
        if record:
            watcher.say(f"{brought.retiring} is asked for {brought.validation_rows or brought.rows} answers; its account pays.")
            record_answers(folder, brought, watcher.progress)
        brought, job = make_job(folder, brought, store)
        if not queue and not job.status.final:
            job = follow(store, job, device=device, progress=watcher.progress)
        found = compare_successor(folder, brought, job, store, device=device) if job.status is JobStatus.SUCCEEDED else None
    if as_json:
        print(json.dumps({"migration": to_json(brought), "job": to_json(job), "scores": to_json(found)}, ensure_ascii=False))
    else:
        for line in _lines(folder, brought, job, found):
            print(visible(line))
    if job.status is JobStatus.FAILED:
        assert job.error is not None
        raise ModelError(f"The job {job.id} failed: {job.error.message}", "Remove `job` from migration.json to try again.")


def _bring(folder: Path, source: Source, model: str, watcher: Watcher, *, quiet: bool) -> Migration:
    """The task folder as an earlier call has left it, or a new one."""
    known = Migration.find(folder)
    if known is not None and (folder / "task.toml").exists():
        if source.job not in (None, known.source):
            raise UsageError(f"{folder} holds the job {known.source}.", "Choose another folder.")
        return known
    if known is None and not source.named and (folder / "task.toml").exists():
        raise UsageError(f"{folder} is a task that was not brought from OpenAI.", "Choose another folder.")
    old = source.read()
    if source.job is not None:
        watcher.say(f"Fetched the job {old.id} on {old.model} with its files.")
    brought, started = bring_home(folder, old, model=model)
    if not quiet:
        for line in (*started_lines(started), f"  stepladder climb {folder}", ""):
            print(visible(line))
    return brought


def _lines(folder: Path, brought: Migration, job: Job, found: Succession | None) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in brought.settings.items()) or "all chosen here"
    lines = [f"Job {job.id}: {brought.method} on {brought.model}, {brought.rows} rows; {settings}. It is {job.status}."]
    if job.fine_tuned_model:
        lines.append(f"Its model is {job.fine_tuned_model}. To ask it: stepladder serve --model {brought.model}")
    elif not job.status.final:
        lines.append(f"It is trained by `stepladder serve --model {brought.model}`, or when this command is run again.")
    if found is not None:
        lines += succession_lines(found)
        if found.retiring is None and brought.retiring:
            lines.append(f"To lay it beside {brought.retiring}: --record while that still answers, or --recorded FILE.")
    elif job.status is JobStatus.SUCCEEDED:
        lines.append("The job had no validation file, so there is nothing to score it on; a climb splits the rows:")
        lines.append(f"  stepladder climb {folder}")
    return lines
