"""`verify`: does a run folder still say what it said? Hashes compared, grades and verdict reckoned again from the rows.

Nothing is asked of any model: grades of a model judge are reckoned from its judgements in the run folder, and where those are
missing they are taken as recorded, which is said. So is what `TAKEN` names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder import __version__
from stepladder.domain.climb import ClimbRecord, GradedRow
from stepladder.domain.errors import EvaluationError, RunError, StepladderError
from stepladder.domain.grader_settings import judges_in
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.domain.task import Task
from stepladder.evaluation.compare import Contender
from stepladder.evaluation.graders import Grader, build_graders, prepare
from stepladder.evaluation.records import inputs_from_json, verdict_to_json
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.evaluation.verdict import decide
from stepladder.service import wiring
from stepladder.service.contest import answered
from stepladder.service.figures import counted
from stepladder.service.leaks import ACCEPTED
from stepladder.service.open_run import find_run
from stepladder.service.rung_run import Marker, validation_interval
from stepladder.service.style import fitted_marker, load_style
from stepladder.service.task_data import read_task_rows
from stepladder.service.verify_record import SAME, equal, record_faults
from stepladder.service.verify_rows import row_faults
from stepladder.storage.receipt import Difference, compare_with_receipt
from stepladder.storage.run_folder import RunFolder

TAKEN = (
    "Taken as recorded, for the rows cannot tell them: near-duplicate clusters and which rows they set aside, latencies and "
    "seconds, openings of the test split, leaks, which test rows learned before, which general abilities were kept, which models "
    "are hosted and what they charge, what learning curves forecast, which rungs and models were left out and why, whether a fit "
    "on all rows failed, how the test split grows, how many rows would be labelled again, of which kind a mistake is and what "
    "helps, what answers asked again say about noise, further figures of the graders, costs of rungs that were no contenders, "
    "recipes, and what stands in notes."
)
NAMED = 20
"""Faults of one kind that are listed; the rest is counted."""
SHOWN = 120  # signs of a value that differs
WORDS = frozenset({"sentence", "reasons", "would_change", "facts"})
"""Of a verdict, what only says in words what its other parts hold in figures: another version may say it otherwise."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what does not agree. `notes` are no faults."""

    run: str
    files: int
    rows: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences


def verify(run: Path | str) -> Verified:
    """Check a finished run, wherever its folder lies now.

    Raises:
        RunError: There is no finished run at `run`.
    """
    folder = find_run(run)
    if not folder.verdict_path.exists():
        raise RunError(f"{folder.path} has no verdict yet.", "Run `stepladder climb` again; it continues.")
    differences, later, count = compare_with_receipt(folder.path)
    notes = [f"{counted(len(later), 'file')} came after the verdict: {_some(later)}."] if later else []
    rows: Sequence[GradedRow] = ()
    try:
        rows = _read_rows(folder)
        regraded, said = _grade_again(folder, rows)
        derived, worded = _derive_again(folder, rows)
        differences += [*regraded, *derived]
        notes += [*said, *worded]
    except StepladderError as error:
        differences.append(Difference(_broken_file(error), str(error)))
    return Verified(folder.name, count, len(rows), tuple(differences), tuple(notes))


def _read_rows(folder: RunFolder) -> Sequence[GradedRow]:
    try:
        return folder.read_rows()
    except ValueError as error:  # pydantic's errors are ValueErrors too
        raise RunError("rows.jsonl cannot be read.", str(error).splitlines()[0]) from error


def _broken_file(error: StepladderError) -> str:
    text = str(error)
    return next((name for name in ("rows.jsonl", "verdict.json", "climb.json") if name in text), "task")


# Grades ---------------------------------------------------------------------------------------------------------------


def _grade_again(folder: RunFolder, rows: Sequence[GradedRow]) -> tuple[list[Difference], list[str]]:
    task, examples = read_task_rows(Task.load(folder.task_folder))
    by_id = {example.id: example for example in examples}
    missed: list[None] = []
    graders = build_graders(task, wiring.recorded_judges(folder.path, lambda: missed.append(None)), examples=examples)
    settings = task.settings.decided_graders() if task.settings.graders else ()
    judged = [bool(list(judges_in(one))) for one in settings] or [False] * len(graders)
    marker = _Regrading(_fitted(folder, Marker(tuple(graders)), rows), judged)
    faults = [
        f"line {number}: row '{row.id}' of {row.rung}: {fault}"
        for number, row in enumerate(rows, start=1)
        for fault in marker.faults(row, by_id.get(row.id))
    ]
    notes = []
    if any(judged):
        notes.append(f"{marker.repeated} grades by a model judge were reckoned from its judgements in the run; nobody was asked.")
    if marker.taken:
        notes.append(f"{marker.taken} grades by a model judge were taken as recorded: its judgements are not in the run folder.")
    return _listed("rows.jsonl", faults), notes


def _fitted(folder: RunFolder, marker: Marker, rows: Sequence[GradedRow]) -> dict[int | None, Sequence[Grader]]:
    """The graders of each fold; a style grader holds what it learned there, as the run keeps it."""
    models = {fold: load_style(folder, fold) for fold in {row.fold for row in rows}}
    return {fold: (marker if model is None else fitted_marker(marker, model)).graders for fold, model in models.items()}


class _Regrading:
    """Grades rows again and says what differs; counts judged grades that were repeated or had to be taken on trust."""

    def __init__(self, graders: Mapping[int | None, Sequence[Grader]], judged: Sequence[bool]) -> None:
        self._graders = graders
        self._judged = judged
        self.repeated = 0
        self.taken = 0

    def faults(self, row: GradedRow, example: Example | None) -> Iterator[str]:
        if example is None:
            yield "the task's data has no such row."
            return
        recorded = [row.score, *row.others.values()]
        graders = self._graders[row.fold]
        names = [grader.name for grader in graders]
        if list(row.others) != names[1:]:
            yield f"it was graded by {', '.join(row.others) or 'one grader'}, and the task names {', '.join(names)}."
            return
        for grader, judged, before in zip(graders, self._judged, recorded, strict=True):
            now = _value(self._grade(grader, row, example))
            if judged and not (row.cut or row.unanswered):
                if now is None and before is not None:
                    self.taken += 1
                    continue
                self.repeated += 1
            if not _same(before, now):
                yield f"{grader.name} gives {_said(now)}, and {_said(before)} is recorded."

    @staticmethod
    def _grade(grader: Grader, row: GradedRow, example: Example) -> Grade:
        if row.unanswered:
            return Ungraded(row.ungraded)
        if row.cut:
            return Score(0.0)
        prepare(grader, [example], [row.answer])
        return grader.grade(example, row.answer)


def _value(grade: Grade) -> float | None:
    return grade.value if isinstance(grade, Score) else None


def _same(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    return abs(before - now) <= SAME


def _said(score: float | None) -> str:
    return "no score" if score is None else f"{score:.6g}"


# Verdict --------------------------------------------------------------------------------------------------------------


def _derive_again(folder: RunFolder, rows: Sequence[GradedRow]) -> tuple[list[Difference], list[str]]:
    record = folder.read_verdict()
    recorded = folder.read_inputs()
    inputs = inputs_from_json(recorded)
    task, examples = read_task_rows(Task.load(folder.task_folder))
    decided, notes = _verdict_faults(record, inputs)
    faults = [
        *_asked_for(record, inputs, task),
        *_accepted(inputs, task),
        *(_one_off(inputs, task, folder) if "calls_total" in recorded else ()),
        *_circumstances(record, inputs, rows),
        *(fault for contender in inputs.contenders for fault in _contender_faults(contender, rows)),
        *_figures(record, inputs, rows),
        *record_faults(record, inputs, task, examples, rows),
        *decided,
    ]
    held = folder.read_state().get("plan", {}).get("choices", {}).get("folds")
    misplaced = list(row_faults(record, task, examples, rows, folds=held))
    return [*_listed("rows.jsonl", misplaced), *_listed("verdict.json", faults)], notes


def _asked_for(record: ClimbRecord, inputs: VerdictInputs, task: Task) -> Iterator[str]:
    settings = task.settings
    wanted = {
        "target": (record.target, inputs.target, settings.target),
        "minimum_gain": (record.minimum_gain, inputs.minimum_gain, settings.minimum_gain),
        "max_latency_seconds": (inputs.max_latency_seconds, settings.use.max_latency_seconds),
        "data_may_leave": (inputs.data_may_leave, settings.use.data_may_leave),
    }
    for name, values in wanted.items():
        if len(set(values)) > 1:
            yield f"`{name}` is {values[-2]} in the inputs, {values[-1]} in the task{_recorded(values[:-2])}."


def _one_off(inputs: VerdictInputs, task: Task, folder: RunFolder) -> Iterator[str]:
    """What rules a tuned rung out that never pays for itself; older records do not hold it."""
    if inputs.calls_total != task.settings.use.calls_total:
        yield f"`calls_total` is {inputs.calls_total} in the inputs, {task.settings.use.calls_total} in the task."
    asked = folder.read_state().get("options", {}).get("tune_anyway", inputs.tune_anyway)
    if inputs.tune_anyway != asked:
        yield f"`tune_anyway` is {inputs.tune_anyway} in the inputs, {asked} in climb.json."


def _circumstances(record: ClimbRecord, inputs: VerdictInputs, rows: Sequence[GradedRow]) -> Iterator[str]:
    """Whether the rows were cross-fitted, and the size of the base."""
    folds = any(row.fold is not None for row in rows if row.split == "test")
    if inputs.cross_fit != folds:
        yield f"`cross_fit` is {inputs.cross_fit} in the inputs, {folds} by rows.jsonl."
    if inputs.base_parameters != record.model.parameters:
        yield f"`base_parameters` is {inputs.base_parameters} in the inputs, {record.model.parameters} in the record."


def _accepted(inputs: VerdictInputs, task: Task) -> Iterator[str]:
    if inputs.accepted_leaks and ACCEPTED not in task.settings.data.accept:
        yield f"leaks stand as accepted in the inputs, and the task does not accept `{ACCEPTED}`."


def _recorded(values: Sequence[object]) -> str:
    return "".join(f" and {value} in the record" for value in values)


def _contender_faults(contender: Contender, rows: Sequence[GradedRow]) -> Iterator[str]:
    """The scores, cut answers and tokens of a contender against its rows."""
    own = [row for row in rows if row.rung == contender.rung and row.split == "test"]
    came = answered(own)
    seeds = sorted({row.seed for row in own})
    scores = [[math.nan if row.score is None else row.score for row in own if row.seed == seed] for seed in seeds]
    recorded = contender.scores.tolist()
    if [len(line) for line in scores] != [len(line) for line in recorded]:
        yield f"{contender.rung} has {len(own)} test answers in rows.jsonl, and {contender.scores.size} scores."
        return
    if not np.allclose(np.asarray(scores), contender.scores, rtol=0, atol=SAME, equal_nan=True):
        yield f"the scores of {contender.rung} are not those of rows.jsonl."
    measured = {
        "cut_share": (_mean([row.cut for row in own]), contender.cut_share),
        "unanswered_share": (_mean([row.unanswered for row in own]), contender.unanswered_share),
        "prompt_tokens_per_call": (_mean([row.prompt_tokens for row in came]), contender.cost.prompt_tokens_per_call),
        "completion_tokens_per_call": (_mean([row.completion_tokens for row in came]), contender.cost.completion_tokens_per_call),
    }
    for name, (now, before) in measured.items():
        if not math.isclose(now, before, rel_tol=SAME, abs_tol=SAME):
            yield f"`{name}` of {contender.rung} is {now:.6g} by rows.jsonl, and {before:.6g} is recorded."


def _figures(record: ClimbRecord, inputs: VerdictInputs, rows: Sequence[GradedRow]) -> Iterator[str]:
    """The scores shown in the ladder."""
    contenders = {contender.rung: contender for contender in inputs.contenders}
    for rung in record.rungs:
        own = [row for row in rows if row.rung == rung.name and row.split == "validation"]
        if rung.validation is not None and (not own or validation_interval(own) != rung.validation):
            yield f"the validation score of {rung.name} is not that of rows.jsonl."
        contender = contenders.get(rung.name)
        if contender is None:
            if rung.test is not None:
                yield f"{rung.name} has a test score and was no contender."
        elif rung.test != contender.interval(inputs.clusters, cross_fit=inputs.cross_fit, seed=inputs.seed):
            yield f"the test score of {rung.name} does not follow from its rows."


def _verdict_faults(record: ClimbRecord, inputs: VerdictInputs) -> tuple[list[str], list[str]]:
    """What does not follow, and a note where only the words are another version's."""
    try:
        again = verdict_to_json(decide(inputs))
    except EvaluationError as error:
        return [f"no verdict follows from its inputs: {error}"], []
    before = verdict_to_json(record.verdict)
    made_by = record.versions.get("stepladder", "")
    changed = {name: value for name, value in again.items() if not equal(value, before[name])}
    if made_by == __version__:
        faulty, written = changed, ""
    else:
        faulty = {name: value for name, value in changed.items() if name not in WORDS}
        written = f" (written by version {made_by}; this is {__version__})"
    faults = [f"the verdict's `{name}` {_apart(value, before[name])}{written}." for name, value in faulty.items()]
    reworded = [f"`{name}`" for name in changed if name not in faulty]
    note = f"Version {made_by} worded {', '.join(reworded)} of the verdict otherwise than {__version__} does; all figures follow."
    return faults, [note] if reworded and not faults else []


def _apart(now: Any, before: Any) -> str:
    """Both values; of long ones the part from where they differ."""
    one, other = repr(now), repr(before)
    same = next((place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), 0)
    start = max(0, same - SHOWN // 3) if max(len(one), len(other)) > SHOWN else 0
    first, second = (
        f"{'…' * (start > 0)}{text[start : start + SHOWN]}{'…' * (len(text) > start + SHOWN)}" for text in (one, other)
    )
    return f"follows as {first}, and {second} is recorded"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _listed(file: str, faults: Sequence[str]) -> list[Difference]:
    more = [Difference(file, f"and {len(faults) - NAMED} more of this kind.")] if len(faults) > NAMED else []
    return [*(Difference(file, fault) for fault in faults[:NAMED]), *more]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
