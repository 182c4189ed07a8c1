"""The commands over everything that has run: `jobs`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from stepladder.domain.errors import RunError
from stepladder.domain.jobs import Job, RunEntry
from stepladder.service import run_index
from stepladder.storage.records import to_json
from stepladder.storage.store import DATABASE, Store, home_folder


def show_jobs(folder: Path | None, *, limit: int, as_json: bool) -> None:
    """Climbs and fine-tunes of the command line, and the service's jobs, newest first."""
    runs, jobs = run_index.list_runs()[:limit], _service_jobs(folder or home_folder(), limit)
    if as_json:
        print(json.dumps({"runs": to_json(runs), "jobs": to_json(jobs)}, ensure_ascii=False, indent=2))
        return
    for entry in runs:
        print(_run_line(entry))
    for job in jobs:
        print(_job_line(job))
    if not runs and not jobs:
        print("Nothing has run yet. Run: stepladder demo")


def rebuild(folder: Path, *, as_json: bool) -> None:
    """Read the index anew, and show it."""
    found = run_index.rebuild([folder])
    if as_json:
        print(json.dumps({"runs": to_json(found)}, ensure_ascii=False, indent=2))
        return
    for entry in found:
        print(_run_line(entry))
    print(f"{len(found)} {'run is' if len(found) == 1 else 'runs are'} in the index.")


def backup(file: Path, folder: Path | None, *, as_json: bool) -> None:
    """Copy the database; the service may go on meanwhile."""
    home = folder or home_folder()
    if not (home / DATABASE).is_file():
        raise RunError(f"{home} holds no database.", "Give the service's --folder.")
    with Store(home) as store:
        store.database.backup(file)
    print(json.dumps({"backup": str(file)}) if as_json else f"The database is copied to {file}.")


def _service_jobs(folder: Path, limit: int) -> list[Job]:
    if not (folder / DATABASE).is_file():
        return []
    with Store(folder) as store:
        found = [job for project in store.keys.projects() for job in store.jobs(project.id).list(limit=limit)]
    return sorted(found, key=lambda job: job.sequence, reverse=True)[:limit]


def _run_line(entry: RunEntry) -> str:
    return f"{_when(entry.created_at)}  {entry.kind:<5} {entry.status:<16} {entry.task:<24} {entry.summary}  {entry.folder}"


def _job_line(job: Job) -> str:
    result = job.fine_tuned_model or (job.error.message if job.error else "")
    return f"{_when(job.created_at)}  job   {job.status:<16} {job.request.model:<24} {job.id}  {result}"


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
