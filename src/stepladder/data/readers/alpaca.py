"""Alpaca rows: {"instruction": ..., "input": ..., "output": ...}; with an input, the instruction is the system turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepladder.data.readers.draft import Draft, Row, as_text, read_beside, write_beside
from stepladder.data.readers.prompt_completion import JSON_NOTE
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings

NAME = "Alpaca"
EXPECTED = '{"instruction": …, "input": …, "output": …}'
KEYS = ("instruction", "input", "output")
CONVERSATIONS = ("system", "history")
"""Keys of a wider Alpaca that hold turns; metadata is no place for them, since no model would see them."""


def matches(row: Row, settings: DataSettings) -> bool:
    return settings.input is None and "instruction" in row.values and "prompt" not in row.values


def complete(row: Row) -> bool:
    return "output" in row.values


def read(row: Row, settings: DataSettings, *, labelled: bool) -> Draft:
    """An empty or absent input leaves the instruction as the user turn."""
    for key in CONVERSATIONS:
        if row.values.get(key):
            raise row.fault(f"'{key}' would not be shown to a model.", "Write such rows as OpenAI chat: a list of messages.")
    instruction, given = _text(row, "instruction"), _text(row, "input")
    messages = (Message("system", instruction), Message("user", given)) if given else (Message("user", instruction),)
    answer = row.values.get("output")
    if labelled and answer is None:
        raise row.fault("'output' is missing.", "Add the expected answer, or drop the line.")
    return Draft(
        row=row,
        messages=messages,
        reference=Message("assistant", as_text(answer), weight=1.0) if labelled else None,
        notes=(JSON_NOTE,) if labelled and not isinstance(answer, str) else (),
        **read_beside(row, settings, {*KEYS}),
    )


def write(example: Example, settings: DataSettings) -> dict[str, Any]:
    """The row that `read` takes for `example`."""
    turns = [message.content for message in example.input.messages]
    row: Mapping[str, Any] = {
        "instruction": turns[0],
        "input": turns[1] if len(turns) > 1 else "",
        "output": example.reference.content,
    }
    return {**row, **write_beside(example, settings)}


def _text(row: Row, key: str) -> str:
    value = row.values.get(key)
    if value is not None and not isinstance(value, str):
        raise row.fault(f"'{key}' must be a text.", "Correct the line, or drop it.")
    return value or ""
