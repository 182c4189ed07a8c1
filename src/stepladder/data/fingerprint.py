"""What rows say, as hashes: equal content, equal hash, whatever the order, line or file."""

from __future__ import annotations

from collections.abc import Iterable

from stepladder.data.normalise import plain_form, search_text
from stepladder.domain.messages import Example, Message
from stepladder.files import hash_json


def fingerprint(examples: Iterable[Example]) -> str:
    """sha256 of the rows' content in hex; independent of their order and of where they stand."""
    return hash_json(sorted(_row_hash(example) for example in examples))


def content_hash(example: Example) -> str:
    """Hash of a row's question and expected answer; ids, metadata and recorded answers do not count."""
    turns = [_turn(message) for message in (*example.input.messages, example.reference)]
    return hash_json([turns, [dict(tool) for tool in example.input.tools]])


def input_hash(example: Example) -> str:
    """Hash of the question alone, letter case, punctuation and white space aside."""
    return hash_json([plain_form(search_text(example.input)), [dict(tool) for tool in example.input.tools]])


def _row_hash(example: Example) -> str:
    rest: list[object] = [example.id, dict(example.metadata), list(example.sources), example.recorded]
    if example.rejected is not None:  # so that rows without one keep the hash they always had
        rest.append(_turn(example.rejected))
    return hash_json([content_hash(example), rest])


def _turn(message: Message) -> list[object]:
    return [message.as_chat(), message.weight]
