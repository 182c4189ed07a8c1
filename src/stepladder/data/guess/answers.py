"""The kind of the answers: tool calls, JSON of one schema, a closed list of labels, numbers, short texts or long ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from stepladder.data.guess.closed import closed_set
from stepladder.data.guess.schema import infer_schema
from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example

Kind = Literal["calls", "schema", "labels", "numbers", "short", "long"]
GRADERS: Mapping[Kind, tuple[str, ...]] = {
    "calls": ("tool_calls",),
    "schema": ("json_fields",),
    "labels": ("labels",),
    "numbers": ("numeric", "normalised_match"),
    "short": ("token_f1", "normalised_match"),
    "long": ("chrf", "token_f1"),
}
"""Graders by kind of answer: the first decides."""

SHORT_CHARACTERS = 60
MEANT_AS_JSON = 0.8
"""Share of JSON answers from which on the others are taken for mistakes."""
_NUMBER = re.compile(r"[-+−]?([0-9]{1,3}(,[0-9]{3})+|[0-9]+)(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class AnswerGuess:
    """What kind the answers are and why; `doubts` are lines the user should read."""

    kind: Kind
    why: str
    schema: Mapping[str, Any] | None = None
    labels: tuple[str, ...] = ()
    doubts: tuple[str, ...] = field(default=())

    @property
    def graders(self) -> tuple[str, ...]:
        return GRADERS[self.kind]


def guess_answers(examples: Sequence[Example], file_of: Mapping[str, Path]) -> AnswerGuess:
    """The kind of the references.

    Raises:
        DataError: Nearly all answers are JSON, but this one is not.
    """
    if wants_tool_calls(examples):
        return AnswerGuess("calls", "answers are tool calls, or some of them")
    texts = [example.reference.content.strip() for example in examples]
    values = _json_values(examples, texts, file_of)
    if values:
        schema = infer_schema(values)
        return AnswerGuess("schema", _why_schema(schema, len(values)), schema=schema)
    if labels := closed_set(texts):
        why = f"{len(labels)} different answers in {len(texts)} rows, all short, nearly all of them repeated"
        return AnswerGuess("labels", why, labels=labels, doubts=tuple(_label_doubts(labels, texts)))
    if all(_NUMBER.fullmatch(text) for text in texts):
        return AnswerGuess("numbers", "every answer is a number", doubts=_same_doubts(texts))
    middle = median(map(len, texts))
    kind: Kind = "short" if middle <= SHORT_CHARACTERS else "long"
    why = f"half of the answers have {middle:.0f} characters or fewer, and they hardly repeat"
    doubts = list(_same_doubts(texts))
    if kind == "long":
        doubts.append("chrF compares characters with one reference: a proxy for quality, not quality.")
    return AnswerGuess(kind, why, doubts=tuple(doubts))


def _json_values(examples: Sequence[Example], texts: Sequence[str], file_of: Mapping[str, Path]) -> list[Any]:
    """The answers as JSON values; none unless all are objects or lists."""
    values: list[Any] = []
    odd: list[tuple[Example, str]] = []
    for example, text in zip(examples, texts, strict=True):
        try:
            value = parse_json(text)
        except JsonFault as fault:
            odd.append((example, str(fault)))
            continue
        if isinstance(value, dict | list):
            values.append(value)
        else:
            odd.append((example, "one plain JSON value."))
    if odd and len(values) >= MEANT_AS_JSON * len(examples):
        example, why = odd[0]
        problem = f"{len(values)} of {len(examples)} answers are JSON objects or lists, but this one is {why}"
        raise DataError(file_of[example.id], example.line, problem, "Correct the answer, or drop the line.")
    return [] if odd else values


def _why_schema(schema: Mapping[str, Any], rows: int) -> str:
    properties: Mapping[str, Any] = schema.get("properties", {})
    closed = [key for key, inner in properties.items() if "enum" in inner]
    optional = [key for key in properties if key not in schema.get("required", ())]
    parts = [f"all {rows} answers are JSON"]
    if properties:
        parts.append(f"keys {', '.join(properties)}")
    if closed:
        parts.append(f"few values that repeat in {', '.join(closed)}")
    if optional:
        parts.append(f"sometimes missing: {', '.join(optional)}")
    return "; ".join(parts)


def _label_doubts(labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    counts = Counter(texts)
    doubts = []
    if once := [label for label in labels if counts[label] == 1]:
        doubts.append(f"Answers that occur once (misspelt?): {', '.join(once)}.")
    folded = Counter(label.casefold() for label in labels)
    if same := [label for label in labels if folded[label.casefold()] > 1]:
        doubts.append(f"Labels that differ in letter case only, which the grader takes for one: {', '.join(same)}.")
    return doubts


def _same_doubts(texts: Sequence[str]) -> tuple[str, ...]:
    return ("Every answer is the same: there is nothing to learn or to measure.",) if len(set(texts)) == 1 else ()
