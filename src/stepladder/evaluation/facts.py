"""Facts in the references: what no training should be asked to teach.

A *fact* is an open-vocabulary span of a reference (a name, number, date or code; not a label, enum value or key) that is
absent from the input, seen in fewer than two training clusters, and not produced by the model without help.

Names are found by their capital letters, so a language that capitalises all nouns yields more candidates; that the span must
be missing from input, training and the model's own answers keeps ordinary words out. A free-text reference of a few words is
one span as a whole ("photosynthesis", "below the roof") when it holds none of these: that is what answers read off documents
look like. It is none where half of its words stand in the input, since then the input is reworded and nothing is looked up.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from stepladder.domain.answer import expected_answer, parameters_of, parse_arguments
from stepladder.domain.messages import Example
from stepladder.domain.task import Task

SHORT_VALUE_WORDS = 4
"""A string field of at most so many words is taken as one span; a longer one is searched for names and numbers."""

SHORT_ANSWER_WORDS = 6
"""A free-text reference of at most so many words is one span."""
CONTENT_LETTERS = 4
"""Words from here on say what a short answer is about; an ending of up to two letters aside."""

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"\b\d{{4}}-\d{{2}}-\d{{2}}\b|\b\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}\b"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:{_MONTHS})(?:\s+\d{{4}})?\b|\b(?:{_MONTHS})\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b"
)
_CODE = re.compile(r"https?://\S*[\w/]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\b(?=[\w-]*[A-Za-z])(?=[\w-]*\d)\w+(?:-\w+)*\b")
_NUMBER = re.compile(r"\d+(?:[,.:]\d+)*")
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_WRITTEN_OUT = {
    **{name[:3]: name for name in (*_DAYS.split(), *_MONTHS.casefold().split("|"))},
    "tues": "tuesday",
    "thur": "thursday",
    "thurs": "thursday",
    "sept": "september",
}
_WORD = re.compile(r"[^\W\d_][\w'’&-]*")
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\"“”(*•-])\s*$")
_JOINERS = frozenset({"of", "the", "and", "de", "la", "von", "van", "der", "du", "&"})
_PLAIN_CAPITALS = frozenset({"I", "I'm", "I'll", "I've", "I'd", "I’m", "I’ll", "I’ve", "I’d", "OK"})


def open_spans(text: str) -> tuple[str, ...]:
    """Names, numbers, dates and codes of a free text, in order of their kind, each once.

    A single capitalised word at the start of a sentence is no name.
    """
    found: list[str] = []
    for pattern in (_DATE, _CODE, _NUMBER):
        found += [match.group().strip() for match in pattern.finditer(text)]
        text = pattern.sub(lambda match: " " * len(match.group()), text)
    found += _names(text)
    return tuple(dict.fromkeys(found))


def _names(text: str) -> Iterator[str]:
    """Runs of capitalised words, small joining words inside allowed."""
    run: list[re.Match[str]] = []
    for word in _WORD.finditer(text):
        gap = text[run[-1].end() : word.start()] if run else " "
        if run and gap.strip(" \t") != "":
            yield from _name(run, text)
            run = []
        capital = word.group()[0].isupper() and word.group() not in _PLAIN_CAPITALS
        if capital or (run and word.group() in _JOINERS):
            run.append(word)
        elif run:
            yield from _name(run, text)
            run = []
    if run:
        yield from _name(run, text)


def _name(run: list[re.Match[str]], text: str) -> Iterator[str]:
    while run and run[-1].group() in _JOINERS:
        run = run[:-1]
    if run and _SENTENCE_END.search(text[: run[0].start()]):
        run = run[1:]  # its capital may come from its place
        while run and run[0].group() in _JOINERS:
            run = run[1:]
    if run:
        yield text[run[0].start() : run[-1].end()]


def reference_spans(example: Example, task: Task) -> tuple[str, ...]:
    """The open-vocabulary spans of a row's reference; none for closed labels. Of a tool call, its arguments' values."""
    if example.reference.tool_calls:
        return tuple(dict.fromkeys(span for span in _call_spans(example) if span))
    if task.settings.output.labels or any(grader.type == "labels" for grader in task.settings.decided_graders()[:1]):
        return ()
    text = example.reference.content
    schema = task.output_schema
    if schema is None:
        return open_spans(text)
    try:
        value = json.loads(text)
    except ValueError:
        return open_spans(text)
    return tuple(dict.fromkeys(span for span in _value_spans(value, schema, schema) if span))


def short_answer(example: Example, task: Task) -> str | None:
    """The whole reference where it is a few words of free text; None for labels, JSON, tool calls, style, longer answers."""
    if example.reference.tool_calls or task.output_schema is not None or task.settings.output.regex is not None:
        return None
    output = task.settings.output
    if output.style or output.labels or any(grader.type == "labels" for grader in task.settings.decided_graders()[:1]):
        return None
    text = example.reference.content.strip()
    return text if 0 < len(text.split()) <= SHORT_ANSWER_WORDS and text[0] not in "{[" else None


def _call_spans(example: Example) -> Iterator[str]:
    yield from open_spans(example.reference.content)
    for call in example.reference.tool_calls:
        schema = parameters_of(call.name, example.input.tools)
        yield from _value_spans(parse_arguments(call.arguments) or {}, schema, schema)


def _value_spans(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[str]:
    schema = _resolved(schema, root)
    if "enum" in schema or "const" in schema:
        return
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for key, child in value.items():
            yield from _value_spans(child, properties.get(key, {}), root)
    elif isinstance(value, list):
        for child in value:
            yield from _value_spans(child, schema.get("items", {}), root)
    elif isinstance(value, str):
        yield from (value.strip(),) if len(value.split()) <= SHORT_VALUE_WORDS else open_spans(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema behind a local `$ref`, or the one branch of `anyOf`/`oneOf` that is not null; {} for anything odd."""
    for _ in range(8):  # a chain this long is a circle
        if not isinstance(schema, Mapping):
            return {}
        if str(schema.get("$ref", "")).startswith("#/"):
            target: Any = root
            for part in str(schema["$ref"])[2:].split("/"):
                target = target.get(part, {}) if isinstance(target, Mapping) else {}
            schema = target
            continue
        branches = [branch for branch in schema.get("anyOf", schema.get("oneOf", [])) if branch != {"type": "null"}]
        if len(branches) != 1:
            return schema
        schema = branches[0]
    return {}


class Haystack:
    """A text that can be asked whether it holds a span: whole words, letter case aside, numbers by value."""

    def __init__(self, text: str) -> None:
        self._text = f" {_plain(text)} "
        self.numbers = {number for match in _NUMBER.findall(text) if (number := _number(match)) is not None}

    @property
    def words(self) -> set[str]:
        """The text's words, letter case aside."""
        return set(self._text.split())

    def holds_words_of(self, name: str) -> bool:
        """Whether every word of a name of several stands here, in any order: "Mrs Brennan" in "Mrs Aoife Brennan"."""
        words = Haystack(name).words - _JOINERS
        return len(words) > 1 and words <= self.words

    def holds_most_of(self, answer: str) -> bool:
        """Whether half of an answer's content words stand here, in any order; of one without such words, half of all."""
        words = Haystack(answer).words
        content = {word for word in words if len(word) >= CONTENT_LETTERS} or words
        stems = {_stem(word) for word in self.words}
        return 2 * sum(_stem(word) in stems for word in content) >= len(content)

    def __contains__(self, span: object) -> bool:
        number = _number(str(span))
        if number is not None and number in self.numbers:
            return True
        plain = _plain(str(span))
        return not plain or f" {plain} " in self._text


def _plain(text: str) -> str:
    """Words in small letters, weekdays and months written out, so that "Mon/Thu" holds "Monday" and "9 Jan" "9 January"."""
    return " ".join(_WRITTEN_OUT.get(word, word) for word in re.findall(r"\w+", text.casefold()))


def _stem(word: str) -> str:
    """A long word without its last two letters, so that "walked" and "walker" are one."""
    return word[: max(CONTENT_LETTERS, len(word) - 2)]


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def find_facts(
    examples: Sequence[Example], train_examples: Sequence[Example], clusters: Mapping[str, int], task: Task
) -> dict[str, tuple[str, ...]]:
    """Spans of each row that neither its input, nor the instruction, nor two other training clusters hold.

    They are facts when the model does not produce them closed-book either (`report_facts`).

    Args:
        clusters: Near-duplicate cluster by example id; a row's own cluster does not count as seen.
    Returns:
        By example id, only rows that have such spans.
    """
    training = _Training(train_examples, clusters)
    instruction = Haystack(task.settings.instruction)
    lacking = {}
    for example in examples:
        given = Haystack(example.input.text)
        candidates = reference_spans(example, task)
        spans = [span for span in candidates if span not in given and span not in instruction and not given.holds_words_of(span)]
        whole = short_answer(example, task)
        if not candidates and whole and whole not in instruction and not given.holds_most_of(whole):
            spans = [whole]
        own = clusters.get(example.id)
        unseen = tuple(span for span in spans if training.clusters_with(span, own) < 2)
        if unseen:
            lacking[example.id] = unseen
    return lacking


class _Training:
    """References that can be asked in how many clusters a span occurs. An index by word spares reading all of them each time."""

    def __init__(self, examples: Sequence[Example], clusters: Mapping[str, int]) -> None:
        self._clusters = [clusters.get(example.id) for example in examples]
        self._texts = [Haystack(expected_answer(example)) for example in examples]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        self._with_number: dict[Decimal, list[int]] = defaultdict(list)
        for place, text in enumerate(self._texts):
            for word in text.words:
                self._with_word[word].append(place)
            for number in text.numbers:
                self._with_number[number].append(place)

    def clusters_with(self, span: str, own: int | None) -> int:
        """Clusters other than `own` whose references hold the span, counted up to two; a row without a cluster is its own."""
        seen: set[object] = set()
        for place in self._candidates(span):
            cluster = self._clusters[place]
            if (cluster is None or cluster != own) and span in self._texts[place]:
                seen.add(("row", place) if cluster is None else cluster)
                if len(seen) == 2:
                    break
        return len(seen)

    def _candidates(self, span: str) -> Sequence[int]:
        words = _plain(span).split()
        if not words:
            return range(len(self._texts))
        holding: list[list[int]] = [self._with_word.get(word, []) for word in words]
        rarest = min(holding, key=len)
        rows = set(rarest)
        number = _number(span)
        if number is not None:
            rows |= set(self._with_number.get(number, []))
        return sorted(rows)


@dataclass(frozen=True, slots=True)
class FactReport:
    """The facts of the validation rows: by row id, and the share of rows that have any."""

    facts: Mapping[str, tuple[str, ...]]
    rows: int

    @property
    def share(self) -> float:
        return len(self.facts) / self.rows if self.rows else 0.0


def report_facts(lacking: Mapping[str, tuple[str, ...]], draws: Mapping[str, Sequence[str]], rows: int) -> FactReport:
    """Strike out what the model produced closed-book.

    Args:
        lacking: What `find_facts` found.
        draws: The model's answers to each row of `lacking` without documents: one greedy and some drawn.
        rows: Number of validation rows looked at.
    """
    facts = {}
    for row, spans in lacking.items():
        said = [Haystack(text) for text in draws.get(row, ())]
        left = tuple(span for span in spans if not any(span in text for text in said))
        if left:
            facts[row] = left
    return FactReport(facts, rows)
