"""Blind A/B: a person says which of two answers is better, and learns only at the end whose they were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stepladder import files
from stepladder.data.readers import read_examples
from stepladder.domain.climb import GradedRow
from stepladder.domain.errors import RunError, UsageError
from stepladder.domain.messages import Input
from stepladder.domain.output import canonical_text
from stepladder.domain.review import Review
from stepladder.domain.task import Task
from stepladder.domain.verdict import Interval
from stepladder.evaluation.statistics import beta_at_least, wilson
from stepladder.service.open_run import find_run
from stepladder.service.report import render_report
from stepladder.storage.run_folder import RunFolder

ROWS = 30
REFERENCE = "reference"
Choice = Literal["a", "b", "tie", "skip"]


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, in an order that says nothing."""

    id: str
    input: Input
    a: str
    b: str
    number: int  # from 1
    total: int


@dataclass
class Reviewing:
    """A review under way. Every choice is on disk before the next pair is shown."""

    run: RunFolder
    rung: str
    against: str
    inputs: Mapping[str, Input]
    answers: Mapping[str, tuple[str, str]]  # id -> what `rung` and what `against` said; in the order of asking
    choices: dict[str, Choice]

    def next_pair(self) -> Pair | None:
        """The next pair that differs and has no choice yet."""
        asked = [name for name, (first, second) in self.answers.items() if first != second]
        for number, name in enumerate(asked, 1):
            if name not in self.choices:
                first, second = self.answers[name]
                a, b = (second, first) if self._swapped(name) else (first, second)
                return Pair(name, self.inputs[name], a, b, number, len(asked))
        return None

    def choose(self, pair: Pair, choice: Choice) -> None:
        """Keep a choice. Whose answers they were does not stand in the file."""
        line = {"rung": self.rung, "against": self.against, "id": pair.id, "choice": choice}
        files.append_line(self.run.reviews_journal_path, json.dumps(line, ensure_ascii=False))
        self.choices[pair.id] = choice

    def finish(self) -> Review:
        """Uncover the choices, and put the result into the run folder and its report.

        Raises:
            UsageError: Every pair was skipped.
        """
        review = self._count()
        self.run.write_review(review)
        self.run.write_report(render_report(self.run.read_verdict(), self.run.read_reviews()))
        return review

    def _count(self) -> Review:
        identical = sum(first == second for first, second in self.answers.values())
        ties = sum(choice == "tie" for choice in self.choices.values())
        decided = {name: choice for name, choice in self.choices.items() if choice in ("a", "b")}
        wins = sum((choice == "b") == self._swapped(name) for name, choice in decided.items())
        losses = len(decided) - wins
        judged = wins + losses + ties + identical
        if not judged:
            raise UsageError("no pair was judged.", "Skip fewer, or take more rows with --rows.")
        liked = wins + (ties + identical) / 2
        low, high = wilson(liked, judged)
        return Review(
            rung=self.rung,
            against=self.against,
            preferred=Interval(liked / judged, low, high, method="wilson", items=judged),
            wins=wins,
            losses=losses,
            ties=ties,
            identical=identical,
            skipped=sum(choice == "skip" for choice in self.choices.values()),
            probability_better=beta_at_least(liked / judged, judged, 0.5),
        )

    def _swapped(self, name: str) -> bool:
        """Whether the rung's answer stands second; a coin for each row that falls the same way every time."""
        return int(files.hash_text(f"side {self.rung} {self.against} {name}")[:8], 16) % 2 == 1


def open_review(path: Path | str, *, against: str = REFERENCE, rows: int = ROWS) -> Reviewing:
    """A review of the verdict's rung, begun or continued.

    Args:
        path: A run folder, or a task folder (its newest finished run).
        against: "reference", or another rung that answered the test rows.
        rows: Test rows to compare; the first of a fixed random order, so that asking for more later goes on from these.
    Raises:
        RunError: There is no such run, or a rung did not answer the test rows.
    """
    run = find_run(path)
    rung = run.read_verdict().verdict.rung
    if rung is None:
        raise RunError(f"the verdict of {run.path} names no rung.", "There is nothing to review.")
    task = Task.load(run.task_folder)
    examples = {example.id: example for example in read_examples(task).examples}
    tested = _test_answers(run.read_rows())
    ours = _answers_of(rung, tested, run)
    if against == REFERENCE:
        theirs = {name: example.reference.content for name, example in examples.items()}
    else:
        theirs = _answers_of(against, tested, run)
    if against == rung:
        raise UsageError(f"'{rung}' is the verdict's own rung.", f"Compare it with: {_others(tested, rung)}.")
    names = sorted(ours.keys() & theirs.keys() & examples.keys(), key=lambda name: files.hash_text(f"review {name}"))[:rows]
    answers = {name: (_shown(task, ours[name]), _shown(task, theirs[name])) for name in names}
    choices = _choices(run.reviews_journal_path, rung, against, answers)
    return Reviewing(run, rung, against, {name: examples[name].input for name in names}, answers, choices)


def _test_answers(rows: Sequence[GradedRow]) -> dict[str, dict[str, str]]:
    """Answers to test rows by rung and id; of several seeds the first."""
    found: dict[str, dict[str, str]] = {}
    for row in sorted((row for row in rows if row.split == "test"), key=lambda row: row.seed):
        found.setdefault(row.rung, {}).setdefault(row.id, row.answer)
    return found


def _answers_of(rung: str, tested: Mapping[str, dict[str, str]], run: RunFolder) -> dict[str, str]:
    if rung not in tested:
        raise RunError(f"'{rung}' did not answer the test rows of {run.path}.", f"These did: {_others(tested, '')}.")
    return tested[rung]


def _others(tested: Mapping[str, Any], rung: str) -> str:
    return ", ".join([REFERENCE, *(name for name in tested if name != rung)])


def _shown(task: Task, text: str) -> str:
    """An answer in the one form all get: spacing and key order must not give away who wrote it."""
    text = canonical_text(text, task.output_schema)
    if task.output_schema is None:
        return text
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text


def _choices(path: Path, rung: str, against: str, answers: Mapping[str, Any]) -> dict[str, Choice]:
    """Choices of earlier calls."""
    found: dict[str, Choice] = {}
    for text in files.read_lines(path):
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a power cut
        if (line.get("rung"), line.get("against")) == (rung, against) and line.get("id") in answers:
            found[line["id"]] = line["choice"]
    return found
