"""What the fine-tuning service keeps: projects, keys, files, jobs with their events and checkpoints, tuned models.

Every record names the project it belongs to. Times are whole Unix seconds, as OpenAI's API shows them; order never follows
from them but from `sequence`, which only rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

LOCAL_PROJECT = "proj_local"
"""Who works on this machine without a key, the command line included. It is always there."""

JsonObject = Mapping[str, Any]
EventLevel = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]
MethodType = Literal["supervised", "dpo", "reinforcement"]
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]
RunKind = Literal["climb", "tune"]
RunStatus = Literal["unfinished", "finished", "missing"]


class JobStatus(StrEnum):
    """OpenAI's states of a fine-tuning job. `paused` is only met after somebody asked for it."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing ever changes it again."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class Project:
    """Who owns what; nothing of one project is seen by another."""

    id: str
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of a project. The secret itself is shown once and never stored."""

    id: str
    project: str
    name: str
    admin: bool  # may grant checkpoints to other projects
    created_at: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded file, or a result. `filename` is what the user called it and is never a path."""

    id: str
    project: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that arrives in parts. `bytes` is what was announced."""

    id: str
    project: str
    filename: str
    purpose: str
    bytes: int
    mime_type: str
    status: UploadStatus
    created_at: int
    expires_at: int
    file: str | None = None
    file_lifetime_seconds: int | None = None  # of the completed file, counted from its creation


@dataclass(frozen=True, slots=True)
class UploadPart:
    """One part of an upload."""

    id: str
    project: str
    upload: str
    bytes: int
    sha256: str
    created_at: int


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What was asked for. Hyper-parameters are as asked ("auto" or a value, our own LoRA settings among them).

    Attributes:
        model: The base model that is really trained.
        requested_model: What the client wrote: `model`, an alias of it, or an earlier fine-tune.
        public_model: What the base is called in public, where that is not what loads it.
        start: Name of the tuned model to go on from.
        grader: Of reinforcement.
    """

    model: str
    training_file: str
    requested_model: str = ""
    public_model: str = ""
    validation_file: str | None = None
    start: str | None = None
    suffix: str | None = None
    seed: int = 0
    method: MethodType = "supervised"
    hyperparameters: JsonObject = field(default_factory=dict)
    grader: JsonObject | None = None
    integrations: tuple[JsonObject, ...] = ()
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed. `param` is the request's field that is to blame, mostly `training_file`."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job as it stands.

    Attributes:
        sequence: Rises from job to job over all projects.
        token: Raised at every claim; who writes with an older one writes nothing.
        attempts: Claims since the job last came forward; too many, and it fails.
        pausing: A pause was asked for, and the running worker has not followed yet.
        resolved: The hyper-parameters that are really used, known once it runs.
        comparison: The untuned model and examples in the prompt against the tuned model, once it succeeded.
    """

    id: str
    project: str
    sequence: int
    status: JobStatus
    request: JobRequest
    created_at: int
    token: int = 0
    attempts: int = 0
    pausing: bool = False
    started_at: int | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    resolved: JsonObject = field(default_factory=dict)
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    result_files: tuple[str, ...] = ()
    error: JobError | None = None
    comparison: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job. `sequence` counts a job's events from 1, without a gap."""

    id: str
    project: str
    job: str
    sequence: int
    created_at: int
    level: EventLevel
    type: EventType
    message: str
    data: JsonObject


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written. Of two with the same `key` in one job only the first is kept, so a resumed job repeats none."""

    message: str
    level: EventLevel = "info"
    type: EventType = "message"
    data: JsonObject = field(default_factory=dict)
    key: str | None = None


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """An adapter from the end of an epoch. `model` is the name it answers to. Metrics that are unknown are left out."""

    id: str
    project: str
    job: str
    step: int
    model: str
    created_at: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TunedModel:
    """An adapter with a name that can be asked. `adapter` is the digest under which its folder is kept.

    `step` is None for a job's result, and the step of a checkpoint otherwise.
    """

    name: str
    project: str
    job: str
    base: str
    adapter: str
    created_at: int
    step: int | None = None


@dataclass(frozen=True, slots=True)
class CheckpointPermission:
    """Another project that may use a checkpoint of `project`."""

    id: str
    project: str
    model: str
    granted_to: str
    created_at: int


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A climb or a tune as the index knows it; the folder is the truth."""

    project: str
    folder: str
    kind: RunKind
    task: str
    model: str
    status: RunStatus
    created_at: int
    finished_at: int | None = None
    summary: str = ""
