"""Do the expected answers follow `[output]`? They are brought into the project's one form on the way."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jsonschema_rs
from rapidfuzz import process

from stepladder.data.patterns import NotMatched, Pattern
from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.answer import canonical_message, parse_arguments
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example
from stepladder.domain.output import canonical_text
from stepladder.domain.task import Task

Check = Callable[[str], str | None]
"""What is wrong with an answer, in a sentence; None when nothing is."""
CALL_HINT = 'Write them as text, such as "{\\"city\\": \\"Graz\\"}".'


def conform(task: Task, examples: tuple[Example, ...], file_of: Mapping[str, Path]) -> tuple[Example, ...]:
    """The examples with references in canonical form; tool calls among them, which `[output]` does not speak of.

    Raises:
        DataError: A reference does not follow the schema, the labels or the pattern, or a call's arguments are no JSON object
            (its line is named); or the schema or pattern is itself broken.
    """
    conformer = Conformer(task)
    conformed = []
    for example in examples:
        if (problem := conformer.problem(example)) is not None:
            raise DataError(file_of[example.id], example.line, problem, conformer.hint(example))
        conformed.append(conformer.canonical(example))
    return tuple(conformed)


class Conformer:
    """Judges one answer after another by `[output]`.

    Raises:
        DataError: `[output]` is itself broken.
    """

    def __init__(self, task: Task) -> None:
        self._schema = task.output_schema
        self._check, self._hint = _build_check(task)

    def problem(self, example: Example) -> str | None:
        """What is wrong with a row's reference, in a sentence; None when nothing is. `[output]` does not speak of tool calls."""
        if example.reference.tool_calls:
            broken = next((call for call in example.reference.tool_calls if parse_arguments(call.arguments) is None), None)
            return None if broken is None else f"the arguments of the expected call '{broken.name}' are not a JSON object."
        return self._check(example.reference.content.strip())

    def hint(self, example: Example) -> str:
        """What to do about a wrong reference."""
        return CALL_HINT if example.reference.tool_calls else self._hint

    def canonical(self, example: Example) -> Example:
        """The row with its reference in the project's one form."""
        if example.reference.tool_calls:
            return dataclasses.replace(example, reference=canonical_message(example.reference, example.input.tools))
        text = canonical_text(example.reference.content.strip(), self._schema)
        return dataclasses.replace(example, reference=dataclasses.replace(example.reference, content=text))


def _build_check(task: Task) -> tuple[Check, str]:
    output = task.settings.output
    if (schema := task.output_schema) is not None:
        return _schema_check(task, schema), f"Correct the answer, or the schema {output.json_schema}."
    if output.labels:
        return _label_check(output.labels), "Correct the answer, or add it to `[output] labels`."
    if output.regex is not None:
        return _regex_check(task, output.regex), "Correct the answer, or `[output] regex`."
    return (lambda text: None), ""


def _schema_check(task: Task, schema: Mapping[str, Any]) -> Check:
    try:
        validator = jsonschema_rs.validator_for(dict(schema), retriever=_fetch_nothing)
    except ValueError as error:
        path = task.path(task.settings.output.json_schema or "")
        raise DataError(path, None, f"not a JSON Schema: {_first_line(error)}.", "Correct the schema.") from error

    def check(text: str) -> str | None:
        try:
            value = parse_json(text)
        except JsonFault as fault:
            return f"the answer is {fault}" if str(fault).startswith("not JSON") else f"the answer: {fault}"
        for error in validator.iter_errors(value):
            place = ".".join(str(part) for part in error.instance_path)
            return f"the answer does not follow the schema: {f'{place}: ' if place else ''}{error.message}."
        return None

    return check


def _label_check(labels: tuple[str, ...]) -> Check:
    def check(text: str) -> str | None:
        if text in labels:
            return None
        closest = process.extractOne(text, labels, processor=str.casefold)
        meant = f" Did you mean '{closest[0]}'?" if closest and closest[1] >= 60 else ""
        return f"the answer '{text[:60]}' is not one of the labels.{meant}"

    return check


def _regex_check(task: Task, pattern: str) -> Check:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        problem = f"`[output] regex` is not a regular expression: {error}."
        raise task.fault(("output", "regex"), problem, "Correct it.") from error
    whole = Pattern(pattern)

    def check(text: str) -> str | None:
        try:
            return None if whole.matches(text) else f"the answer '{text[:60]}' does not match `[output] regex`."
        except NotMatched as reason:
            return f"the answer '{text[:60]}' cannot be held against `[output] regex`: {reason}."

    return check


def _fetch_nothing(address: str) -> NoReturn:
    raise ValueError(f"'{address}' is outside the file, and nothing is fetched")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["it cannot be read"])[0].rstrip(".")
