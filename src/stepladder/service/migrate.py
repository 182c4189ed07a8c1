"""An OpenAI fine-tuning job comes home: a task folder with its data, and a job here with the same rows and nearest settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.data.readers.assemble import name_rows
from stepladder.data.readers.draft import Draft
from stepladder.data.readers.shapes import read_drafts
from stepladder.domain.errors import DataError, UsageError
from stepladder.domain.jobs import LOCAL_PROJECT, Job, JobRequest
from stepladder.domain.task import DataSettings, Task
from stepladder.models.catalog import STARTER_MODEL
from stepladder.service.init import Started, init_task
from stepladder.service.openai_job import OldJob, nearest_hyperparameters
from stepladder.service.serving.bases import BaseModel
from stepladder.storage.store import Store

TRAINING, VALIDATION, RECORDED = "training.jsonl", "validation.jsonl", "recorded.jsonl"
NOTES = "migration.json"
LARGEST_SEED = 2**31 - 1
_SUFFIX = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Migration:
    """What was brought here, kept in the task folder, so that a second call goes on.

    Attributes:
        source: Id of the job at OpenAI; `retiring`: the model it made; `base`: what that was made of.
        job: Id of the job here; None until it is made.
        model: What is trained here.
        rows, validation_rows: Of the data.
        settings: Hyper-parameters of the job here.
        old_metrics: The last numbers of OpenAI's result file.
    """

    source: str
    retiring: str | None
    base: str
    method: str
    model: str
    rows: int
    validation_rows: int
    settings: dict[str, Any]
    old_metrics: dict[str, float]
    seed: int
    suffix: str | None
    job: str | None = None

    def keep(self, folder: Path) -> Migration:
        files.write_text(folder / NOTES, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
        return self

    @classmethod
    def find(cls, folder: Path) -> Migration | None:
        """What an earlier call has left in the folder; None where there was none.

        Raises:
            DataError: The file is not what was written.
        """
        path = folder / NOTES
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(path, None, "this is not what migrate-openai has written.", "Remove it and begin anew.") from error


def bring_home(folder: Path, old: OldJob, *, model: str = STARTER_MODEL.name) -> tuple[Migration, Started]:
    """Make `folder` a task of the job's data. With a validation file that is the test split, else Stepladder splits.

    Raises:
        UsageError: The folder is a task already. DataError: The data cannot be used; no task has been written then.
    """
    if (folder / "task.toml").exists():
        raise UsageError(f"{folder / 'task.toml'} exists already.", "Choose another folder, or remove it first.")
    folder.mkdir(parents=True, exist_ok=True)
    contents = {TRAINING: old.training, VALIDATION: old.validation}
    for name, content in contents.items():
        if content is not None:
            files.write_bytes(folder / name, content)
    drafts = {name: _drafts(folder / name) for name, content in contents.items() if content is not None}
    settings = nearest_hyperparameters(old)
    brought = Migration(
        source=old.id,
        retiring=old.tuned,
        base=old.model,
        method=old.method,
        model=model,
        rows=len(drafts[TRAINING]),
        validation_rows=len(drafts.get(VALIDATION, ())),
        settings=settings,
        old_metrics=dict(old.metrics),
        seed=min(LARGEST_SEED, max(0, old.seed or 0)),
        suffix=_SUFFIX.sub("-", old.suffix).strip("-._")[:64] or None if old.suffix else None,
    ).keep(folder)
    test = None if old.validation is None else folder / VALIDATION
    started = init_task(folder, folder / TRAINING, test=test, model=None if model == STARTER_MODEL.name else model)
    toml = folder / "task.toml"
    heading = f"# The data of OpenAI's fine-tuning job {old.id} on {old.model}.\n"
    files.write_text(toml, heading + toml.read_text(encoding="utf-8") + "".join(_rung_lines(old.method, settings)))
    Task.load(folder)
    return brought, started


def make_job(folder: Path, brought: Migration, store: Store) -> tuple[Migration, Job]:
    """The job here: queued for the worker, found again when it was made before."""
    known = None if brought.job is None else store.jobs(LOCAL_PROJECT).get(brought.job)
    if known is not None:
        return brought, known
    base = BaseModel.parse(brought.model)
    request = JobRequest(
        model=base.location,
        public_model=base.name,
        requested_model=brought.base,
        training_file=_put(store, folder / TRAINING),
        validation_file=_put(store, folder / VALIDATION) if brought.validation_rows else None,
        suffix=brought.suffix,
        seed=brought.seed,
        method="dpo" if brought.method == "dpo" else "supervised",
        hyperparameters=brought.settings,
        metadata={"openai_job": brought.source},
    )
    job = store.jobs(LOCAL_PROJECT).create(request)
    return replace(brought, job=job.id).keep(folder), job


def attach_recorded(folder: Path, source: Path) -> bool:
    """Bring answers of the retiring model into the task folder as `recorded.jsonl`, by row id.

    Lines are `{"id": …, "answer": …}` with the ids of the rows, or without ids in the rows' own order: one for each row of the
    validation file, or one for each row of both files. Where every row has one, the task's rung `recorded` climbs with them.

    Returns:
        Whether every row has an answer.
    Raises:
        DataError: The lines and the rows do not go together.
    """
    names, tested = row_names(folder)
    answers = _read_answers(source, names, tested)
    return write_recorded(folder, answers, names)


def write_recorded(folder: Path, answers: dict[str, str], names: Sequence[str]) -> bool:
    """Write answers by row id; the task reads them where no row is missing. Returns whether none is."""
    lines = [json.dumps({"id": name, "answer": answers[name]}, ensure_ascii=False) for name in names if name in answers]
    files.write_text(folder / RECORDED, "\n".join(lines) + "\n")
    whole = all(name in answers for name in names)
    toml = folder / "task.toml"
    text = toml.read_text(encoding="utf-8")
    if whole and Task.load(folder).settings.data.recorded is None:
        said = f'# Answers of the retiring model.\nrecorded = "{RECORDED}"\n'
        files.write_text(toml, text.replace("[data]\n", f"[data]\n{said}", 1))
        Task.load(folder)
    return whole


def row_names(folder: Path) -> tuple[list[str], list[str]]:
    """Ids of all rows, training file first; and of the rows of the validation file."""
    drafts = all_drafts(folder)
    names = name_rows(drafts)
    return names, names[sum(draft.row.path.name == TRAINING for draft in drafts) :]


def all_drafts(folder: Path) -> list[Draft]:
    """Every row as it stands in its file, training file first."""
    return [draft for name in (TRAINING, VALIDATION) if (folder / name).exists() for draft in _drafts(folder / name)]


def _drafts(path: Path) -> list[Draft]:
    return list(read_drafts(path, DataSettings(examples=path.name), labelled=True).drafts)


def _read_answers(source: Path, names: Sequence[str], tested: Sequence[str]) -> dict[str, str]:
    lines = [line for line in files.read_lines(source) if line.strip()]
    try:
        rows = [json.loads(line) for line in lines]
        answers = [(row.get("id"), row["answer"]) for row in rows]
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(source, None, "a recorded answer needs 'answer'.", 'Write lines {"id": …, "answer": …}.') from error
    texts = [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for _, text in answers]
    ids = [id for id, _ in answers]
    if all(id is None for id in ids):
        wanted = next((group for group in (names, tested) if len(group) == len(texts)), None)
        if wanted is None:
            counts = f"{len(texts)} answers, but {len(names)} rows" + (f" ({len(tested)} in {VALIDATION})" if tested else "")
            raise DataError(source, None, f"there are {counts}.", "Give one line for each row, or the rows' ids.")
        return dict(zip(wanted, texts, strict=True))
    unknown = next((place for place, id in enumerate(ids, start=1) if str(id) not in set(names)), None)
    if unknown is not None:
        raise DataError(
            source, unknown, f"no row has the id '{ids[unknown - 1]}'.", "Leave the ids out where lines are in order."
        )
    return dict(zip(map(str, ids), texts, strict=True))


def _rung_lines(method: str, settings: dict[str, Any]) -> Iterator[str]:
    """The job's settings as those of the rung that trains."""
    names = {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "beta"}
    found = {names[key]: value for key, value in settings.items() if key in names}
    if found:
        rung = "dpo" if method == "dpo" else "lora"
        yield f"\n# As the job had them; drop them for Stepladder's own choice.\n[rungs.{rung}]\n"
        yield from (f"{key} = {value}\n" for key, value in found.items())


def _put(store: Store, path: Path) -> str:
    with store.blobs.receive(LOCAL_PROJECT) as incoming:
        incoming.write(path.read_bytes())
        return store.files(LOCAL_PROJECT).add(incoming, filename=path.name, purpose="fine-tune").id
