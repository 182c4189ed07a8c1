"""What the checks may look at: rows, split, documents, prompts, near-duplicates; and parts that are not always there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stepladder.data.checks.finding import Finding, Mark, Repair, Severity
from stepladder.data.checks.rows import CheckedRow, ReadRows, RowFault
from stepladder.data.checks.variants import variant_pairs
from stepladder.data.duplicates import Nearness, find_near
from stepladder.data.normalise import plain_form
from stepladder.data.split import load_or_make
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Chunk, Example
from stepladder.domain.protocols import CompletionScore, Embedder
from stepladder.domain.task import Task

SHOWN = 90  # characters of a text that a finding quotes


@dataclass(frozen=True, slots=True)
class RowTokens:
    """One row through the model's own template: what a training would see.

    `problem` is why it cannot be rendered (the other fields are 0 then). `lost` are texts of the row that the rendering
    does not hold. `stops_learned` counts end-of-turn tokens among the learned ones, `learned_turns` the turns that end so.
    """

    tokens: int = 0
    prompt_tokens: int = 0
    learned_tokens: int = 0
    learned_turns: int = 0
    stops_learned: int = 0
    lost: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What the tokenizer and template of the base model make of the rows, by row id."""

    model: str
    control_tokens: frozenset[str]
    rows: Mapping[str, RowTokens]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of (prompt, answer) by row id, counted as the base model counts; its context, 0 when unknown."""

    context_tokens: int
    tokens: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class CheckContext:
    """A task's data, read. Parts that may be None are named in `needs` of the checks that want them.

    part_of: "train", "validation" or "test" by row id; empty when the rows are too few to split. In five folds all are "train".
    fold_of: The fold that tests a row, where there are folds.
    given: The user's own files are the split.
    prompts: Texts that every call will hold, by name: the instruction and the user's own prompts.
    losses: Log-probability of each row's reference under the base model, by row id.
    lacking: Names, numbers, dates, codes of a row's reference, or a short one as a whole, that input, instruction and other rows
        do not hold, by row id.
    unknown: Those of `lacking` that the model did not say when it was asked, by row id.
    likeness: By how many nats a token training inputs make a test row's input likelier than other texts do, by row id.
    """

    task: Task
    rows: tuple[CheckedRow, ...]
    faults: tuple[RowFault, ...]
    part_of: Mapping[str, str]
    fold_of: Mapping[str, int]
    given: bool
    split_problem: str
    near: Nearness
    clusters: Mapping[str, int]
    chunks: tuple[Chunk, ...]
    prompts: Mapping[str, str]
    shared_instruction: str | None = None
    embedder: Embedder | None = None
    template: TemplateFacts | None = None
    lengths: Lengths | None = None
    losses: Mapping[str, CompletionScore] | None = None
    lacking: Mapping[str, tuple[str, ...]] | None = None
    unknown: Mapping[str, tuple[str, ...]] | None = None
    likeness: Mapping[str, float] | None = None

    @cached_property
    def plain_inputs(self) -> tuple[str, ...]:
        """Inputs without case and punctuation, in row order."""
        return tuple(plain_form(row.example.input.text) for row in self.rows)

    @cached_property
    def same_input(self) -> tuple[tuple[int, ...], ...]:
        """Places of rows with the same input, case and punctuation aside; groups of two and more."""
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, (row, text) in enumerate(zip(self.rows, self.plain_inputs, strict=True)):
            roles = "/".join(message.role for message in row.example.input.messages)
            groups[text, roles].append(place)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Embedded inputs, less what over half of the rows share. Shape (rows, dimensions), unit length."""
        assert self.embedder is not None
        if not self.near.texts:
            return np.zeros((0, 1), dtype=np.float32)
        return self.embedder.embed(self.near.texts)[list(self.near.text_of)]

    @cached_property
    def near_rows(self) -> tuple[tuple[int, int], ...]:
        """Near pairs of different texts as places of rows; of rows with one text, only the first stands for all."""
        first: dict[int, int] = {}
        for place, text in enumerate(self.near.text_of):
            first.setdefault(text, place)
        return tuple((first[one], first[other]) for one, other in sorted(self.near.pairs))

    @cached_property
    def variant_rows(self) -> tuple[tuple[int, int], ...]:
        """Places of rows that ask the same in almost the same words, one row for each text."""
        first: dict[str, int] = {}
        for place, text in enumerate(self.plain_inputs):
            first.setdefault(text, place)
        texts = list(first)
        return tuple(sorted((first[texts[one]], first[texts[other]]) for one, other in variant_pairs(texts)))

    @property
    def tested_everywhere(self) -> bool:
        """In folds every row is a test row once."""
        return bool(self.fold_of)

    def is_tested(self, row: CheckedRow) -> bool:
        return self.tested_everywhere or self.part_of.get(row.id) == "test"


def build_context(
    task: Task,
    read: ReadRows,
    *,
    chunks: Sequence[Chunk] = (),
    prompts: Mapping[str, str] | None = None,
    embedder: Embedder | None,
) -> CheckContext:
    """A context without the parts that need a model; `dataclasses.replace` adds those."""
    examples = [row.example for row in read.rows]
    near = find_near(examples, embedder)
    clusters = near.clusters([example.id for example in examples])
    part_of, fold_of, problem = _split(task, read.rows, examples, clusters)
    return CheckContext(
        task=task,
        rows=read.rows,
        faults=read.faults,
        part_of=part_of,
        fold_of=fold_of,
        given=task.settings.data.train is not None,
        split_problem=problem,
        near=near,
        clusters=clusters,
        chunks=tuple(chunks),
        prompts=dict(prompts or {}),
        shared_instruction=read.shared_instruction,
        embedder=embedder,
    )


def _split(
    task: Task, rows: Sequence[CheckedRow], examples: Sequence[Example], clusters: Mapping[str, int]
) -> tuple[Mapping[str, str], Mapping[str, int], str]:
    """Part of every row, fold of every row, and why there is no split."""
    if task.settings.data.train is not None:
        return {row.id: row.kind for row in rows}, {}, ""
    try:
        splits, _ = load_or_make(task, examples, clusters, write=False)
    except DataError as error:
        return {}, {}, f"{error.problem} {error.hint}"
    return splits.split_of, splits.fold_of, ""


def finding(
    check: str,
    severity: Severity,
    marks: Iterable[Mark],
    evidence: str,
    fix: str,
    repairs: Iterable[Repair] = (),
) -> list[Finding]:
    """The finding as a list, empty when there is no row to show; `{rows}` in `evidence` becomes "3 rows"."""
    unique = tuple(dict.fromkeys(marks))
    if not unique:
        return []
    if len(unique) == 1:
        evidence = _PLURAL.sub(lambda match: f"{match['before']}{_SINGULAR[match['verb']]}", evidence, count=1)
    return [Finding(check, severity, unique, evidence.replace("{rows}", count_rows(unique)), fix, tuple(repairs))]


_SINGULAR = {
    "have": "has",
    "hold": "holds",
    "ask": "asks",
    "are": "is",
    "repeat": "repeats",
    "give": "gives",
    "carry": "carries",
    "stand": "stands",
    "write": "writes",
    "spell": "spells",
    "begin": "begins",
    "need": "needs",
    "want": "wants",
    "do": "does",
    "were": "was",
    "fill": "fills",
}
_PLURAL = re.compile(rf"(?P<before>\{{rows\}} (?:almost |nearly )?)(?P<verb>{'|'.join(_SINGULAR)})\b")


def count_rows(marks: Sequence[object]) -> str:
    return "1 row" if len(marks) == 1 else f"{len(marks):,} rows"


def quote(text: str) -> str:
    """A text for evidence: on one line, shortened in the middle of nothing but its end."""
    flat = " ".join(text.split())
    return f"'{flat[:SHOWN]}…'" if len(flat) > SHOWN else f"'{flat}'"
