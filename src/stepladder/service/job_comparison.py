"""What the fine-tune of a job has brought: the untuned model, and examples in its prompt, against the tuned model.

All three answer the same rows of the validation file. These rows also stopped the training, so the tuned score is a little too
good; a climb confirms on rows that nothing has seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.guess.closed import closed_set
from stepladder.data.readers.assemble import name_rows, to_example
from stepladder.data.readers.draft import Draft
from stepladder.domain.answer import expected_answer, wants_tool_calls
from stepladder.domain.jobs import NewEvent
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Generation, Score
from stepladder.domain.protocols import Decoding, Engine, Prompt
from stepladder.domain.verdict import Gain, Interval
from stepladder.evaluation.gains import gain
from stepladder.evaluation.graders import Grader
from stepladder.evaluation.graders.chrf import Chrf
from stepladder.evaluation.graders.json_fields import JsonFields
from stepladder.evaluation.graders.labels import Labels
from stepladder.evaluation.graders.tool_calls import ToolCalls
from stepladder.evaluation.statistics import mean_interval
from stepladder.service.figures import interval_text
from stepladder.service.job_data import JobFiles

SHOTS = 4
MINIMUM_GAIN = 0.03
NOTE = "The validation rows also stopped the training, so the tuned score is a little too good; `stepladder climb` confirms."


@dataclass(frozen=True)
class Comparison:
    """Scores on the same validation rows, and what tuning gained. `few_shot` is None where no example fits into a prompt."""

    grader: str
    rows: int
    shots: int
    untuned: Interval
    few_shot: Interval | None
    tuned: Interval
    gain_over_untuned: Gain
    gain_over_few_shot: Gain | None

    def as_json(self) -> dict[str, Any]:
        """What the job's record, its event and its result file hold."""
        return {
            "grader": self.grader,
            "rows": self.rows,
            "untuned": _interval(self.untuned),
            "few_shot": None if self.few_shot is None else {**_interval(self.few_shot), "examples": self.shots},
            "tuned": _interval(self.tuned),
            "gain_over_untuned": _gain(self.gain_over_untuned),
            "gain_over_few_shot": None if self.gain_over_few_shot is None else _gain(self.gain_over_few_shot),
            "note": NOTE,
        }

    def as_event(self) -> NewEvent:
        with_examples = (
            "" if self.few_shot is None else f"with {self.shots} examples in the prompt {interval_text(self.few_shot)}, "
        )
        text = (
            f"Compared on {self.rows} validation rows ({self.grader}): untuned {interval_text(self.untuned)}, {with_examples}"
            f"tuned {interval_text(self.tuned)}"
        )
        return NewEvent(text, data={"comparison": self.as_json()}, key="comparison")


def compare(
    read: JobFiles, engine: Engine, adapter: Path, *, seed: int, may_go_on: Callable[[], None], most_rows: int
) -> Comparison | None:
    """Answer and grade; None where there is no validation file, or nothing in it can be graded.

    Args:
        may_go_on: Asked after every answer; what it raises ends the comparison.
    """
    rows = _examples(read.validation)
    if len(rows) > most_rows:
        rows = sorted(random.Random(seed).sample(rows, most_rows), key=lambda row: row.line)
    if not rows or most_rows == 0:
        return None
    training = _examples(read.training)
    asking = Asking(engine, room_for(engine, training), may_go_on)
    grader = choose_grader([*training, *rows])
    shots = _shots(training, seed)
    untuned = asking.scores(grader, rows, (), None)
    tuned = asking.scores(grader, rows, (), adapter)
    few_shot = asking.scores(grader, rows, shots, None) if shots and asking.fits(rows, shots) else None
    if np.isnan(untuned).all() or np.isnan(tuned).all():
        return None
    return Comparison(
        grader=grader.name,
        rows=len(rows),
        shots=len(shots),
        untuned=mean_interval(untuned, seed=seed),
        few_shot=None if few_shot is None else mean_interval(few_shot, seed=seed),
        tuned=mean_interval(tuned, seed=seed),
        gain_over_untuned=paired(untuned, tuned, "untuned", seed),
        gain_over_few_shot=None if few_shot is None else paired(few_shot, tuned, "few-shot", seed),
    )


def choose_grader(examples: Sequence[Example]) -> Grader:
    """By what the references look like: tool calls, a closed set of labels, JSON, else free text."""
    texts = [expected_answer(example) for example in examples]
    if wants_tool_calls(examples):
        return ToolCalls()
    if closed_set(texts) is not None:
        return Labels()
    return JsonFields() if all(map(_is_json, texts)) else Chrf()


@dataclass(frozen=True)
class Asking:
    """Asks rows as they stand, and grades."""

    engine: Engine
    max_new_tokens: int
    may_go_on: Callable[[], None]

    def scores(self, grader: Grader, rows: Sequence[Example], shots: Sequence[Example], adapter: Path | None) -> list[float]:
        """Score of every row, nan where it could not be graded; a cut answer is wrong."""

        def answered(index: int, generation: Generation) -> None:
            self.may_go_on()

        prompts = [_prompt(row, shots) for row in rows]
        decoding = Decoding(max_new_tokens=self.max_new_tokens)
        answers = self.engine.generate(prompts, decoding, adapter=adapter, on_answer=answered)
        return [_score(grader, row, answer) for row, answer in zip(rows, answers, strict=True)]

    def fits(self, rows: Sequence[Example], shots: Sequence[Example]) -> bool:
        context = self.engine.identity.context_tokens
        longest = max(self.engine.count_tokens([_prompt(row, shots) for row in rows]))
        return not context or longest + self.max_new_tokens <= context


def room_for(engine: Engine, training: Sequence[Example]) -> int:
    """Most tokens of an answer: half as long again as nearly all training answers, and 16 tokens more."""
    counts = engine.count_text_tokens([expected_answer(row) for row in training])
    return ceil(1.5 * float(np.quantile(counts, 0.99))) + 16


def _examples(drafts: Sequence[Draft]) -> list[Example]:
    return [to_example(draft, name, None) for draft, name in zip(drafts, name_rows(drafts), strict=True)]


def _shots(training: Sequence[Example], seed: int) -> list[Example]:
    """A few training rows of different answers, drawn by the seed."""
    drawn = random.Random(seed).sample(list(training), len(training))
    first: dict[str, Example] = {}
    for row in drawn:
        if len(row.input.messages) and not row.input.tools:
            first.setdefault(expected_answer(row), row)
    rest = [row for row in drawn if row not in first.values() and not row.input.tools]
    return [*first.values(), *rest][:SHOTS]


def _prompt(row: Example, shots: Sequence[Example]) -> Prompt:
    """The row as it is asked; the shots come behind its system message, each as a turn and its answer."""
    head = tuple(message for message in row.input.messages[:1] if message.role == "system")
    shown = tuple(
        message
        for shot in shots
        for message in (*(turn for turn in shot.input.messages if turn.role != "system"), shot.reference)
    )
    return Prompt(row.id, (*head, *shown, *row.input.messages[len(head) :]), row.input.tools)


def _score(grader: Grader, row: Example, answer: Generation) -> float:
    if answer.cut:
        return 0.0
    grade = grader.grade(row, answer.text)
    return grade.value if isinstance(grade, Score) else float("nan")


def paired(before: Sequence[float], after: Sequence[float], name: str, seed: int) -> Gain:
    """What the tuned model gains over `name`, row by row."""
    return gain(before, after, minimum_gain=MINIMUM_GAIN, seed=seed, names=(name, "tuned"))


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _interval(found: Interval) -> dict[str, float]:
    return {"score": found.value, "low": found.low, "high": found.high, "level": found.level}


def _gain(found: Gain) -> dict[str, float]:
    return {
        **_interval(found.interval),
        "wins": found.wins,
        "losses": found.losses,
        "probability_better": found.probability_better,
    }
