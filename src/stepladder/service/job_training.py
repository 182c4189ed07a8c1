"""What the trainer's process does with one job: validate its files, or train. It writes to the store and to files, to no pipe.

Everything it writes carries the claim's token. It leaves in order when it is told to or when its worker is gone, and at once,
without another word, when the job is no longer its own.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.domain.errors import DiskError, LackOfMemory, MissingExtra, ModelError, StepladderError
from stepladder.domain.jobs import Job, JobError, JobStatus, NewEvent
from stepladder.domain.protocols import SilentProgress, Tuned
from stepladder.service import wiring
from stepladder.service.job_attempt import DONE, LEFT, LOST, SECONDS_TO_LEAVE, STOP, TrainerOptions
from stepladder.service.job_data import JobFiles, JobRefused, fetch_files, findings, read_files
from stepladder.service.job_settings import dpo_settings, lora_settings
from stepladder.service.job_watch import JobWatch, Leave
from stepladder.storage.queue import Claim, LostClaim, Queue
from stepladder.storage.store import Store

if TYPE_CHECKING:
    from stepladder.service.wiring import JobTools

LOOK_EVERY_SECONDS = 0.25
NOT_YET = JobError(
    "method_not_supported",
    "Reinforcement fine-tuning is not available here yet. Use method supervised with good answers, or dpo with pairs of answers.",
    "method",
)


@dataclass(frozen=True)
class Trainer:
    """One job in the hands of one trainer process; `place` is this attempt's own folder."""

    store: Store
    queue: Queue
    claim: Claim
    place: Path
    options: TrainerOptions
    leave: Leave

    def work(self) -> int:
        """Validate or train, whichever is next; the exit code of the process."""
        try:
            return self._work()
        except LostClaim:
            return LOST
        except KeyboardInterrupt:
            return LEFT

    def _work(self) -> int:
        job = self.queue.job(self.claim)
        try:
            fetch_files(self.store, job, self.place)
            if job.status is JobStatus.VALIDATING:
                self._validate(job)
            else:
                self._train(job)
        except LostClaim:
            raise
        except JobRefused as error:
            self.queue.fail(self.claim, error.error)
        except DiskError as error:  # what was saved is whole, and whoever makes room resumes
            self.queue.record(self.claim, [NewEvent(f"The job is paused: {error}", "error")])
            self.queue.paused(self.claim)
        except StepladderError as error:
            self.queue.fail(self.claim, JobError(_code(error), str(error)))
        return DONE

    def _validate(self, job: Job) -> None:
        request = job.request
        beside = f" and validation file: {request.validation_file}" if request.validation_file else ""
        told = [NewEvent(f"Validating training file: {request.training_file}{beside}", key="validating")]
        self.queue.record(self.claim, told)
        read_files(job, self.place)
        self.queue.validated(self.claim, findings(job, self.place))

    def _train(self, job: Job) -> None:
        if job.request.method == "reinforcement":
            raise JobRefused(NOT_YET)
        read = read_files(job, self.place)
        tools = wiring.build_job_tools(
            job.request.model, device=self.options.device, save_every_seconds=self.options.save_every_seconds
        )
        adopt_checkpoints(self.place)
        self.leave.raise_if_told()
        watch = JobWatch(self.queue, self.claim, self.store.blobs, job, self.leave, base_rate=tools.base_rate(job.request.method))
        start = self._start(job)
        train = self._prefer if job.request.method == "dpo" else self._tune
        tuned = train(job, read, tools, watch, start)
        from stepladder.service.job_comparison import compare  # brings scipy, which validating can do without

        comparison = compare(
            read,
            tools.engine,
            tuned.folder,
            seed=job.request.seed,
            may_go_on=watch.may_go_on,
            most_rows=self.options.compare_rows,
        )
        watch.finish(tuned, comparison)

    def _tune(self, job: Job, read: JobFiles, tools: JobTools, watch: JobWatch, start: Path | None) -> Tuned:
        rows, held_out = read.conversations()
        wanted = lora_settings(job.request.hyperparameters, base_rate=tools.base_rate("supervised"))
        return tools.tuner.tune(
            rows,
            held_out,
            wanted,
            folder=self.place / "adapter",
            seed=job.request.seed,
            progress=SilentProgress(),
            watch=watch,
            start=start,
        )

    def _prefer(self, job: Job, read: JobFiles, tools: JobTools, watch: JobWatch, start: Path | None) -> Tuned:
        """Preference tuning, from `start` or from a fine-tune on the preferred answers."""
        if start is None:
            rows, held_out = read.conversations()
            wanted = lora_settings({}, base_rate=tools.base_rate("supervised"))
            place, seed = self.place / "warm-up", job.request.seed
            warm_up = watch.warm_up()
            begun = tools.tuner.tune(rows, held_out, wanted, folder=place, seed=seed, progress=SilentProgress(), watch=warm_up)
            warm_up.finish(begun)
            start = begun.folder
        pairs, held_out_pairs = read.preferences()
        settings = dpo_settings(job.request.hyperparameters, base_rate=tools.base_rate("dpo"))
        watch.beta = settings.beta
        return tools.tuner.prefer(
            pairs,
            held_out_pairs,
            settings,
            start=start,
            folder=self.place / "adapter",
            seed=job.request.seed,
            progress=SilentProgress(),
            watch=watch,
        )

    def _start(self, job: Job) -> Path | None:
        if job.request.start is None:
            return None
        models = self.store.models(job.project)
        known = models.get(job.request.start)
        if known is None:
            raise JobRefused(JobError("model_not_found", f"The model '{job.request.start}' does not exist any more.", "model"))
        return models.folder(known)


def adopt_checkpoints(place: Path) -> None:
    """Bring what earlier attempts at the job have saved into this attempt's own folder.

    An earlier attempt may still be writing, not knowing that it lost the job: nothing of it is shared but finished files,
    which are never changed, and a checkpoint that is caught half is passed over by the training.
    """
    earlier = [
        path for path in place.parent.iterdir() if path.is_dir() and path.name.isdigit() and int(path.name) < int(place.name)
    ]
    for old in sorted(earlier, key=lambda path: int(path.name), reverse=True):
        for source in (*old.glob("adapter*"), *old.glob("warm-up*")):
            if not (place / source.name).exists():
                _link_tree(source, place / source.name)
    for old in earlier:
        shutil.rmtree(old, ignore_errors=True)


def guard(queue: Queue, claim: Claim, place: Path, leave: Leave, *, worker: int) -> None:
    """Watch from a thread of its own whether the job is still ours, and whether we are to leave.

    Args:
        worker: Process id of the worker that started us; when it is gone, nobody renews the lease.
    """

    def watch() -> None:
        waiting = threading.Event()
        told_for = 0.0
        while not waiting.wait(LOOK_EVERY_SECONDS):
            try:
                pausing = queue.check(claim)
            except LostClaim:
                os._exit(LOST)
            except Exception:
                continue  # a disk that hiccups: whoever writes next says so
            if pausing or (place / STOP).exists() or os.getppid() != worker:
                leave.tell()
                told_for += LOOK_EVERY_SECONDS
            if told_for > SECONDS_TO_LEAVE:
                os._exit(LEFT)  # in the middle of something long; the newest checkpoint has to do

    threading.Thread(target=watch, name="guard", daemon=True).start()


def _link_tree(source: Path, target: Path) -> None:
    """A copy of a folder of files that nobody changes, without copying their bytes where the disk can share them."""
    pending = target.with_name(f".{target.name}.coming")
    shutil.rmtree(pending, ignore_errors=True)

    def ignore(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name.startswith(".")]

    with suppress(FileNotFoundError, shutil.Error):  # what is deleted meanwhile was not needed any more
        shutil.copytree(source, pending, copy_function=_link, ignore=ignore)
    if pending.exists():
        pending.rename(target)


def _link(source: str, target: str) -> None:
    with suppress(FileNotFoundError):
        try:
            Path(target).hardlink_to(source)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one that knows no links
            shutil.copyfile(source, target)


def _code(error: StepladderError) -> str:
    if isinstance(error, MissingExtra):
        return "not_installed"
    if isinstance(error, LackOfMemory):
        return "out_of_memory"
    if isinstance(error, ModelError):
        return "training_failed"
    return "server_error"
