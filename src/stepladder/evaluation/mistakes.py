"""What kind of mistake each wrong answer is, and what helps against that kind: a format is bound, a fact looked up.

The kinds are read off the answers alone, in this order: the first that fits counts. They point to a remedy and prove nothing;
beside each stands how many of its rows another contender has right, which does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jsonschema_rs

from stepladder.data.gold_passages import GoldPassages
from stepladder.domain.answer import expected_answer, read_answer
from stepladder.domain.climb import GradedRow, MistakeKind, Mistakes
from stepladder.domain.messages import Chunk, Example
from stepladder.domain.task import Task
from stepladder.evaluation.facts import Haystack, find_facts, open_spans
from stepladder.evaluation.graders.labels import label_key
from stepladder.evaluation.graders.regex import Regex
from stepladder.evaluation.seeds import averaged

PARTLY_RIGHT = 0.5
"""Free text with graded scores: from here on an answer is not called wrong."""
CONTENT_WORD_LETTERS = 4
SAME_CONTENT = 0.5
"""Share of the reference's longer words that an answer repeats when it says the same in another way."""

REMEDIES: Mapping[MistakeKind, str] = {
    MistakeKind.CUT: "the answer hit the token limit: ask for shorter answers, or show some in the prompt",
    MistakeKind.FORMAT: "the answer has not the wanted shape: bind it with constrained output",
    MistakeKind.RETRIEVER: "the passage with the answer was not found (retriever): more passages or clearer documents",
    MistakeKind.READER: "the right passage was shown and the answer is wrong (reader): lora+rag, or a larger model",
    MistakeKind.MISSING_FACT: "it wants a fact that the input does not hold: retrieval (RAG), not training",
    MistakeKind.STYLE: "the content is there and the wording is not: demonstrations, then fine-tuning (SFT)",
    MistakeKind.REASONING: "the shape is right and the content is wrong: a larger model, or its reasoning before the answer",
}


@dataclass(frozen=True, slots=True)
class RightAndWrong:
    """The graded answers of a rung, one a row."""

    right: tuple[GradedRow, ...]
    wrong: tuple[GradedRow, ...]

    @property
    def graded(self) -> int:
        return len(self.right) + len(self.wrong)


def tell_apart(task: Task, answers: Mapping[str, Sequence[GradedRow]]) -> dict[str, RightAndWrong]:
    """Which rows each rung has right and wrong. Of several seeds the mean score decides."""
    line = _right_from(task, [row for rows in answers.values() for row in rows])
    told = {}
    for rung, rows in answers.items():
        graded = [row for row in averaged(rows).values() if row.score is not None]
        wrong = tuple(row for row in graded if _below(row, line))
        told[rung] = RightAndWrong(tuple(row for row in graded if not _below(row, line)), wrong)
    return told


def right_elsewhere(ids: Sequence[str], others: Mapping[str, RightAndWrong]) -> dict[str, int]:
    """How many of these rows the other rungs have right; those that have none are left out."""
    hits = {rung: len({row.id for row in theirs.right}.intersection(ids)) for rung, theirs in others.items()}
    return {rung: count for rung, count in hits.items() if count}


@dataclass(frozen=True, eq=False)
class MistakeFinder:
    """Sorts wrong answers by kind.

    Args:
        lacking: By row id, spans of the reference that input, instruction and other training rows do not hold (`find_facts`).
        gold: By row id, what holds the answer: ids of passages, and documents. Rows where that is not known are absent.
    """

    task: Task
    examples: Mapping[str, Example]
    lacking: Mapping[str, tuple[str, ...]]
    gold: Mapping[str, frozenset[str]]

    @classmethod
    def of(
        cls,
        task: Task,
        asked: Sequence[Example],
        train: Sequence[Example],
        clusters: Mapping[str, int],
        chunks: Sequence[Chunk],
    ) -> MistakeFinder:
        """The finder for some test rows."""
        return cls(
            task,
            {example.id: example for example in asked},
            find_facts(asked, train, clusters, task),
            _gold(asked, (*train, *asked), chunks),
        )

    def find(self, rows: Sequence[GradedRow], others: Mapping[str, Sequence[GradedRow]]) -> tuple[Mistakes, ...]:
        """The wrong answers of one rung, most frequent kind first. Of several seeds the mean score decides.

        Args:
            rows: Its graded answers.
            others: Those of other contenders to the same rows, by rung.
        """
        name = row_rung(rows)
        told = tell_apart(self.task, {name: rows, **others})
        wrong = told[name].wrong
        kinds: dict[MistakeKind, list[str]] = {}
        for row in wrong:
            kinds.setdefault(self.kind(row), []).append(row.id)
        found = []
        for kind, ids in kinds.items():
            elsewhere = right_elsewhere(ids, {rung: told[rung] for rung in others})
            remedy = _remedy(kind, len(ids), elsewhere)
            found.append(Mistakes(name, kind, tuple(ids), len(wrong), told[name].graded, remedy, elsewhere))
        return tuple(sorted(found, key=lambda one: (-len(one.rows), list(MistakeKind).index(one.kind))))

    def kind(self, row: GradedRow) -> MistakeKind:
        """The kind of one wrong answer."""
        example = self.examples[row.id]
        if row.cut:
            return MistakeKind.CUT
        if self._misshapen(example, row.answer):
            return MistakeKind.FORMAT
        shown = row.passages or row.retrieved  # a record of an older version names documents only
        gold = self.gold.get(row.id)
        if shown and gold:
            return MistakeKind.READER if gold.intersection(shown) else MistakeKind.RETRIEVER
        said = Haystack(row.answer)
        if any(span not in said for span in self.lacking.get(row.id, ())):
            return MistakeKind.MISSING_FACT
        return MistakeKind.STYLE if self._only_worded_otherwise(example, said) else MistakeKind.REASONING

    def _misshapen(self, example: Example, answer: str) -> bool:
        output = self.task.settings.output
        if example.reference.tool_calls:
            return not read_answer(answer).tool_calls
        if output.labels:
            return label_key(answer) not in {label_key(label) for label in output.labels}
        if output.regex is not None:
            return getattr(self._pattern.grade(example, answer), "value", 1.0) == 0.0
        wanted = _parse(expected_answer(example))
        if not isinstance(wanted, (dict, list)):
            return False
        given = _parse(answer)
        schema = self.task.output_schema
        if not isinstance(given, type(wanted)) or schema is None:
            return not isinstance(given, type(wanted))
        try:
            return not jsonschema_rs.is_valid(schema, given)
        except (ValueError, RecursionError):  # numbers and depths the validator does not take
            return True

    @cached_property
    def _pattern(self) -> Regex:
        return Regex(self.task.settings.output.regex or "")

    def _only_worded_otherwise(self, example: Example, said: Haystack) -> bool:
        """Whether a free text holds the reference's names and numbers, and half of its longer words (any, in a style task)."""
        output = self.task.settings.output
        reference = expected_answer(example)
        if output.labels or output.json_schema or output.regex or example.reference.tool_calls:
            return False
        if any(span not in said for span in open_spans(reference)):
            return False
        words = {word for word in Haystack(reference).words if len(word) >= CONTENT_WORD_LETTERS}
        if output.style:
            return bool(said.words)
        return bool(words) and len(words & said.words) >= SAME_CONTENT * len(words)


def _right_from(task: Task, rows: Sequence[GradedRow]) -> float:
    output = task.settings.output
    shaped = bool(output.labels or output.json_schema or output.regex)
    return 1.0 if shaped or all(row.score in (0.0, 1.0, None) for row in rows) else PARTLY_RIGHT


def _remedy(kind: MistakeKind, rows: int, right_elsewhere: Mapping[str, int]) -> str:
    """What helps; no larger model where a rung that was climbed has most of these rows right."""
    rung, hits = max(right_elsewhere.items(), key=lambda item: item[1], default=("", 0))
    if kind is MistakeKind.REASONING and 2 * hits >= rows:
        sentence = "the shape is right and the content is wrong"
        return f"{sentence}: {rung} has {hits:,} of these {rows:,} right, so no larger model is needed"
    return REMEDIES[kind]


def row_rung(rows: Sequence[GradedRow]) -> str:
    return rows[0].rung if rows else ""


def _below(row: GradedRow, line: float) -> bool:
    return row.score is not None and row.score < line - 1e-9


def _parse(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _gold(asked: Sequence[Example], rows: Sequence[Example], chunks: Sequence[Chunk]) -> dict[str, frozenset[str]]:
    """Gold passages of every row by their ids, and their documents beside them."""
    passages = GoldPassages(chunks, rows)
    found = {}
    for row in asked:
        inside = [chunks[index] for index in passages.of(row)]
        gold = frozenset({*row.sources, *(chunk.document for chunk in inside), *(chunk.id for chunk in inside)})
        if gold:
            found[row.id] = gold
    return found
