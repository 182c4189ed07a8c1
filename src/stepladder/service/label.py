"""From unlabelled inputs to good examples: which row comes next, what a model would say to it, what the person said."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepladder.data.normalise import own_texts
from stepladder.data.selection import k_centre
from stepladder.data.unlabelled import Unlabelled
from stepladder.domain.messages import Input
from stepladder.domain.protocols import Embedder
from stepladder.domain.task import Task
from stepladder.engines.cache import RecordedEngine
from stepladder.evaluation.graders import build_graders
from stepladder.files import hash_text
from stepladder.models.catalog import is_remote
from stepladder.service import wiring
from stepladder.service.label_drafts import Draft, Drafter, checked_answer
from stepladder.service.label_store import Entry, LabelStore, gather_inputs, open_store
from stepladder.service.setup import Tools, Watcher

COUNT = 50
AGAIN = 20
"""Rows asked a second time; enough to tell a task that people agree on from one they do not."""

DIVERSE_SHARE = 0.5
"""Of the rows wanted: the first half is chosen for being unlike each other, the rest also for being disputed."""

CANDIDATES_PER_ROW = 2
"""Rows whose dispute is looked at for each one wanted."""

DRAFTS_AT_ONCE = 4
"""Drafted together while the person waits; a batch is faster than its rows, a longer one delays the first question."""

TEACHER_ROWS_AT_ONCE = 32
"""Nobody waits for these one by one; a kill costs at most the answers of so many (which are kept as drafts)."""

PACE_ROWS = 20
"""The time left is told from so many latest rows."""


@dataclass(frozen=True)
class Question:
    """One row to be answered. `draft` has no text where none is shown."""

    row: Unlabelled
    draft: Draft
    number: int  # from 1
    total: int
    seconds_left: float | None  # at the person's own pace


@dataclass
class Labelling:
    """A labelling under way. Every answer is on disk before the next question is asked."""

    task: Task
    store: LabelStore
    drafter: Drafter
    waiting: dict[str, Unlabelled]  # questions without an answer, by id
    vectors: dict[str, NDArray[np.float32]]  # of waiting and labelled rows
    embedder: Embedder
    count: int
    again_count: int
    notes: tuple[str, ...] = ()
    _queue: list[str] = field(default_factory=list)
    _drafts: dict[str, Draft] = field(default_factory=dict)
    _undoable: list[Unlabelled] = field(default_factory=list)

    def wants_person(self) -> bool:
        """Whether a question is left in either round. Asks no model."""
        if len(self.store.seen) < self.count:
            return bool(self.waiting.keys() - self.store.skipped) or self.next_again() is not None
        return self.next_again() is not None

    def next_question(self) -> Question | None:
        """The next row to label; None when enough are labelled or none is left."""
        have = len(self.store.seen)
        if have >= self.count:
            return None
        if not self._queue:
            self._queue = self._choose(have)
        if not self._queue:
            return None
        name = self._queue[0]
        if name not in self._drafts:
            ahead = [self.waiting[one] for one in self._queue[: min(DRAFTS_AT_ONCE, self.count - have)]]
            self._drafts |= zip((row.input.id for row in ahead), self.drafter.drafts(ahead), strict=True)
        total = min(self.count, have + len(self.waiting) - len(self.store.skipped & self.waiting.keys()))
        return Question(self.waiting[name], self._drafts[name], have + 1, total, self._seconds_left("label", total - have))

    def answer(self, question: Question, text: str, *, seconds: float) -> str:
        """Keep an answer; what is wrong with it when it does not follow the task's output, else "".

        An answer equal to the draft is `accepted`, any other the person's own.
        """
        example = checked_answer(self.task, question.row, text)
        if isinstance(example, str):
            return example
        accepted = not question.draft.problem and example.reference.content == question.draft.text
        self.store.add(question.row, example, "accepted" if accepted else "human")
        self.store.note(Entry("label", example.id, round(seconds, 1), draft=question.draft.text))
        self._done(example.id)
        self._undoable.append(question.row)
        return ""

    def skip(self, question: Question) -> None:
        """Leave a row out; it is not asked again."""
        self.store.note(Entry("skip", question.row.input.id))
        self._queue.remove(question.row.input.id)
        self._undoable.append(question.row)

    def undo(self) -> bool:
        """Take back what was said to the last row since the start and ask it again; False when there is none."""
        if not self._undoable:
            return False
        row = self._undoable.pop()
        if row.input.id in self.store.examples:
            self.store.take_back(row.input.id)
            self.waiting[row.input.id] = row
        else:
            self.store.note(Entry("undo", row.input.id))
        self._queue.insert(0, row.input.id)
        return True

    def next_again(self) -> Question | None:
        """The next row of the blind second round; neither the draft nor the earlier answer is shown."""
        asked = self.store.again.keys() | self.store.again_skipped
        rows = sorted(self.store.labelled_here, key=lambda example: hash_text(f"again {example.id}"))
        total = min(self.again_count, len(rows))
        left = [example for example in rows if example.id not in asked]
        number = len(rows) - len(left) + 1
        if self.count == 0 or not left or number > total:
            return None
        row = Unlabelled(left[0].input, left[0].metadata, left[0].sources)
        return Question(row, Draft(), number, total, self._seconds_left("again", total - number + 1))

    def answer_again(self, question: Question, text: str, *, seconds: float) -> str:
        """Keep a second answer; what is wrong with it, else ""."""
        example = checked_answer(self.task, question.row, text)
        if isinstance(example, str):
            return example
        self.store.note(Entry("again", example.id, round(seconds, 1), example.reference.content))
        return ""

    def skip_again(self, question: Question) -> None:
        """Leave a row out of the second round."""
        self.store.note(Entry("again-skip", question.row.input.id))

    def add_teacher_rows(self, count: int) -> int:
        """Let the teacher answer so many further rows alone; how many of its answers could be kept.

        They go into the examples marked `teacher`: they may teach, and never choose or confirm.
        """
        kept = 0
        for names in _batches(self._diverse(count)):
            rows = [self.waiting[name] for name in names]
            for row, draft in zip(rows, self.drafter.drafts(rows), strict=True):
                example = checked_answer(self.task, row, draft.text)
                if draft.problem or isinstance(example, str):
                    continue
                self.store.add(row, example, "teacher")
                self._done(example.id)
                kept += 1
        return kept

    def _done(self, name: str) -> None:
        del self.waiting[name]
        if name in self._queue:
            self._queue.remove(name)

    def _choose(self, have: int) -> list[str]:
        """The next rows: diverse ones until half are labelled, then the disputed among diverse ones."""
        diverse = round(DIVERSE_SHARE * self.count) - have
        if diverse > 0:
            return self._diverse(diverse)
        wanted = self.count - have
        names = self._diverse(CANDIDATES_PER_ROW * wanted)
        if len(names) <= wanted:
            return names
        spread = self.drafter.disagreement([self.waiting[name] for name in names])
        return [names[index] for index in sorted(range(len(names)), key=lambda index: -spread[index])][:wanted]

    def _diverse(self, count: int) -> list[str]:
        """Waiting rows, each as unlike as can be to what is labelled, skipped, or stands before it."""
        names = list(self.vectors)
        open_rows = self.waiting.keys() - self.store.skipped
        centres = [index for index, name in enumerate(names) if name not in open_rows]
        chosen = k_centre(np.stack(list(self.vectors.values())), count, labelled=centres) if names else []
        return [names[index] for index in chosen]

    def _seconds_left(self, did: str, rows: int) -> float | None:
        spent = [entry.seconds for entry in self.store.entries if entry.did == did][-PACE_ROWS:]
        return statistics.median(spent) * rows if len(spent) >= 3 else None


@contextmanager
def labelling(
    task: Task,
    file: Path | None = None,
    *,
    teacher: str | None = None,
    count: int = COUNT,
    again: int = AGAIN,
    device: str = "auto",
    watcher: Watcher | None = None,
    tools: Tools | None = None,
) -> Iterator[Labelling]:
    """A labelling of `task`, begun or continued. Close it and open it again at any time: nothing is lost or asked twice.

    Args:
        file: JSONL, CSV, TSV or text of inputs; kept in the task folder, so that it is needed only once.
        teacher: Model that drafts, instead of `[model] base`.
        count: Rows wanted in all that a person has answered or accepted.
        again: Rows asked a second time, blind.
    Raises:
        DataError: A file cannot be used. PrivacyError: A hosted model, and the data may not leave.
        UsageError: There is nothing to label, or another process is at it.
    """
    watcher = watcher or Watcher()
    with open_store(task) as store:
        task = store.task
        rows, notes = gather_inputs(store, file)
        drafter = _build_drafter(store, teacher, device, watcher, tools)
        embedder = wiring.build_embedder() if tools is None else tools.embedder
        waiting = {row.input.id: row for row in rows}
        vectors = _embed(embedder, [*(row.input for row in rows), *(example.input for example in store.examples.values())])
        yield Labelling(task, store, drafter, waiting, vectors, embedder, count, again, tuple(notes))


def _build_drafter(store: LabelStore, teacher: str | None, device: str, watcher: Watcher, tools: Tools | None) -> Drafter:
    """Models are refused now, but loaded only when the first draft is wanted."""
    task = store.task
    base = task.settings.model.base
    for name in {base, teacher or base}:
        if is_remote(name):
            wiring.check_hosted(name, task)
    wiring.set_threads()

    purse = wiring.build_purse(task)
    purse.keep_in(store.folder / "money.jsonl")

    @cache
    def engine(name: str) -> RecordedEngine:
        given = (
            tools.engine if tools is not None and name == base else wiring.build_engine(name, task, device=device, purse=purse)
        )
        return RecordedEngine(given, store.folder / "generations.jsonl")

    return Drafter(task, lambda: engine(base), lambda: engine(teacher or base), build_graders(task)[0], watcher.progress)


def _embed(embedder: Embedder, inputs: Sequence[Input]) -> dict[str, NDArray[np.float32]]:
    """Unit vectors of what the inputs do not share with each other, by id."""
    if not inputs:
        return {}
    vectors = embedder.embed(own_texts([item.text for item in inputs]))
    return {item.id: vector for item, vector in zip(inputs, vectors, strict=True)}


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), TEACHER_ROWS_AT_ONCE):
        yield names[start : start + TEACHER_ROWS_AT_ONCE]
