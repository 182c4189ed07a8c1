"""A row on its way to an example: its turns are known, its id and the instruction it shares with others not yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Message
from stepladder.domain.output import dump_json
from stepladder.domain.task import DataSettings

EMPTY_INPUT = "the input is empty."
EMPTY_ANSWER = "the answer is empty."


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its file."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def fault(self, problem: str, hint: str = "") -> DataError:
        return DataError(self.path, self.line, problem, hint)


@dataclass(frozen=True, slots=True)
class Draft:
    """A row that a shape has understood. `reference` is None for rows that only ask."""

    row: Row
    messages: tuple[Message, ...]
    reference: Message | None
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    recorded: str | None = None
    rejected: Message | None = None
    turn_keys: tuple[str, ...] = ()  # places in the row that hold lists of messages, such as "input.messages"
    notes: tuple[str, ...] = ()  # said once a file

    def __post_init__(self) -> None:
        if not any(message.content.strip() or message.tool_calls for message in self.messages if message.role != "system"):
            raise self.row.fault(EMPTY_INPUT, "Add the text to be answered, or drop the line.")
        if self.reference is not None and not self.reference.content.strip() and not self.reference.tool_calls:
            raise self.row.fault(EMPTY_ANSWER, "Add the expected answer, or drop the line.")


def as_text(value: Any) -> str:
    """A row's value as text: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else dump_json(value)


def read_beside(row: Row, settings: DataSettings, used: set[str]) -> dict[str, Any]:
    """What a row holds beside its turns: `id`, `sources`, `recorded`, and everything else as `metadata`."""
    id_key = settings.id or "id"
    recorded_key = recorded_column(settings)
    values = row.values
    rest = {key: value for key, value in values.items() if key not in used | {id_key, "sources", recorded_key}}
    recorded = values.get(recorded_key)
    return {
        "id": _read_id(row, id_key),
        "sources": _read_sources(row),
        "recorded": None if recorded is None else as_text(recorded),
        "metadata": _read_metadata(rest),
    }


def write_beside(example: Example, settings: DataSettings) -> dict[str, Any]:
    """What `read_beside` takes for the same: the row's keys beside its turns."""
    row: dict[str, Any] = {settings.id or "id": example.id}
    if example.sources:
        row["sources"] = list(example.sources)
    if example.recorded is not None:
        row[recorded_column(settings)] = example.recorded
    if example.metadata:
        row["metadata"] = dict(example.metadata)
    return row


def recorded_column(settings: DataSettings) -> str:
    """The key of the present system's answers; `[data] recorded` may also name a file, which is read elsewhere."""
    named = settings.recorded
    return "recorded" if named is None or named.lower().endswith((".jsonl", ".json")) else named


def _read_id(row: Row, key: str) -> str | None:
    value = row.values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise row.fault(f"'{key}' must be a text or a whole number.", "Correct it, or leave it out.")
    return str(value)


def _read_sources(row: Row) -> tuple[str, ...]:
    value = row.values.get("sources")
    if value is None:
        return ()
    sources = [value] if isinstance(value, str) else value
    if not isinstance(sources, list) or not all(isinstance(source, str) and source for source in sources):
        hint = 'Write "sources": ["documents/NAME.md"].'
        raise row.fault("'sources' must be a list of document names.", hint)
    return tuple(sources)


def _read_metadata(rest: Mapping[str, Any]) -> dict[str, str]:
    """Keys no shape knows, as text; the entries of a `metadata` object one by one."""
    found = {key: as_text(value) for key, value in rest.items() if key != "metadata" and value is not None}
    nested = rest.get("metadata")
    if isinstance(nested, Mapping):
        beside = set(found)
        for key, value in nested.items():
            if value is not None:
                found[key if key not in beside else f"metadata.{key}"] = as_text(value)
    elif nested is not None:
        found["metadata"] = as_text(nested)
    return found
