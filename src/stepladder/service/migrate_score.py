"""Is the new model as good as the retiring one? Both answer the validation rows of the job that was brought home."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.readers.assemble import name_rows, to_example
from stepladder.data.readers.read import read_recorded
from stepladder.data.readers.references import conform
from stepladder.domain.answer import canonical_answer, expected_answer
from stepladder.domain.errors import EngineError
from stepladder.domain.jobs import LOCAL_PROJECT, Job
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Generation, Score
from stepladder.domain.protocols import Decoding, Engine, Progress, Prompt
from stepladder.domain.task import Task
from stepladder.domain.verdict import Gain, Interval
from stepladder.engines.address import parse_model
from stepladder.engines.cache import RecordedEngine
from stepladder.evaluation.graders import Grader, build_graders
from stepladder.evaluation.statistics import mean_interval
from stepladder.service import wiring
from stepladder.service.figures import gain_text, interval_text
from stepladder.service.job_comparison import Asking, paired, room_for
from stepladder.service.migrate import RECORDED, TRAINING, Migration, all_drafts, row_names, write_recorded
from stepladder.service.setup import CHARACTERS_PER_TOKEN
from stepladder.storage.store import Store

HALF_RECORDED = ".recording.jsonl"
"""Answers of the retiring model while they come in; what is paid for is not asked again."""


@dataclass(frozen=True)
class Succession:
    """The new model and, where its answers are known, the retiring one, on the same rows. `gain` is the new one's."""

    grader: str
    rows: int
    new_model: str
    new: Interval
    retiring_model: str | None
    retiring: Interval | None
    gain: Gain | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_successor(folder: Path, brought: Migration, job: Job, store: Store, *, device: str = "auto") -> Succession | None:
    """Score the job's model, beside the recorded answers where there are any; None without rows to do it on.

    The task's own graders judge, the first decides. Rows are asked as they stand, as a client would.
    """
    training, rows = _examples(folder)
    if not rows or job.fine_tuned_model is None:
        return None
    grader = build_graders(Task.load(folder), examples=(*training, *rows))[0]
    models = store.models(LOCAL_PROJECT)
    known = models.get(job.fine_tuned_model)
    if known is None:
        raise EngineError(f"The model '{job.fine_tuned_model}' does not exist any more.", "Remove `job` from migration.json.")
    engine = wiring.build_local_engine(job.request.model, device=device)
    asking = Asking(engine, room_for(engine, training), may_go_on=lambda: None)
    new = asking.scores(grader, rows, (), models.folder(known))
    answers = _recorded(folder)
    old = [_grade(grader, row, answers[row.id]) for row in rows] if all(row.id in answers for row in rows) else None
    return Succession(
        grader=grader.name,
        rows=len(rows),
        new_model=job.fine_tuned_model,
        new=mean_interval(new, seed=brought.seed),
        retiring_model=None if old is None else brought.retiring or "the present system",
        retiring=None if old is None else mean_interval(old, seed=brought.seed),
        gain=None if old is None else paired(old, new, "retiring", brought.seed),
    )


def record_answers(folder: Path, brought: Migration, progress: Progress) -> int:
    """Let the retiring model answer the rows once more, while it still does, and keep what it says; how many were asked.

    The rows of the validation file; without one, all rows. It is asked where it was trained, with that account's key, and the
    account pays: no list has its prices, so no budget could hold it back.

    Raises:
        EngineError: It does not answer.
    """
    names, tested = row_names(folder)
    wanted = set(tested or names)
    rows = [row for part in _examples(folder) for row in part if row.id in wanted]
    if brought.retiring is None:
        raise EngineError(f"The job {brought.source} made no model that could be asked.", "Give its answers with --recorded.")
    engine = RecordedEngine(_retiring(brought.retiring), folder / HALF_RECORDED)
    lengths = [len(expected_answer(row)) / CHARACTERS_PER_TOKEN for row in rows]
    decoding = Decoding(max_new_tokens=ceil(1.5 * float(np.quantile(lengths, 0.99))) + 64)
    progress.start(f"{brought.retiring} answers", len(rows))
    try:
        prompts = [Prompt(row.id, row.input.messages, row.input.tools) for row in rows]
        answers = engine.generate(prompts, decoding, on_answer=_advance(progress))
    finally:
        progress.finish()
    silent = next((answer.fault for answer in answers if answer.fault), "")
    if silent:
        raise EngineError(f"{silent}.", "Run it again: answers that came are not asked again.")
    write_recorded(folder, {row.id: answer.text for row, answer in zip(rows, answers, strict=True)}, names)
    (folder / HALF_RECORDED).unlink(missing_ok=True)
    return len(rows)


def _retiring(model: str) -> Engine:
    from stepladder.engines.endpoint import EndpointEngine  # brings the SDK

    address = parse_model(f"openai:{model}")
    assert address is not None
    return EndpointEngine(address, api_key=address.api_key())


def _advance(progress: Progress) -> Callable[[int, Generation], None]:
    return lambda index, generation: progress.advance()


def _examples(folder: Path) -> tuple[list[Example], list[Example]]:
    """Rows of the training file and of the validation file as a client asks them, references in the task's form."""
    drafts = all_drafts(folder)
    rows = [to_example(draft, name, None) for draft, name in zip(drafts, name_rows(drafts), strict=True)]
    task = Task.load(folder)
    rows = list(conform(task, tuple(rows), {row.id: draft.row.path for row, draft in zip(rows, drafts, strict=True)}))
    learned = sum(draft.row.path.name == TRAINING for draft in drafts)
    return rows[:learned], rows[learned:]


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / RECORDED
    return {name: text for name, (_, text) in read_recorded(path).items()} if path.exists() else {}


def _grade(grader: Grader, row: Example, answer: str) -> float:
    said = canonical_answer(answer, row.input.tools) if row.reference.tool_calls else answer
    grade = grader.grade(row, said)
    return grade.value if isinstance(grade, Score) else float("nan")


def succession_lines(found: Succession) -> Sequence[str]:
    """The comparison in lines."""
    lines = [f"On {found.rows} validation rows ({found.grader}):"]
    if found.retiring is not None:
        lines.append(f"  retiring  {interval_text(found.retiring)}  {found.retiring_model}")
    lines.append(f"  new       {interval_text(found.new)}  {found.new_model}")
    if found.gain is not None:
        lines.append(
            f"The new model gains {gain_text(found.gain.interval)}; "
            f"it is the better one with probability {found.gain.probability_better:.2f}."
        )
    return lines
