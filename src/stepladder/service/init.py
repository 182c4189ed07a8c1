"""From a file to a task folder: everything guessed, said with its reason, tried, and only then written."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.data.guess.answers import AnswerGuess, guess_answers
from stepladder.data.guess.columns import ColumnGuess, guess_columns
from stepladder.data.guess.wording import guess_instruction
from stepladder.data.readers import ReadResult, read_examples, read_file
from stepladder.data.readers.raw import given_splits, open_rows
from stepladder.data.readers.shapes import shape_of_itself
from stepladder.domain.errors import DataError, UsageError
from stepladder.domain.task import DataSettings, Task
from stepladder.evaluation.graders import build_graders
from stepladder.service.setup import check_references
from stepladder.service.task_file import TaskText, write_toml

SCHEMA_NAME = "answer.schema.json"
LOOKED_AT = 5000
"""Rows by which columns are guessed; all rows are read and checked afterwards."""
FEWEST_TO_CLIMB, FEWEST_FOR_A_TEST = 10, 120


@dataclass(frozen=True, slots=True)
class Guess:
    """One thing `init` decided, and by what."""

    what: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Started:
    """A new task folder. `doubts` are for the user to look at; `notes` say how the file was read."""

    folder: Path
    rows: int
    guesses: tuple[Guess, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[str, ...]


def init_task(
    folder: Path | str,
    file: Path | str,
    *,
    input: str | None = None,
    reference: str | None = None,
    model: str | None = None,
    test: Path | str | None = None,
) -> Started:
    """Make `folder` a task from the examples in `file`: task.toml, a copy of the file, and a schema where answers are JSON.

    Args:
        test: Your own test file; `file` then teaches and chooses only.
        input, reference: Columns (or keys of the rows), where the guess would be wrong.
        model: What `[model] base` shall be.
    Raises:
        UsageError: `folder` is a task already, or holds another file of the same name.
        DataError: The file cannot be used; nothing has been written.
    """
    folder, source = Path(folder), Path(file)
    beside = None if test is None else Path(test)
    for path in (source, *([] if beside is None else [beside])):
        _check_place(folder, path)
    columns, settings, doubts = _guess_data(source, beside, input, reference)
    read = _read(source, beside, settings)
    answers = guess_answers(read.examples, read.file_of)
    data = {key: value for key, value in settings.model_dump().items() if value is not None}
    text = _task_text(folder, source, read, columns, answers, data, model)
    schema = None if answers.schema is None else json.dumps(answers.schema, ensure_ascii=False, indent=2) + "\n"
    _try(text, schema, source, beside)
    written = _write(folder, [source, *([] if beside is None else [beside])], text, schema)
    return Started(
        folder=folder,
        rows=len(read.examples),
        guesses=tuple(_guesses(read, columns, answers, text)),
        doubts=(*doubts, *answers.doubts, *_size_doubts(len(read.examples))),
        notes=read.notes,
        files=written,
    )


def _check_place(folder: Path, source: Path) -> None:
    if (folder / "task.toml").exists():
        raise UsageError(f"{folder / 'task.toml'} exists already.", "Choose another folder, or remove it first.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder.", "The folder comes first, then the file of examples.")
    if not source.exists():
        raise DataError(source, None, "there is no such file.", "Check its name.")
    target = folder / source.name
    if target.exists() and not target.samefile(source) and not _same_content(target, source):
        raise UsageError(f"{target} exists already and is another file.", "Rename one of them, or choose another folder.")


def _same_content(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and files.hash_file(one) == files.hash_file(other)


def _guess_data(
    source: Path, test: Path | None, input: str | None, reference: str | None
) -> tuple[ColumnGuess | None, DataSettings, list[str]]:
    """`[data]` for this file, columns only where the rows' shape does not say what is what."""
    raw = open_rows(next(iter(given_splits(source).values()), source))
    rows = list(islice(raw.rows, LOOKED_AT))
    if not rows:
        raise DataError(source, None, "the file has no rows.", "Add examples; `stepladder label` helps to make the first ones.")
    named = input is not None or reference is not None
    if raw.header is None and not named and shape_of_itself(rows[0]) is not None:
        return None, DataSettings.model_validate(_files(source, test)), []
    names = raw.header or tuple(dict.fromkeys(key for row in rows for key in row.values))
    _check_named(source, names, input, reference)
    guess = guess_columns(names, [row.values for row in rows], input=input, reference=reference)
    if guess is None:
        raise _no_columns(raw.path, names, rows[0].values)
    settings = DataSettings(**_files(source, test), input=guess.input, reference=guess.reference, id=guess.id)
    return guess, settings, _column_doubts(guess)


def _files(source: Path, test: Path | None) -> dict[str, str]:
    """`[data]` names of the file, or of the splits of a saved dataset that brings its own.

    Raises:
        UsageError: Both files have one name.
    """
    if test is not None:
        if test.name == source.name:
            raise UsageError(f"both files are called {source.name}.", "Rename one of them.")
        return {"train": source.name, "test": test.name}
    parts = given_splits(source)
    return {split: f"{source.name}/{path.name}" for split, path in parts.items()} or {"examples": source.name}


def _read(source: Path, test: Path | None, settings: DataSettings) -> ReadResult:
    """All rows of all splits as one; ids may repeat between splits, which the trial later sorts out."""
    paths = [source, test] if test is not None else list(given_splits(source).values()) or [source]
    parts = [read_file(path, settings) for path in paths]
    first = parts[0]
    shared = first.shared_instruction if len({part.shared_instruction for part in parts}) == 1 else None
    return ReadResult(
        examples=tuple(example for part in parts for example in part.examples),
        shape=first.shape,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        shared_instruction=shared,
        file_of={name: path for part in parts for name, path in part.file_of.items()},
    )


def _check_named(source: Path, names: Sequence[str], input: str | None, reference: str | None) -> None:
    for option, name in (("--input", input), ("--reference", reference)):
        if name is not None and name not in names:
            raise DataError(source, 1, f"there is no column '{name}' ({option}).", f"Columns are: {', '.join(names)}.")
    if input is not None and input == reference:
        raise UsageError(f"input and reference are the same column '{input}'.", "Name two.")


def _no_columns(path: Path, names: Sequence[str], first: Mapping[str, Any]) -> DataError:
    """Why no column is an input beside its expected answer; `first` is the first row."""
    found = ", ".join(f"'{name}'" for name in names[:12])
    if len(names) == 1 and isinstance(first.get(names[0]), list):
        problem = f"the rows lie in a list under the key {found}."
        return DataError(path, 1, problem, "Make that list the whole file: it begins with [ and ends with ].")
    if len(names) < 2:
        hint = "Rows need an input and an expected answer; `stepladder label` makes answers for inputs that have none."
        return DataError(path, 1, f"there is only one column: {found}.", hint)
    problem = f"no two of the columns look like an input and its expected answer: {found}."
    objects = [f"'{name}'" for name in names if isinstance(first.get(name), dict)]
    if objects:
        return DataError(path, 1, problem, f"Objects stand in {' and '.join(objects)}: write them as text (JSON in quotes).")
    return DataError(path, 1, problem, "Name them: --input COLUMN --reference COLUMN.")


def _column_doubts(guess: ColumnGuess) -> list[str]:
    doubts = []
    if guess.doubt:
        doubts.append(f"Which column is what is not sure; {guess.doubt}.")
    if guess.left:
        doubts.append(
            f"Not shown to a model: {', '.join(guess.left)}. If the answer depends on one of them, join it with '{guess.input}'."
        )
    return doubts


def _size_doubts(rows: int) -> list[str]:
    if rows < FEWEST_TO_CLIMB:
        return [f"{rows} rows are too few to climb: {FEWEST_TO_CLIMB} are the least, 50 good ones a start."]
    if rows < FEWEST_FOR_A_TEST:
        return [
            f"With {rows} rows the verdict can only be indicative; from {FEWEST_FOR_A_TEST} on there is a test split of its own."
        ]
    return []


def _task_text(
    folder: Path,
    source: Path,
    read: ReadResult,
    columns: ColumnGuess | None,
    answers: AnswerGuess,
    data: Mapping[str, str],
    model: str | None,
) -> TaskText:
    why = {"output": answers.why}
    if columns is not None:
        others = f"; {columns.doubt}" if columns.doubt else ""
        why |= {"input": columns.why["input"] + others, "reference": columns.why["reference"], "id": columns.why["id"]}
    guessed = guess_instruction(answers, **({"input": columns.input, "reference": columns.reference} if columns else {}))
    above = "Guessed from names and answers. Correct it: say what is wanted, as you would tell a colleague."
    if read.shared_instruction is not None:
        above = "The system message that every row begins with."
    return TaskText(
        name=folder.resolve().name or "task",
        heading=(
            f"Written by `stepladder init` from {source.name} ({read.shape}, {len(read.examples)} rows).",
            "All of it is guessed: correct what is wrong.",
        ),
        instruction=(read.shared_instruction or "").strip() or guessed,
        above=above,
        data=data,
        graders=answers.graders,
        why=why,
        schema=None if answers.schema is None else SCHEMA_NAME,
        labels=answers.labels,
        model=model,
    )


def _try(text: TaskText, schema: str | None, source: Path, test: Path | None) -> None:
    """Load the task as a climb would, with the data where it lies now; raises what the climb would have raised."""
    with tempfile.TemporaryDirectory(prefix="stepladder-init-") as name:
        folder = Path(name)
        places = {key: str(source.parent.resolve() / name) for key, name in _files(source, test).items()}
        if test is not None:
            places["test"] = str(test.resolve())
        here = replace(text, data={**text.data, **places})
        files.write_text(folder / "task.toml", write_toml(here))
        if schema is not None:
            files.write_text(folder / SCHEMA_NAME, schema)
        task = Task.load(folder)
        read = read_examples(task)
        check_references(read.examples, read.file_of, build_graders(task))


def _write(folder: Path, sources: Sequence[Path], text: TaskText, schema: str | None) -> tuple[str, ...]:
    """Data and schema first: a folder with a task.toml is whole. Returns the names of what lies there now."""
    if schema is not None and (folder / SCHEMA_NAME).exists():
        raise UsageError(f"{folder / SCHEMA_NAME} exists already.", "Rename it, or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if not (folder / source.name).exists():
                _copy(source, folder / source.name)
        if schema is not None:
            files.write_text(folder / SCHEMA_NAME, schema)
        files.write_text(folder / "task.toml", write_toml(text))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}).", "Choose another folder.") from error
    return ("task.toml", *(source.name for source in sources), *([SCHEMA_NAME] if schema is not None else []))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        with files.new_folder(target) as copied:
            shutil.copytree(source, copied, dirs_exist_ok=True)
    else:
        files.write_bytes(target, source.read_bytes())


def _guesses(read: ReadResult, columns: ColumnGuess | None, answers: AnswerGuess, text: TaskText) -> Iterable[Guess]:
    yield Guess("shape", read.shape, "by the file's name and its first row")
    if columns is not None:
        yield Guess("input", columns.input, columns.why["input"])
        yield Guess("reference", columns.reference, columns.why["reference"])
        if columns.id is not None:
            yield Guess("id", columns.id, columns.why["id"])
    kinds = {
        "schema": f"JSON ({SCHEMA_NAME})",
        "labels": f"one of {len(answers.labels)} labels",
        "numbers": "a number",
        "calls": "tool calls",
    }
    yield Guess("output", kinds.get(answers.kind, "free text"), answers.why)
    yield Guess("graders", ", ".join(answers.graders), "they go with that kind of answer; the first decides")
    why = "every row begins with this system message" if read.shared_instruction else "from names and answers; correct it"
    yield Guess("instruction", text.instruction, why)
