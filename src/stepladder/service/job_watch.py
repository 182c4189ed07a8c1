"""What a running job tells of itself: metrics as events, epochs as checkpoints, and in the end its model and its numbers."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepladder.domain.jobs import Job, NewEvent
from stepladder.domain.protocols import TrainPlan, TrainPoint, Tuned, Unwatched
from stepladder.service.job_settings import resolved
from stepladder.storage.blobs import Blobs
from stepladder.storage.queue import Claim, Queue

if TYPE_CHECKING:
    from stepladder.service.job_comparison import Comparison

FLUSH_EVERY_SECONDS = 0.5
ORGANISATION = "stepladder"
ID_CHARACTERS = 8
CSV_NAME = "step_metrics.csv"
COMPARISON_NAME = "comparison.json"
CSV_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


class Leave:
    """Whether the trainer is to leave in order; told from another thread, asked between two steps."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def tell(self) -> None:
        self._told.set()

    def raise_if_told(self) -> None:
        """Raises: KeyboardInterrupt: It is to leave."""
        if self._told.is_set():
            raise KeyboardInterrupt


def model_name(job: Job) -> str:
    """`ft:BASE:ORGANISATION:SUFFIX:ID`; follows from the job alone, so that every attempt at it gives the same name."""
    base = job.request.public_model or job.request.model
    return f"ft:{base}:{ORGANISATION}:{job.request.suffix or ''}:{job.id[-ID_CHARACTERS:]}"


@dataclass
class JobWatch:
    """Writes down what a training tells. Events wait half a second for company, so that a fast training is not held up."""

    queue: Queue
    claim: Claim
    blobs: Blobs
    job: Job
    leave: Leave
    base_rate: float
    beta: float | None = None
    steps_before: int = 0  # of a warm-up, which count as coming forward too
    _plan: TrainPlan | None = None
    _newest: TrainPoint | None = None  # held back: its evaluation may follow
    _events: list[NewEvent] = field(default_factory=list)
    _flushed_at: float = 0.0
    _began_at: float = 0.0
    _step: int = 0

    def begun(self, plan: TrainPlan) -> None:
        """Note the settings, and tell of steps that an earlier attempt had no time to tell of."""
        self._plan, self._began_at = plan, time.monotonic()
        for point in plan.history:
            self.stepped(point)
        known = resolved(self.job.request.hyperparameters, plan, base_rate=self.base_rate, beta=self.beta)
        self.queue.record(self.claim, self._take(), resolved=known)

    def stepped(self, point: TrainPoint) -> None:
        if self._newest is not None and self._newest.step != point.step:
            self._events.append(self._metrics(self._newest))
        self._newest, self._step = point, point.step
        if time.monotonic() - self._flushed_at > FLUSH_EVERY_SECONDS:
            self._flush()

    def epoch_ended(self, point: TrainPoint, adapter: Callable[[], Mapping[str, bytes]]) -> None:
        self._flush(newest=True)
        with self.blobs.receive_folder(self.claim.project, adapter()) as incoming:
            self.queue.checkpoint(
                self.claim,
                step=point.step,
                model=f"{model_name(self.job)}:ckpt-step-{point.step}",
                base=self.job.request.model,
                adapter=incoming,
                metrics=_numbers(point),
            )

    def may_go_on(self) -> None:
        self.leave.raise_if_told()

    def saved(self, step: int) -> None:
        self._flush()
        self.queue.advanced(self.claim, self.steps_before + step)

    def finish(self, tuned: Tuned, comparison: Comparison | None = None) -> None:
        """Hand in the model, its numbers and the last events; the job is done."""
        content = {path.name: path.read_bytes() for path in sorted(tuned.folder.iterdir()) if path.is_file()}
        self._events += [self._metrics(point, tuned.steps) for point in tuned.history]
        results = {CSV_NAME: metrics_csv(tuned.history)}
        if comparison is not None:
            self._events.append(comparison.as_event())
            results[COMPARISON_NAME] = json.dumps(comparison.as_json(), indent=2) + "\n"
        with ExitStack() as coming:
            adapter = coming.enter_context(self.blobs.receive_folder(self.claim.project, content))
            written = [(name, coming.enter_context(self.blobs.receive(self.claim.project))) for name in results]
            for name, file in written:
                file.write(results[name].encode("utf-8"))
            self.queue.succeed(
                self.claim,
                model=model_name(self.job),
                base=self.job.request.model,
                adapter=adapter,
                step=tuned.best_step,
                trained_tokens=tuned.tokens,
                results=written,
                events=self._take(),
                comparison=None if comparison is None else comparison.as_json(),
            )

    def warm_up(self) -> WarmUp:
        """A watch for the fine-tune before preference tuning: told of in two sentences."""
        text = "Fine-tuning on the preferred answers first; the preferences are learned from there"
        self.queue.record(self.claim, [NewEvent(text, key="warm-up begins")])
        return WarmUp(self)

    def _flush(self, *, newest: bool = False) -> None:
        if newest and self._newest is not None:
            self._events.append(self._metrics(self._newest))
            self._newest = None
        self._flushed_at = time.monotonic()
        if self._events:
            self.queue.record(self.claim, self._take(), estimated_finish=self._estimate())

    def _take(self) -> Sequence[NewEvent]:
        taken, self._events = self._events, []
        return taken

    def _estimate(self) -> int | None:
        """When the training will be over if nothing stops it early, in Unix seconds."""
        if self._plan is None:
            return None
        done, left = self._step - len(self._plan.history), self._plan.steps - self._step
        return int(time.time() + (time.monotonic() - self._began_at) / max(1, done) * left)

    def _metrics(self, point: TrainPoint, steps: int | None = None) -> NewEvent:
        total = steps if self._plan is None else self._plan.steps
        loss = point.held_out_nll
        valid = "" if loss is None else f", validation loss={loss:.2f}, full validation loss={loss:.2f}"
        return NewEvent(
            f"Step {point.step}/{total}: training loss={point.loss:.2f}{valid}",
            type="metrics",
            data={**_numbers(point), "total_steps": total},
            key=f"step {point.step}",
        )


class WarmUp(Unwatched):
    """Watches a training that is only a part of the job."""

    def __init__(self, whole: JobWatch) -> None:
        self._whole = whole

    def may_go_on(self) -> None:
        self._whole.leave.raise_if_told()

    def saved(self, step: int) -> None:
        self._whole.queue.advanced(self._whole.claim, step)

    def finish(self, tuned: Tuned) -> None:
        """The warm-up is over, in this attempt or an earlier one."""
        self._whole.steps_before = tuned.steps
        self._whole.queue.record(self._whole.claim, [NewEvent("Now learning the preferences", key="warm-up ended")])


def metrics_csv(history: Sequence[TrainPoint]) -> str:
    """One row a step, five decimals, blank where nothing is known (accuracies are not measured)."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    for point in history:
        valid = "" if point.held_out_nll is None else f"{point.held_out_nll:.5f}"
        table.writerow([point.step, f"{point.loss:.5f}", "", valid, ""])
    return text.getvalue()


def _numbers(point: TrainPoint) -> dict[str, float]:
    """Metrics under OpenAI's names. Every evaluation is over the whole validation file."""
    known: dict[str, float] = {"step": point.step, "train_loss": point.loss}
    if point.held_out_nll is not None:
        known |= {"valid_loss": point.held_out_nll, "full_valid_loss": point.held_out_nll}
    return known
