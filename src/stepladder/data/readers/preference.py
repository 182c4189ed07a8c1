"""OpenAI preference rows: {"input": {"messages": …}, "preferred_output": […], "non_preferred_output": […]}.

The preferred answer is the reference; the other stays with the example as `rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepladder.data.readers.draft import Draft, Row, read_beside, write_beside
from stepladder.data.readers.turns import read_tools, read_turns, write_tools, write_turns
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings

NAME = "OpenAI preference"
EXPECTED = '{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}'
PREFERRED, REJECTED, PARALLEL = "preferred_output", "non_preferred_output", "parallel_tool_calls"


def matches(row: Row, settings: DataSettings) -> bool:
    given = row.values.get("input")
    return PREFERRED in row.values or (isinstance(given, Mapping) and "messages" in given)


def complete(row: Row) -> bool:
    return True


def read(row: Row, settings: DataSettings, *, labelled: bool) -> Draft:
    """Each output is one assistant message; the input's turns are all input."""
    notes: set[str] = set()
    given = _input(row)
    beside = read_beside(row, settings, {"input", PREFERRED, REJECTED})
    if isinstance(given.get(PARALLEL), bool):
        beside["metadata"] = {**beside["metadata"], f"input.{PARALLEL}": "true" if given[PARALLEL] else "false"}
    keys = ("input.messages", *((PREFERRED, REJECTED) if labelled else ()))
    return Draft(
        row=row,
        messages=read_turns(row, given.get("messages"), "input.messages", notes),
        reference=_output(row, PREFERRED, notes) if labelled else None,
        rejected=_output(row, REJECTED, notes) if labelled else None,
        tools=read_tools(Row(row.path, row.line, given)),
        turn_keys=keys,
        notes=tuple(sorted(notes)),
        **beside,
    )


def write(example: Example, settings: DataSettings) -> dict[str, Any]:
    """The row that `read` takes for `example`."""
    beside = write_beside(example, settings)
    metadata = dict(beside.get("metadata", {}))
    given: dict[str, Any] = {"messages": write_turns(example.input.messages), **write_tools(example)}
    if (parallel := metadata.pop(f"input.{PARALLEL}", None)) is not None:
        given[PARALLEL] = parallel == "true"
    if metadata:
        beside["metadata"] = metadata
    else:
        beside.pop("metadata", None)
    rejected = write_turns([example.rejected]) if example.rejected is not None else []
    return {"input": given, PREFERRED: write_turns([example.reference]), REJECTED: rejected, **beside}


def _input(row: Row) -> Mapping[str, Any]:
    given = row.values.get("input")
    if not isinstance(given, Mapping):
        raise row.fault("'input' must be an object with 'messages'.", f"Write {EXPECTED}.")
    extra = next((key for key, item in given.items() if key not in ("messages", "tools", PARALLEL) and item is not None), None)
    if extra is not None:
        raise row.fault(f"'input' has a key that would be lost: '{extra}'.", "Move it beside 'input', or remove it.")
    if given.get(PARALLEL) is not None and not isinstance(given[PARALLEL], bool):
        raise row.fault(f"'input.{PARALLEL}' must be true or false.", "Correct the line.")
    return given


def _output(row: Row, key: str, notes: set[str]) -> Message:
    turns = read_turns(row, row.values.get(key), key, notes)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise row.fault(f"'{key}' must hold one message of the assistant.", "Correct the line, or drop it.")
    if not turns[0].content.strip() and not turns[0].tool_calls:
        raise row.fault(f"'{key}' is empty.", "Write the answer, or drop the line.")
    return turns[0]
