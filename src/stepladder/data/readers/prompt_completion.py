"""Prompt/completion rows: {"prompt": ..., "completion": ...}, texts or lists of messages, other keys as metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.data.readers.draft import EMPTY_ANSWER, Draft, Row, as_text, read_beside, write_beside
from stepladder.data.readers.turns import read_tools, read_turns, write_tools, write_turns
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings

NAME = "prompt/completion"
EXPECTED = '{"prompt": …, "completion": …}'
JSON_NOTE = "an answer that is not a text was read as its JSON text."


def matches(row: Row, settings: DataSettings) -> bool:
    return (settings.input or "prompt") in row.values


def complete(row: Row) -> bool:
    return "completion" in row.values


def read(row: Row, settings: DataSettings, *, labelled: bool) -> Draft:
    """`[data] input` and `reference` may give the two keys other names."""
    prompt_key, completion_key = settings.input or "prompt", settings.reference or "completion"
    if labelled and completion_key not in row.values:
        raise row.fault(f"'{completion_key}' is missing.", "Add the expected answer, or drop the line.")
    notes: set[str] = set()
    turns = _read_prompt(row, prompt_key, notes)
    reference = None
    if labelled:
        answer = _read_completion(row, completion_key, notes)
        turns, reference = (*turns, *answer[:-1]), answer[-1]
    beside = read_beside(row, settings, {prompt_key, completion_key, "tools"})
    return Draft(
        row=row,
        messages=turns,
        reference=reference,
        tools=read_tools(row),
        turn_keys=tuple(key for key in (prompt_key, completion_key) if _are_turns(row.values.get(key))),
        notes=tuple(sorted(notes)),
        **beside,
    )


def write(example: Example, settings: DataSettings) -> dict[str, Any]:
    """The row that `read` takes for `example`: texts where it is one question and one answer, else lists of messages."""
    messages, answer = example.input.messages, example.reference
    plain = answer == Message("assistant", answer.content, weight=1.0)
    return {
        settings.input or "prompt": messages[0].content if _is_one_question(messages) else write_turns(messages),
        settings.reference or "completion": answer.content if plain else write_turns([answer]),
        **write_tools(example),
        **write_beside(example, settings),
    }


def in_one_form(row: dict[str, Any], rows: Sequence[Mapping[str, Any]], settings: DataSettings) -> dict[str, Any]:
    """`row` with its texts as messages where other rows hold messages: a column has one type."""
    found = dict(row)
    for key, role in ((settings.input or "prompt", "user"), (settings.reference or "completion", "assistant")):
        if isinstance(row.get(key), str) and any(isinstance(other.get(key), list) for other in rows):
            found[key] = [{"role": role, "content": row[key]}]
    return found


def _is_one_question(messages: Sequence[Message]) -> bool:
    return len(messages) == 1 and messages[0] == Message("user", messages[0].content)


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _read_prompt(row: Row, key: str, notes: set[str]) -> tuple[Message, ...]:
    value = row.values[key]
    if isinstance(value, list):
        return read_turns(row, value, key, notes)
    if not isinstance(value, str):
        raise row.fault(f"'{key}' must be a text.", "Correct the line, or drop it.")
    return (Message("user", value),)


def _read_completion(row: Row, key: str, notes: set[str]) -> tuple[Message, ...]:
    value: Any = row.values[key]
    if _are_turns(value):
        turns = read_turns(row, value, key, notes)
        if turns[-1].role != "assistant":
            raise row.fault(f"'{key}' does not end with the assistant.", "Its last message is the expected answer.")
        return turns
    if value is None:
        raise row.fault(EMPTY_ANSWER, "Add the expected answer, or drop the line.")
    if not isinstance(value, str):
        notes.add(JSON_NOTE)
    return (Message("assistant", as_text(value), weight=1.0),)
