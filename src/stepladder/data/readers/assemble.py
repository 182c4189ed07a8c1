"""Drafts to examples: what needs all rows at once. Ids, and the instruction that the rows share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepladder.data.readers.draft import Draft
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input
from stepladder.files import hash_json


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Examples as read. `notes` are for the user: the guessed shape and everything that was read in a special way.

    `shared_instruction` is the system message of every row, which is not in the inputs any more. `given` says which rows the
    user's own files put into which split ("train", "validation", "test"); empty when Stepladder splits.
    """

    examples: tuple[Example, ...]
    shape: str
    notes: tuple[str, ...]
    shared_instruction: str | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    file_of: Mapping[str, Path] = field(default_factory=dict)  # example id -> its file


def name_rows(drafts: Sequence[Draft]) -> list[str]:
    """An id for each row: its own, else one from its input, which adding or moving rows does not change.

    The reference is left out, so that a corrected answer keeps the row's id. Equal inputs get -2, -3 …

    Raises:
        DataError: Two rows carry the same id.
    """
    first: dict[str, Draft] = {}
    for draft in drafts:
        if draft.id is None:
            continue
        if (earlier := first.setdefault(draft.id, draft)) is not draft:
            other = f"line {earlier.row.line}" if earlier.row.path == draft.row.path else f"{earlier.row.path}:{earlier.row.line}"
            raise draft.row.fault(f"the id '{draft.id}' stands on {other} too.", "Give every row its own id.")
    taken = set(first)
    names: list[str] = []
    for draft in drafts:
        name = draft.id if draft.id is not None else _free_name(_name_of_input(draft), taken)
        taken.add(name)
        names.append(name)
    return names


def shared_system_text(drafts: Sequence[Draft]) -> str | None:
    """The text of the system message that every row begins with; None when they differ or a row has none."""
    texts = {draft.messages[0].content if draft.messages[0].role == "system" else None for draft in drafts}
    return texts.pop() if len(texts) == 1 else None


def to_input(draft: Draft, name: str, shared_instruction: str | None) -> Input:
    """The row's question, without the system message that is the instruction."""
    messages = draft.messages
    if shared_instruction is not None and messages[0].role == "system" and messages[0].content == shared_instruction:
        messages = messages[1:]
    return Input(name, messages, draft.tools)


def to_example(draft: Draft, name: str, shared_instruction: str | None) -> Example:
    """The row with its reference.

    Raises:
        DataError: The row has no reference.
    """
    if draft.reference is None:
        raise draft.row.fault("the expected answer is missing.", "Add it, or drop the line.")
    return Example(
        input=to_input(draft, name, shared_instruction),
        reference=draft.reference,
        metadata=draft.metadata,
        sources=draft.sources,
        recorded=draft.recorded,
        rejected=draft.rejected,
        line=draft.row.line,
    )


def attach_recorded(examples: Sequence[Example], answers: Mapping[str, tuple[int, str]], path: Path) -> tuple[Example, ...]:
    """Examples with the answers of the present system, `answers[id] = (line, text)`.

    Raises:
        DataError: An id is unknown, or a row has no answer.
    """
    known = {example.id for example in examples}
    for name, (line, _) in answers.items():
        if name not in known:
            raise DataError(path, line, f"no row has the id '{name}'.", "Use the ids of the examples.")
    for example in examples:
        if example.id not in answers:
            raise DataError(path, None, f"there is no answer for the row '{example.id}'.", "Add one for every row.")
    return tuple(dataclasses.replace(example, recorded=answers[example.id][1]) for example in examples)


def _name_of_input(draft: Draft) -> str:
    turns = [message.as_chat() for message in draft.messages]
    return "r" + hash_json([turns, list(draft.tools)])[:12]


def _free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
