"""What kind of answers a task has, and whether two of them say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stepladder.data.normalise import plain_form

COPIED = "\x00"
"""Stands for a value that an answer copies from its input: "Adele" in one row and "Adelle" in another are no disagreement."""
FEW_WORDS = 6
SAME_CONTENT = 0.5
"""Share of the shorter free text's words that the longer has: from here on it is another wording, not another answer."""


def parse_answer(text: str) -> Any:
    """An answer that is a JSON object or list; None for any other text."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a JSON answer that hold no others, with their paths; items of a list share one path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, f"{path}[]")
    else:
        yield path, value


def comparable(reference: str, input_text: str, *, copies: bool) -> object:
    """A form of an answer in which equal answers are equal. Without `copies`, what it takes from its input does not count."""
    value = parse_answer(reference)
    if value is None:
        plain = plain_form(reference)
        return COPIED if not copies and len(plain) > 2 and f" {plain} " in f" {input_text} " else plain
    return tuple(sorted((path, _leaf(item, input_text, copies)) for path, item in leaves(value)))


def _leaf(value: Any, input_text: str, copies: bool) -> str:
    if isinstance(value, str):
        plain = plain_form(value)
        return COPIED if not copies and plain and f" {plain} " in f" {input_text} " else plain
    return json.dumps(value)


def another_wording(one: str, other: str) -> bool:
    """Whether two free texts may well say the same in other words: long enough, and most of the shorter stands in the "
    "longer."""
    first, second = set(plain_form(one).split()), set(plain_form(other).split())
    shorter = min(len(first), len(second))
    if f" {plain_form(one)} " in f" {plain_form(other)} " or f" {plain_form(other)} " in f" {plain_form(one)} ":
        return True
    if shorter < FEW_WORDS:
        return False
    return len(first & second) >= SAME_CONTENT * shorter
