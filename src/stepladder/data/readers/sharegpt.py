"""ShareGPT rows: {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}."""

from __future__ import annotations

from typing import Any

from stepladder.data.readers.draft import Draft, Row, read_beside, write_beside
from stepladder.data.readers.turns import read_tools, read_turns, write_tools
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings

NAME = "ShareGPT"
EXPECTED = '{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}'
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
NAMES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}
_HINT = f"Speakers are {', '.join(SPEAKERS)}; write anything else as OpenAI chat."


def matches(row: Row, settings: DataSettings) -> bool:
    return "conversations" in row.values


def complete(row: Row) -> bool:
    return True


def read(row: Row, settings: DataSettings, *, labelled: bool) -> Draft:
    """The last turn of the model is the reference; a text at `system` opens the conversation."""
    said = row.values.get("system")
    if said is not None and not isinstance(said, str):
        raise row.fault("'system' must be a text.", "Correct the line.")
    opening = (Message("system", said),) if said else ()
    turns = (*opening, *read_turns(row, _as_messages(row), "conversations", set()))
    answered = turns[-1].role == "assistant"
    if labelled and not answered:
        raise row.fault(
            "the last turn is not the model's.", "The last turn of 'gpt' is the expected answer: add it, or drop the line."
        )
    return Draft(
        row=row,
        messages=turns[:-1] if answered else turns,
        reference=turns[-1] if labelled else None,
        tools=read_tools(row),
        turn_keys=("conversations",),
        **read_beside(row, settings, {"conversations", "system", "tools"}),
    )


def write(example: Example, settings: DataSettings) -> dict[str, Any]:
    """The row that `read` takes for `example`."""
    row: dict[str, Any] = {"conversations": [_turn(message) for message in (*example.input.messages, example.reference)]}
    return {**row, **write_tools(example), **write_beside(example, settings)}


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"from": NAMES[message.role], "value": message.content}
    return turn if message.weight in (None, 1.0) else {**turn, "weight": int(message.weight)}


def _as_messages(row: Row) -> Any:
    """The turns under the names of OpenAI's; everything else about them is checked there."""
    value = row.values["conversations"]
    if not isinstance(value, list):
        return value
    return [_as_message(row, turn, f"conversations[{index}]") for index, turn in enumerate(value)]


def _as_message(row: Row, turn: Any, place: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise row.fault(f"'{place}' must be an object with 'from' and 'value'.", "Correct the line.")
    extra = next((key for key, item in turn.items() if key not in ("from", "value", "weight") and item is not None), None)
    if extra is not None:
        raise row.fault(f"'{place}' has a key that would be lost: '{extra}'.", "Move it beside 'conversations', or remove it.")
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise row.fault(f"'{place}.from' is {speaker!r}.", _HINT)
    if not isinstance(turn.get("value"), str):
        raise row.fault(f"'{place}.value' must be a text.", "Correct the line.")
    return {"role": SPEAKERS[speaker], "content": turn["value"], **({"weight": turn["weight"]} if "weight" in turn else {})}
