"""Answers that are JSON in most rows, and in some are not, have other keys, or values of another type."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from stepladder.data.checks.answer_fields import answer_fields, json_objects
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity

MAJORITY = 0.75
RARE = 0.2
FEWEST = 10
FEWEST_NULLS = 3
NULL_WORDS = frozenset({"", "null", "none", "nil", "n/a", "na", "-", "undefined"})


def find_syntax(context: CheckContext) -> list[Finding]:
    objects = json_objects(context)
    if objects is None or len(objects) < MAJORITY * len(context.rows):
        return []
    whole = {place for place, _ in objects}
    off_output = {fault.id for fault in context.faults if fault.kind == "off-output"}
    rows = [row for place, row in enumerate(context.rows) if place not in whole and row.id not in off_output]
    return finding(
        "format-json",
        Severity.WARN,
        (row.mark(f"the answer is {quote(row.reference)}") for row in rows),
        "{rows} have an answer that is no JSON object, and the others have one.",
        "Write the same kind of answer everywhere; `[output] schema` then holds every row to it.",
    )


def find_keys(context: CheckContext) -> list[Finding]:
    """Keys that nearly all rows have, or hardly any. Where a schema says what is allowed, its word counts."""
    objects = json_objects(context)
    if objects is None or len(objects) < FEWEST or context.task.output_schema is not None:
        return []
    counts = Counter(key for _, value in objects for key in value)
    usual = {key for key, count in counts.items() if count > MAJORITY * len(objects)}
    odd = {key for key, count in counts.items() if count <= max(1, RARE * len(objects))}
    if not usual:
        return []
    marks: list[Mark] = []
    for place, value in objects:
        said = [f"without {key!r}" for key in sorted(usual - value.keys())] + [
            f"with {key!r}" for key in sorted(odd & value.keys())
        ]
        if said:
            marks.append(context.rows[place].mark(", ".join(said)))
    if len(marks) > 0.3 * len(objects):
        return []  # fields that come and go are how this task is
    return finding(
        "format-keys",
        Severity.WARN,
        marks,
        "{rows} have other keys in their answer than the rest.",
        "Use one set of keys; write null for what is absent.",
    )


def find_types(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    for field in answer_fields(context):
        if len(field.values) < FEWEST or not field.path:
            continue
        kinds = Counter(_kind(value) for _, value in field.values)
        common, count = kinds.most_common(1)[0]
        if count < MAJORITY * len(field.values) and kinds[common] + kinds["null"] < MAJORITY * len(field.values):
            continue
        for place, value in field.values:
            kind = _kind(value)
            if kind != common and kinds[kind] <= max(1, RARE * len(field.values)) and not _allowed_null(context, kind):
                marks.append(context.rows[place].mark(f"{field.name()} is a {kind}, elsewhere a {common}"))
    marks += [*_containers(context), *_word_numbers(context), *_written_nulls(context)]
    return finding(
        "format-types",
        Severity.WARN,
        marks,
        "{rows} write a value in another type than the other rows.",
        "Write it as the others do; `[output] schema` then holds every row to it.",
    )


def _containers(context: CheckContext) -> list[Mark]:
    """Keys that hold a plain value nearly everywhere and a list or an object in a few rows, or the other way round."""
    values: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for place, answer in json_objects(context) or []:
        for key, value in answer.items():
            kind = "list" if isinstance(value, list) else "object" if isinstance(value, dict) else "plain value"
            values[key].append((place, kind))
    marks = []
    for key, own in values.items():
        kinds = Counter(kind for _, kind in own)
        common, count = kinds.most_common(1)[0]
        if len(own) >= FEWEST and count >= (1 - RARE) * len(own):
            odd = [(place, kind) for place, kind in own if kind != common]
            marks += [context.rows[place].mark(f"'{key}' is of the kind {kind}, elsewhere {common}") for place, kind in odd]
    return marks


def _word_numbers(context: CheckContext) -> list[Mark]:
    """Text fields that hold numbers or truth values nearly everywhere, and words in a few rows."""
    marks = []
    for field in answer_fields(context):
        texts = field.texts
        numeric = [place for place, text in texts if text.strip().lstrip("-").replace(".", "", 1).isdigit()]
        if len(texts) >= FEWEST and (1 - RARE) * len(texts) <= len(numeric) < len(texts):
            for place, text in texts:
                if place not in set(numeric):
                    marks.append(context.rows[place].mark(f"{field.name()} is {quote(text)}, elsewhere a number"))
    return marks


def _written_nulls(context: CheckContext) -> list[Mark]:
    """Fields that are null in some rows, and in a few hold a text that only stands for it."""
    marks = []
    for field in answer_fields(context):
        nulls = sum(value is None for _, value in field.values)
        written = [(place, text) for place, text in field.texts if text.strip().casefold() in NULL_WORDS]
        if field.path and FEWEST_NULLS <= nulls > len(written):
            marks += [context.rows[place].mark(f"{field.name()} is {quote(text)}, elsewhere null") for place, text in written]
    return marks


def _allowed_null(context: CheckContext, kind: str) -> bool:
    return kind == "null" and context.task.output_schema is not None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "truth value"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "list"


SYNTAX = Check(
    "format-json", "Answers that are no JSON object (broken, or prose) where three of four answers are one.", find_syntax
)
KEYS = Check(
    "format-keys",
    "JSON answers without a key that three of four have, or with one that hardly any has. Not with a schema.",
    find_keys,
)
TYPES = Check(
    "format-types",
    'Values of another type than in the other rows ("3" for 3, "yes" for true, "none" for null), '
    "and words where other rows have numbers.",
    find_types,
)
