"""OpenAI chat rows: {"messages": [...], "tools": [...]}; the last assistant turn is the reference."""

from __future__ import annotations

from typing import Any

from stepladder.data.readers.draft import Draft, Row, read_beside, write_beside
from stepladder.data.readers.turns import read_tools, read_turns, write_tools, write_turns
from stepladder.domain.messages import Example
from stepladder.domain.task import DataSettings

NAME = "OpenAI chat"
EXPECTED = '{"messages": [{"role": …, "content": …}, …]}'


def matches(row: Row, settings: DataSettings) -> bool:
    return "messages" in row.values


def complete(row: Row) -> bool:
    return True


def read(row: Row, settings: DataSettings, *, labelled: bool) -> Draft:
    """Turns before the last are input. Without `labelled`, a last assistant turn is left out and may be absent."""
    notes: set[str] = set()
    turns = read_turns(row, row.values["messages"], "messages", notes)
    answered = turns[-1].role == "assistant"
    if labelled and not answered:
        problem = f"the last message is of the {turns[-1].role}, not of the assistant."
        raise row.fault(problem, "The last assistant turn is the expected answer: add it, or drop the line.")
    beside = read_beside(row, settings, {"messages", "tools"})
    return Draft(
        row=row,
        messages=turns[:-1] if answered else turns,
        reference=turns[-1] if labelled else None,
        tools=read_tools(row),
        turn_keys=("messages",),
        notes=tuple(sorted(notes)),
        **beside,
    )


def write(example: Example, settings: DataSettings) -> dict[str, Any]:
    """The row that `read` takes for `example`."""
    turns = write_turns((*example.input.messages, example.reference))
    return {"messages": turns, **write_tools(example), **write_beside(example, settings)}
