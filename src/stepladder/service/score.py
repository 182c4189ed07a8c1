"""A rung of a finished climb graded on labelled rows: good enough, and no worse than it was recorded to be?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepladder import files
from stepladder.data.duplicates import cluster
from stepladder.data.readers import read_examples, read_labelled
from stepladder.domain.answer import answer_text, expected_answer, read_call
from stepladder.domain.climb import GradedRow
from stepladder.domain.errors import RunError, UsageError
from stepladder.domain.messages import Example, Message
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.task import Task
from stepladder.domain.verdict import Interval
from stepladder.evaluation.graders import Grader, build_graders, metrics
from stepladder.evaluation.graders.style import Style
from stepladder.evaluation.statistics import Floats, mean_interval, probability_at_least
from stepladder.evaluation.verdict import MOST_UNGRADED
from stepladder.evaluation.worsening import Comparison
from stepladder.service import wiring
from stepladder.service.figures import counted, interval_text, probability_text, rate_text, setting_text
from stepladder.service.open_run import find_run
from stepladder.service.predict import held_output, predict
from stepladder.service.recorded_scores import Recorded, compare, recorded_scores, seen_before
from stepladder.service.rung_run import Marker
from stepladder.service.setup import Watcher
from stepladder.service.style import fitted_marker, load_style, style_figures
from stepladder.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One labelled row: what was asked, expected, answered, and what that is worth (`score` None = ungraded)."""

    id: str
    input: str
    reference: str
    answer: str
    score: float | None
    ungraded: str = ""
    others: Mapping[str, float | None] = field(default_factory=dict)
    cut: bool = False
    latency_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Against:
    """The recorded scores that the new ones are held against."""

    run: str
    rung: str
    comparison: Comparison


@dataclass(frozen=True)
class Scored:
    """What `score` found. `interval` is None when no row could be graded; `metrics` are further aggregates by name."""

    run: str
    task: str
    rung: str
    grader: str
    file: str
    report: str  # path of the run's report
    rows: tuple[ScoredRow, ...]
    new: int  # answers asked for now; the others were there from an earlier, broken-off call
    interval: Interval | None
    target: float | None = None
    probability_target: float | None = None  # P(true mean score ≥ target)
    against: Against | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the gate closes, in sentences; empty when it stays open."""
        if self.interval is None:
            return (f"No row could be graded: {self.rows[0].ungraded}.",)
        found = []
        ungraded = [row.ungraded for row in self.rows if row.score is None]
        if len(ungraded) > MOST_UNGRADED * len(self.rows):
            found.append(f"{len(ungraded):,} of {len(self.rows):,} rows could not be graded: {ungraded[0]}.")
        if self.target is not None and self.interval.value < self.target:
            found.append(f"The score, {rate_text(self.interval.value)}, is below the target of {setting_text(self.target)}.")
        if self.against is not None and self.against.comparison.worse:
            sure = probability_text(self.against.comparison.probability_worse)
            found.append(f"It is worse than '{self.against.rung}' of {self.against.run}: P(worse) {sure}.")
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return f"{self.rung} on {self.file}: {interval_text(self.interval)}. {' '.join(self.failures) or 'Passed.'}"


def score(
    run: Path | str,
    file: Path | str,
    *,
    rung: str | None = None,
    against: Path | str | None = None,
    target: float | None = None,
    fresh: bool = False,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> Scored:
    """Let a rung answer a file of labelled rows and grade it by the climb's graders.

    The answers are kept in the run's `scores/`; a broken-off call continues there.

    Args:
        run: A run folder, or a task folder (its newest finished run).
        rung: Another rung than the one the verdict recommends.
        against: A run whose recorded test scores are the measure, of `rung` or of its own verdict's; without it, those that
            `run` recorded itself.
        target: Instead of the task's.
        fresh: Ask every row again although answers are there.
    Raises:
        DataError: The file cannot be used. RunError: No such rung was fitted, `against` recorded none, or another process
            scores the same.
        UsageError: The target is no rate.
    """
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"a target of {target:g} is no rate.", "Give one above 0 and up to 1, such as 0.85.")
    folder = find_run(run)
    task = Task.load(folder.task_folder)
    known = read_examples(task)
    examples = read_labelled(file, task, shared_instruction=known.shared_instruction)
    recorded = recorded_scores(folder, rung) if against is None else recorded_scores(find_run(against), rung, required=True)
    path = _answers_path(folder, rung or folder.read_verdict().verdict.rung or "", Path(file))
    with held_output(path, task, fresh=fresh) as purse:
        done = predict(folder.path, file, path, rung=rung, device=device, watcher=watcher, purse=purse)
        graders = build_graders(task, wiring.grader_tools(task, None, {}, device=device, purse=purse), examples=known.examples)
        marker = _marker(folder, graders)
        rows = marker.rows(done.rung, "score", examples, _read_answers(path, examples), fold=None)
    goal = target if target is not None else task.settings.target
    scores = np.asarray([np.nan if row.score is None else row.score for row in rows], dtype=np.float64)
    cluster_of = cluster(examples)
    clusters = [cluster_of[example.id] for example in examples]
    return Scored(
        run=folder.name,
        task=task.settings.name,
        rung=done.rung,
        grader=marker.graders[0].name,
        file=Path(file).name,
        report=str(folder.report_path),
        rows=tuple(_scored_row(example, row) for example, row in zip(examples, rows, strict=True)),
        new=done.new,
        **_figures(scores, clusters, goal),
        target=goal,
        against=None if recorded is None else _against(recorded, examples, scores, clusters),
        metrics=_metrics(marker, examples, rows),
        notes=_notes(folder, examples),
    )


def _answers_path(folder: RunFolder, rung: str, file: Path) -> Path:
    """One file of answers for each rung and content of FILE, so that a changed file is never mixed with an old one's answers."""
    key = files.hash_json([rung, files.hash_file(file)])[:12]
    return folder.path / "scores" / f"{file.stem}-{key}.answers.jsonl"


def _marker(folder: RunFolder, graders: tuple[Grader, ...]) -> Marker:
    """The climb's graders; what was fitted there is read back.

    Raises:
        RunError: The style grader was not kept.
    """
    marker = Marker(graders)
    if not any(isinstance(grader, Style) for grader in graders):
        return marker
    model = load_style(folder, None)
    if model is None:
        raise RunError(f"{folder.path} does not hold its style grader.", "Restore the run, or climb again.")
    return fitted_marker(marker, model)


def _read_answers(path: Path, examples: Sequence[Example]) -> list[Prediction]:
    """The answers that `predict` wrote, in the rows' order."""
    lines: dict[str, dict[str, Any]] = {}
    for text in files.read_lines(path):
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a kill; `predict` has asked for it again
        lines[line["id"]] = line
    return [_prediction(example, lines[example.id]) for example in examples]


def _prediction(example: Example, line: Mapping[str, Any]) -> Prediction:
    calls = [read_call(call, number) for number, call in enumerate(line.get("tool_calls", ()))]
    message = Message("assistant", line["answer"], tool_calls=tuple(call for call in calls if call is not None))
    text = answer_text(message, example.input.tools)
    spoken = Generation(
        text,
        prompt_tokens=0,
        completion_tokens=0,
        latency_seconds=line["latency_seconds"],
        cut=line["cut"],
        model_sha256=line["model_sha256"],
        adapter_sha256=line["adapter_sha256"],
    )
    return Prediction.from_generation(example.id, spoken)


def _scored_row(example: Example, row: GradedRow) -> ScoredRow:
    return ScoredRow(
        row.id,
        example.input.text,
        expected_answer(example),
        row.answer,
        row.score,
        row.ungraded,
        row.others,
        row.cut,
        row.latency_seconds,
    )


def _figures(scores: Floats, clusters: Sequence[int], target: float | None) -> dict[str, Any]:
    if np.isnan(scores).all():
        return {"interval": None}
    chance = None if target is None else probability_at_least(scores, target, clusters)
    return {"interval": mean_interval(scores, clusters), "probability_target": chance}


def _against(recorded: Recorded, examples: Sequence[Example], scores: Floats, clusters: Sequence[int]) -> Against | None:
    if np.isnan(scores).all():
        return None
    return Against(recorded.run, recorded.rung, compare(recorded, examples, scores, clusters))


def _metrics(marker: Marker, examples: Sequence[Example], rows: Sequence[GradedRow]) -> dict[str, float]:
    """What the deciding grader and fitted ones add, and the means of the other graders."""
    found = metrics(marker.graders[0], examples, [row.answer for row in rows])
    for grader in marker.graders[1:]:
        values = [value for row in rows if (value := row.others[grader.name]) is not None]
        if values:
            found[grader.name] = float(np.mean(values))
    return {**found, **style_figures({None: marker}, rows, {example.id: example for example in examples})}


def _notes(folder: RunFolder, examples: Sequence[Example]) -> tuple[str, ...]:
    seen = seen_before(folder, examples)
    if not seen:
        return ()
    return (f"{counted(seen, 'row')} of {len(examples)}: the climb learned or chose by them, so this score may be too kind.",)
