"""A fine-tuning job as OpenAI has it: fetched with the account's key, or read from exported files."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepladder.domain.errors import DataError, EngineError, UsageError
from stepladder.domain.jobs import MethodType
from stepladder.engines.address import read_key
from stepladder.engines.closing import base_of
from stepladder.engines.failures import hidden
from stepladder.engines.served import secret_of

OPENAIS_MULTIPLIER: Mapping[str, float] = {"gpt-4o-mini": 1.8, "gpt-3.5-turbo": 2.0}
"""What OpenAI itself chooses as `learning_rate_multiplier`, where jobs that were seen say so; a prefix of the base's name.

Its multiplier counts from a rate that was never published, ours from the one we would choose. So its own choice is our 1.
"""


@dataclass(frozen=True)
class OldJob:
    """What a job at OpenAI was made of, and what came of it.

    Attributes:
        model: The base, as OpenAI calls it.
        tuned: The retiring model; None where the job never made one.
        hyperparameters: Those with a value, under OpenAI's names.
        training, validation: The files as they were uploaded.
        metrics: The last value of each column of the result file.
    """

    id: str
    model: str
    tuned: str | None
    method: MethodType
    training: bytes
    validation: bytes | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    suffix: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def fetch_job(id: str) -> OldJob:
    """The job with its files, through OpenAI's SDK: `OPENAI_API_KEY` opens it, `OPENAI_BASE_URL` may lead elsewhere.

    Raises:
        UsageError: No key is set. EngineError: The service refuses, or a file of the job is not there any more.
    """
    import openai  # takes long to import

    key = read_key("OPENAI_API_KEY")
    if not key:
        raise UsageError("OPENAI_API_KEY is not set.", "Set it, or give exported files with --job-file and --train.")

    def content(file: str, what: str) -> bytes:
        try:
            return client.files.content(file).read()
        except openai.NotFoundError as error:
            problem = f"The {what} file {file} of the job is not there any more."
            raise EngineError(problem, "Give your own copy: --job-file and --train (the job as JSON, and the rows).") from error

    try:
        with openai.OpenAI(api_key=key) as client:
            job = client.fine_tuning.jobs.retrieve(id).model_dump()
            training = content(job["training_file"], "training")
            validation = content(job["validation_file"], "validation") if job.get("validation_file") else None
            results = [client.files.content(file).read() for file in job.get("result_files") or ()]
    except openai.APIError as error:
        words = hidden(error.message, secret_of(key))
        raise EngineError(f"The job {id} cannot be fetched: {words}", "Check its id and the key.") from error
    return build_job(job, training, validation, next((one for one in results if last_metrics(one)), None))


def read_job(job_file: Path, training: Path, validation: Path | None, result: Path | None) -> OldJob:
    """The job from exported files.

    Raises:
        DataError: One cannot be read, or is no fine-tuning job.
    """
    try:
        job = json.loads(_read(job_file))
    except ValueError as error:
        raise DataError(job_file, None, "this is not JSON.", "Save what `GET /v1/fine_tuning/jobs/ID` answers.") from error
    if not isinstance(job, dict) or not isinstance(job.get("model"), str) or not isinstance(job.get("id"), str):
        raise DataError(job_file, None, "this is no fine-tuning job.", "Save what `GET /v1/fine_tuning/jobs/ID` answers.")
    return build_job(
        job,
        _read(training),
        None if validation is None else _read(validation),
        None if result is None else _read(result),
    )


def build_job(job: Mapping[str, Any], training: bytes, validation: bytes | None, result: bytes | None) -> OldJob:
    """From the API's job object.

    Raises:
        UsageError: Its method cannot be repeated here.
    """
    method = job.get("method") or {}
    kind = method.get("type") or "supervised"
    if kind not in ("supervised", "dpo"):
        raise UsageError(
            f"The job {job['id']} is of method '{kind}', which cannot be repeated here yet.",
            "Make a task of its data: stepladder init DIR FILE",
        )
    below = (method.get(kind) or {}).get("hyperparameters") or {}
    asked = {**(job.get("hyperparameters") or {}), **below}
    names = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
    return OldJob(
        id=str(job["id"]),
        model=str(job["model"]),
        tuned=job.get("fine_tuned_model") or None,
        method="dpo" if kind == "dpo" else "supervised",
        training=training,
        validation=validation,
        hyperparameters={name: asked[name] for name in names if _is_number(asked.get(name))},
        seed=job.get("seed"),
        suffix=job.get("user_provided_suffix") or _suffix_of(job.get("fine_tuned_model") or ""),
        metrics={} if result is None else last_metrics(result),
    )


def nearest_hyperparameters(old: OldJob) -> dict[str, Any]:
    """The job's settings as a job here takes them."""
    found = dict(old.hyperparameters)
    if "n_epochs" in found:
        found["n_epochs"] = min(50, max(1, round(found["n_epochs"])))
    if "batch_size" in found:
        found["batch_size"] = min(256, max(1, round(found["batch_size"])))
    if "learning_rate_multiplier" in found:
        found["learning_rate_multiplier"] = round(found["learning_rate_multiplier"] / _openais_multiplier(old.model), 6)
    if old.method != "dpo":
        found.pop("beta", None)
    return found


def last_metrics(result: bytes) -> dict[str, float]:
    """The last number of each column of a result file, which may be base64, as OpenAI serves it; empty for other files."""
    try:
        text = base64.b64decode(result, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        text = result.decode("utf-8", "replace")
    found: dict[str, float] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if "step" not in row:
            return {}
        for name, value in row.items():
            try:
                found[str(name)] = float(value)
            except (TypeError, ValueError):
                continue
    return found


def _openais_multiplier(model: str) -> float:
    base = base_of(model)
    return next((value for name, value in OPENAIS_MULTIPLIER.items() if base.startswith(name)), 1.0)


def _suffix_of(tuned: str) -> str | None:
    """The third part of `ft:BASE:ORG:SUFFIX:ID`."""
    parts = tuned.split(":")
    return parts[3] if len(parts) >= 5 and parts[0] == "ft" and parts[3] else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, None, f"the file cannot be read: {error.strerror}.", "Check its name.") from error
