"""The promise of the readers: every string of a row arrives somewhere in its example, or the row is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from stepladder.data.readers.draft import Draft

# Words of the format itself; the readers have checked them, and a `Message` says them in its own way.
_FORMAT_WORDS = re.compile(r"^\[\d+\]\.(role|from|tool_calls\[\d+\]\.type)$")
_PARTS = re.compile(r"^\[\d+\]\.content\[\d+\]\.(type|text)$")


def check_nothing_lost(draft: Draft) -> None:
    """Compare the row's strings with the draft's, each as often as it occurs.

    Raises:
        DataError: Names the field that did not arrive.
    """
    carried = Counter(_carried(draft))
    missing: list[tuple[str, str]] = []
    for place, text in _row_strings(draft):
        if text == "":
            continue
        if carried[text] > 0:
            carried[text] -= 1
        else:
            missing.append((place, text))
    if not missing:
        return
    inside = Counter(text for whole in (+carried).elements() for text in _inside_json(whole))
    for place, text in missing:
        if inside[text] == 0:
            raise draft.row.fault(
                f"'{place}' would be lost.", "Move it to a key of its own, which becomes metadata, or remove it."
            )
        inside[text] -= 1


def _carried(draft: Draft) -> Iterator[str]:
    for message in (*draft.messages, *(turn for turn in (draft.reference, draft.rejected) if turn is not None)):
        yield message.content
        yield from (text for text in (message.name, message.tool_call_id) if text is not None)
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    for tool in draft.tools:
        yield from (text for _, text in _strings(tool, ""))
    yield from draft.metadata.values()
    yield from draft.sources
    yield from (text for text in (draft.id, draft.recorded) if text is not None)


def _row_strings(draft: Draft) -> Iterator[tuple[str, str]]:
    """Every string of the row with its place, but the words of the message format; joined text parts count as one."""
    turns = {place: _at(draft.row.values, place) for place in draft.turn_keys}
    for place, text in _strings(draft.row.values, ""):
        inside = next((place[len(start) :] for start in turns if place.startswith(f"{start}[")), "")
        if not _FORMAT_WORDS.match(inside) and not _PARTS.match(inside):
            yield place, text
    for place, value in turns.items():
        for index, turn in enumerate(value):
            if isinstance(turn.get("content"), list):
                yield f"{place}[{index}].content", "\n".join(part["text"] for part in turn["content"])


def _at(values: Any, place: str) -> Any:
    """What stands at a place such as "input.messages"; a key may hold a point itself."""
    if place in values:
        return values[place]
    for key in place.split("."):
        values = values[key]
    return values


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every string in `value` with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{place}[{index}]")


def _inside_json(text: str) -> Iterator[str]:
    """Strings inside a text that a reader wrote as JSON, because a row held an object or a list there."""
    if text[:1] not in ("{", "["):
        return
    try:
        value = json.loads(text)
    except ValueError:
        return
    yield from (inner for _, inner in _strings(value, ""))
