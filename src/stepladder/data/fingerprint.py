"""What rows say, as hashes: equal content, equal hash, whatever the order, line or file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from stepladder.data.normalise import plain_form
from stepladder.domain.answer import canonical_message
from stepladder.domain.messages import Example, Input, Message
from stepladder.files import hash_json


def fingerprint(examples: Iterable[Example]) -> str:
    """sha256 of the rows' content in hex; independent of their order and of where they stand."""
    return hash_json(sorted(_row_hash(example) for example in examples))


def content_hash(example: Example) -> str:
    """Hash of a row's question and expected answer; ids (also of expected calls), metadata and recorded answers do not count."""
    reference = canonical_message(example.reference, example.input.tools)
    reference = replace(reference, tool_calls=tuple(replace(call, id="") for call in reference.tool_calls))
    turns = [_turn(message) for message in (*example.input.messages, reference)]
    return hash_json([turns, [dict(tool) for tool in example.input.tools]])


def input_hash(example: Example) -> str:
    """Hash of the question alone, letter case, punctuation and white space aside."""
    return question_hash(example.input)


def question_hash(item: Input) -> str:
    """As `input_hash`, of a question that has no answer yet."""
    return hash_json([plain_form(item.text), [dict(tool) for tool in item.tools]])


def _row_hash(example: Example) -> str:
    rest: list[object] = [example.id, dict(example.metadata), list(example.sources), example.recorded]
    if example.rejected is not None:  # so that rows without one keep the hash they always had
        rest.append(_turn(example.rejected))
    return hash_json([content_hash(example), rest])


def _turn(message: Message) -> list[object]:
    return [message.as_chat(), message.weight]
