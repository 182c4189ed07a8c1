"""The ways in: a task's examples, any one file of examples, and a file of questions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from stepladder.data.readers import json_lines
from stepladder.data.readers.assemble import ReadResult, attach_recorded, name_rows, shared_system_text, to_example, to_input
from stepladder.data.readers.draft import Draft, as_text, recorded_column
from stepladder.data.readers.lines import look_at
from stepladder.data.readers.references import conform
from stepladder.data.readers.shapes import DraftFile, read_drafts
from stepladder.domain.answer import canonical_answer, wants_tool_calls
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input
from stepladder.domain.task import DataSettings, Task

FILES = ("examples", "train", "validation", "test")


class InputRow(NamedTuple):
    """A question, and its row as it stood in the file."""

    input: Input
    row: Mapping[str, Any]


def read_examples(task: Task, which: str | None = None) -> ReadResult:
    """The task's labelled rows: of all its files, or of one of them ("examples", "train", "validation", "test").

    All files are read either way: ids, and the instruction that the rows share, are a matter of the whole task. References
    are checked against `[output]` and written in the project's one form.

    Raises:
        DataError: Anything wrong with a file; says where, what and what to do.
    """
    data = task.settings.data
    named = {name: getattr(data, name) for name in FILES if getattr(data, name)}
    if which is not None and which not in named:
        raise task.fault(("data",), f"`[data]` names no {which} file.", f"Set `[data] {which}`.")
    files = {name: read_drafts(task.path(path), data, labelled=True) for name, path in named.items()}
    result = _assemble(files)
    examples = conform(task, result.examples, result.file_of)
    examples = _canonical_recorded(_with_recorded(task, examples, result.file_of))
    _check_sources(task, examples, result.file_of)
    if which is None:
        return ReadResult(examples, result.shape, result.notes, result.shared_instruction, result.given, result.file_of)
    kept = tuple(example for example in examples if result.given.get(example.id, "examples") == which)
    ids = {example.id for example in kept}
    return ReadResult(
        kept,
        files[which].shape,
        (*files[which].notes, *_common_notes(list(files.values()), result.shared_instruction)),
        result.shared_instruction,
        {name: split for name, split in result.given.items() if name in ids},
        {name: file for name, file in result.file_of.items() if name in ids},
    )


def read_file(path: Path | str, settings: DataSettings | None = None) -> ReadResult:
    """One file of labelled rows, without a look at a task's output, documents or other files.

    `settings` name columns and keys; without them they go by their usual names.

    Raises:
        DataError: Anything wrong with the file.
    """
    settings = settings or DataSettings(examples=Path(path).name)
    return _assemble({"examples": read_drafts(Path(path), settings, labelled=True)})


def read_labelled(path: Path | str, task: Task, *, shared_instruction: str | None = None) -> tuple[Example, ...]:
    """One more file of labelled rows for a task: questions as `read_inputs` reads them, references as the task's own.

    Raises:
        DataError: Anything wrong with the file, or a reference that does not follow `[output]`.
    """
    drafts = read_drafts(Path(path), task.settings.data, labelled=True).drafts
    names = name_rows(drafts)
    examples = tuple(to_example(draft, name, shared_instruction) for draft, name in zip(drafts, names, strict=True))
    return conform(task, examples, dict.fromkeys(names, Path(path)))


def read_inputs(path: Path | str, settings: DataSettings, *, shared_instruction: str | None = None) -> list[InputRow]:
    """A file of questions for `predict`; answers in labelled rows are ignored.

    A system message equal to `shared_instruction` (what `read_examples` found) is the instruction and is left out; any other
    belongs to the question.

    Raises:
        DataError: Anything wrong with the file.
    """
    drafts = read_drafts(Path(path), settings, labelled=False).drafts
    names = name_rows(drafts)
    return [
        InputRow(to_input(draft, name, shared_instruction), draft.row.values) for draft, name in zip(drafts, names, strict=True)
    ]


def line_of_input(path: Path | str, settings: DataSettings, name: str) -> int | None:
    """The line on which the question of that id stands in a file that `read_inputs` has read."""
    drafts = read_drafts(Path(path), settings, labelled=False).drafts
    return next((draft.row.line for draft, found in zip(drafts, name_rows(drafts), strict=True) if found == name), None)


def _assemble(files: Mapping[str, DraftFile]) -> ReadResult:
    drafts = [draft for file in files.values() for draft in file.drafts]
    names = name_rows(drafts)
    shared = shared_system_text(drafts)
    examples = tuple(to_example(draft, name, shared) for draft, name in zip(drafts, names, strict=True))
    split_of = [name for name, file in files.items() for _ in file.drafts if name != "examples"]
    return ReadResult(
        examples=examples,
        shape=", ".join(dict.fromkeys(file.shape for file in files.values())),
        notes=(*(note for file in files.values() for note in file.notes), *_common_notes(list(files.values()), shared)),
        shared_instruction=shared,
        given=dict(zip(names, split_of, strict=True)) if split_of else {},
        file_of={name: draft.row.path for name, draft in zip(names, drafts, strict=True)},
    )


def _common_notes(files: Sequence[DraftFile], shared: str | None) -> list[str]:
    drafts: list[Draft] = [draft for file in files for draft in file.drafts]
    notes = []
    if shared is not None:
        notes.append("All rows begin with the same system message: it is the instruction, not input.")
    elif any(draft.messages[0].role == "system" for draft in drafts):
        notes.append("System messages differ from row to row: they are input.")
    nameless = sum(draft.id is None for draft in drafts)
    if nameless:
        notes.append(f"{nameless} {'row has' if nameless == 1 else 'rows have'} no id and got one from the input's content.")
    return notes


def _with_recorded(task: Task, examples: tuple[Example, ...], file_of: Mapping[str, Path]) -> tuple[Example, ...]:
    named = task.settings.data.recorded
    if named is None:
        return examples
    if recorded_column(task.settings.data) != named:
        path = task.path(named)
        return attach_recorded(examples, read_recorded(path), path)
    without = [example for example in examples if example.recorded is None]
    if without:
        row = without[0]
        problem = f"no row has '{named}'" if len(without) == len(examples) else f"'{named}' is missing"
        hint = "Every row needs the present system's answer there; a file of answers ends in .jsonl."
        raise DataError(file_of[row.id], row.line, f"{problem} (`[data] recorded`).", hint)
    return examples


def _canonical_recorded(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Recorded tool calls in the one form that every other answer has."""
    if not wants_tool_calls(examples):
        return examples
    return tuple(
        example
        if example.recorded is None
        else replace(example, recorded=canonical_answer(example.recorded, example.input.tools))
        for example in examples
    )


def read_recorded(path: Path) -> dict[str, tuple[int, str]]:
    """Answers of the present system by id, with their lines."""
    look_at(path)
    found: dict[str, tuple[int, str]] = {}
    for row in json_lines.read_rows(path):
        name, answer = row.values.get("id"), row.values.get("answer")
        if isinstance(name, bool) or not isinstance(name, str | int) or answer is None:
            raise row.fault("a recorded answer needs 'id' and 'answer'.", 'Write {"id": …, "answer": …}.')
        if str(name) in found:
            raise row.fault(f"the id '{name}' stands on line {found[str(name)][0]} too.", "Keep one of them.")
        found[str(name)] = (row.line, as_text(answer))
    return found


def _check_sources(task: Task, examples: Sequence[Example], file_of: Mapping[str, Path]) -> None:
    """Gold documents must exist, or recall would be measured against a spelling mistake."""
    if task.settings.data.documents is None:
        return
    known: dict[str, bool] = {}
    for example in examples:
        for source in example.sources:
            if not known.setdefault(source, task.path(source).is_file()):
                hint = "Name it relative to the task folder, such as documents/NAME.md."
                raise DataError(file_of[example.id], example.line, f"the source '{source}' does not exist.", hint)
