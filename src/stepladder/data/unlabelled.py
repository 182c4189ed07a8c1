"""Questions without answers: JSONL, CSV, TSV or plain text, to be labelled by a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepladder.data.fingerprint import question_hash
from stepladder.data.readers.assemble import name_rows, shared_system_text, to_input
from stepladder.data.readers.draft import Draft, Row
from stepladder.data.readers.json_lines import read_rows
from stepladder.data.readers.lines import look_at, numbered_lines
from stepladder.data.readers.shapes import read_drafts
from stepladder.data.readers.table import INPUT_NAMES
from stepladder.data.readers.table import SUFFIXES as TABLES
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Input, Message
from stepladder.domain.task import DataSettings

JSON_LINES = {".jsonl", ".json", ".ndjson"}
FEWEST_BLOCKS = 3  # one blank line among many inputs does not make two of them


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """One question, with what stood beside it in its row."""

    input: Input
    metadata: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


def read_unlabelled(path: Path, settings: DataSettings) -> tuple[list[Unlabelled], list[str]]:
    """The different questions of a file, and what to say about it. Answers in it are ignored.

    Plain text holds one question a line; where lines stand in three or more blocks between blank lines, one a block.

    Raises:
        DataError: Anything wrong with the file, or it holds no question.
    """
    if path.suffix.lower() in JSON_LINES | TABLES:
        drafts, notes = _read_rows(path, settings)
    else:
        drafts, notes = _read_text(path)
    shared = shared_system_text(drafts)
    rows = [
        Unlabelled(to_input(draft, name, shared), draft.metadata, draft.sources)
        for draft, name in zip(drafts, name_rows(drafts), strict=True)
    ]
    different: dict[str, Unlabelled] = {}
    for row in rows:
        different.setdefault(question_hash(row.input), row)
    if len(different) < len(rows):
        notes.append(f"{path.name}: {len(rows) - len(different)} ask what another row asks, and are left out.")
    return list(different.values()), notes


def _read_rows(path: Path, settings: DataSettings) -> tuple[list[Draft], list[str]]:
    if path.suffix.lower() in JSON_LINES and settings.input is None:
        settings = settings.model_copy(update={"input": _obvious_key(path)})
    file = read_drafts(path, settings, labelled=False)
    return list(file.drafts), list(file.notes)


def _obvious_key(path: Path) -> str | None:
    """The key of the question in JSONL rows that have none of the known shapes, by the names a table's column may have."""
    look_at(path)
    keys = next((row.values.keys() for row in read_rows(path)), ())
    if "messages" in keys or "prompt" in keys:
        return None
    return next((name for name in INPUT_NAMES if name in keys), None)


def _read_text(path: Path) -> tuple[list[Draft], list[str]]:
    notes = list(look_at(path, may_be_marked=True))
    lines = [(number, text.rstrip("\r\n")) for number, text in numbered_lines(path)]
    blocks = list(_blocks(lines))
    if len(blocks) >= FEWEST_BLOCKS and any(len(block) > 1 for block in blocks):
        kind, parts = "blank line", [(block[0][0], "\n".join(text for _, text in block)) for block in blocks]
    else:
        kind, parts = "line", [(number, text.strip()) for number, text in lines if text.strip()]
    if not parts:
        raise DataError(path, None, "the file holds no text.", "Put one input on each line.")
    ends = "one a line" if kind == "line" else "separated by blank lines"
    notes.insert(0, f"{path.name}: plain text, {len(parts)} {'input' if len(parts) == 1 else 'inputs'}, {ends}.")
    rows = [Row(path, number, {"prompt": text}) for number, text in parts]
    return [Draft(row, (Message("user", row.values["prompt"]),), None) for row in rows], notes


def _blocks(lines: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    block: list[tuple[int, str]] = []
    for number, text in lines:
        if text.strip():
            block.append((number, text))
        elif block:
            yield block
            block = []
    if block:
        yield block
