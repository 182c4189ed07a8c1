"""Where labelled rows go: each answer to the task's examples file at once, what else happened to a journal beside it.

labelling/inputs.jsonl       the questions, so that `stepladder label DIR` can continue without the file they came from
labelling/journal.jsonl      what the person did, and how long it took
labelling/generations.jsonl  every draft, so that none is asked for twice
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stepladder import files
from stepladder.data.fingerprint import input_hash, question_hash
from stepladder.data.readers import read_examples
from stepladder.data.readers.table import SUFFIXES as TABLES
from stepladder.data.unlabelled import Unlabelled, read_unlabelled
from stepladder.domain.errors import DataError, UsageError
from stepladder.domain.messages import Example, Input
from stepladder.domain.task import DataSettings, Task
from stepladder.service.label_adopt import INPUTS, adopt_examples

FOLDER = INPUTS.parent.name
Source = Literal["human", "accepted", "teacher"]
Deed = Literal["label", "skip", "undo", "again", "again-skip"]


@dataclass(frozen=True)
class Entry:
    """One line of the journal. `again` answers are kept here only: the first answer is the one that counts."""

    did: Deed
    id: str
    seconds: float = 0.0
    answer: str = ""
    draft: str = ""


@dataclass
class LabelStore:
    """A task's labelled rows and questions on disk. Every change is durable before the next question is asked."""

    task: Task
    path: Path  # the examples file
    chat: bool  # the file holds OpenAI chat rows; else prompt and completion
    shared_instruction: str | None  # a system message that all its rows begin with
    examples: dict[str, Example]
    notes: tuple[str, ...] = ()  # what was done to the files
    entries: list[Entry] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.task.path(FOLDER)

    @property
    def seen(self) -> list[Example]:
        """Rows that a person has answered or accepted, in file order."""
        return [example for example in self.examples.values() if not example.by_teacher]

    @property
    def labelled_here(self) -> list[Example]:
        """Rows answered with `label`. Of others nobody knows whether this person answered them."""
        return [example for example in self.seen if example.metadata.get("source") in ("human", "accepted")]

    @property
    def skipped(self) -> frozenset[str]:
        last = {entry.id: entry.did for entry in self.entries if entry.did in ("label", "skip", "undo")}
        return frozenset(name for name, did in last.items() if did == "skip")

    @property
    def again(self) -> dict[str, str]:
        """Second, blind answers by id."""
        return {entry.id: entry.answer for entry in self.entries if entry.did == "again" and entry.id in self.examples}

    @property
    def again_skipped(self) -> frozenset[str]:
        return frozenset(entry.id for entry in self.entries if entry.did == "again-skip")

    def add(self, row: Unlabelled, example: Example, source: Source) -> None:
        """Append a labelled row to the examples file."""
        example = replace(example, metadata={**row.metadata, "source": source})
        files.append_line(self.path, json.dumps(self._line(row, example.reference.content, source), ensure_ascii=False))
        self.examples[example.id] = example

    def note(self, entry: Entry) -> None:
        """Append to the journal."""
        files.append_line(self.folder / "journal.jsonl", json.dumps(asdict(entry), ensure_ascii=False))
        self.entries.append(entry)

    def take_back(self, name: str) -> None:
        """Remove the row `name`, which must be the last of the file, and say so in the journal."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        if json.loads(lines[-1]).get(self._id_key) != name:
            raise DataError(self.path, len(lines), "the file was changed meanwhile.", "Start `stepladder label` again.")
        files.write_text(self.path, "".join(lines[:-1]))
        del self.examples[name]
        self.note(Entry("undo", name))

    def _line(self, row: Unlabelled, answer: str, source: Source) -> dict[str, Any]:
        data = self.task.settings.data
        turns = [message.as_chat() for message in row.input.messages]
        if self.shared_instruction is not None:
            turns.insert(0, {"role": "system", "content": self.shared_instruction})
        line: dict[str, Any] = {self._id_key: row.input.id}
        if self.chat:
            line["messages"] = [*turns, {"role": "assistant", "content": answer}]
        else:
            bare = len(turns) == 1 and turns[0].keys() == {"role", "content"} and turns[0]["role"] == "user"
            line[data.input or "prompt"] = turns[0]["content"] if bare else turns
            line[data.reference or "completion"] = answer
        beside = {"tools": list(row.input.tools), "sources": list(row.sources), "metadata": dict(row.metadata)}
        return {**line, "source": source, **{key: value for key, value in beside.items() if value}}

    @property
    def _id_key(self) -> str:
        return self.task.settings.data.id or "id"


@contextmanager
def open_store(task: Task) -> Iterator[LabelStore]:
    """The store of a task, kept from other processes.

    Raises:
        DataError: The examples file cannot be used. UsageError: Another process labels this task.
    """
    try:
        with files.lock(task.path(FOLDER) / ".lock"):
            _end_torn_line(_examples_path(task), task.path(FOLDER))
            task, notes = adopt_examples(task)
            path = _examples_path(task)
            read = read_examples(task) if path.exists() and path.stat().st_size else None
            examples = {example.id: example for example in read.examples} if read else {}
            chat = read is not None and read.shape == "OpenAI chat"
            shared = read.shared_instruction if read else None
            entries = list(_read_journal(task.path(FOLDER) / "journal.jsonl"))
            yield LabelStore(task, path, chat, shared, examples, notes, entries)
    except files.Locked as error:
        raise UsageError(f"another process labels {task.folder}.", "Finish there, or stop it first.") from error


def gather_inputs(store: LabelStore, file: Path | None) -> tuple[list[Unlabelled], list[str]]:
    """The questions that have no answer yet: those kept from earlier calls, and those of `file`, which are kept from now on.

    Raises:
        DataError: The file cannot be used. UsageError: There is no question at all.
    """
    kept = store.folder / INPUTS.name
    rows = read_unlabelled(kept, DataSettings(examples=kept.name))[0] if kept.exists() else []
    notes = list(store.notes)
    if file is not None:
        fresh, said = read_unlabelled(file, store.task.settings.data)
        notes += said
        grown = _merge(rows, fresh, store.examples)
        if len(grown) > len(rows):
            rows = grown
            files.write_text(kept, "".join(json.dumps(_question_line(row), ensure_ascii=False) + "\n" for row in rows))
    if not rows and not store.examples:
        hint = f"Name a file of them: stepladder label {store.task.folder} FILE (JSONL, CSV, or text, one a line)."
        raise UsageError("there are no inputs to label.", hint)
    answered = {input_hash(example) for example in store.examples.values()}
    return [row for row in rows if question_hash(row.input) not in answered], notes


def _merge(kept: list[Unlabelled], fresh: Iterable[Unlabelled], examples: Mapping[str, Example]) -> list[Unlabelled]:
    """Questions that are new to the task go to the end, under an id that no other row has."""
    known = {question_hash(row.input) for row in kept} | {input_hash(example) for example in examples.values()}
    taken = {row.input.id for row in kept} | set(examples)
    merged = list(kept)
    for row in fresh:
        if question_hash(row.input) in known:
            continue
        name, number = row.input.id, 2
        while name in taken:
            name, number = f"{row.input.id}-{number}", number + 1
        taken.add(name)
        merged.append(replace(row, input=Input(name, row.input.messages, row.input.tools)))
    return merged


def _question_line(row: Unlabelled) -> dict[str, Any]:
    line = {"id": row.input.id, "messages": [message.as_chat() for message in row.input.messages]}
    beside = {"tools": list(row.input.tools), "sources": list(row.sources), "metadata": dict(row.metadata)}
    return {**line, **{key: value for key, value in beside.items() if value}}


def _examples_path(task: Task) -> Path:
    data = task.settings.data
    if data.examples is None:
        problem = "the task brings its own train and test files, and labelled rows belong to neither."
        raise DataError(task.path("task.toml"), None, problem, 'Set `[data] examples = "examples.jsonl"` in a task of its own.')
    path = task.path(data.examples)
    if path.suffix.lower() in TABLES and not path.is_file():
        problem = f"labelled rows are written as JSONL, and `[data] examples` names {data.examples}, which is not there."
        raise DataError(task.path("task.toml"), None, problem, "Set it to a new name such as examples.jsonl.")
    return path


def _read_journal(path: Path) -> Iterator[Entry]:
    for line in files.read_lines(path):
        try:
            yield Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue  # torn by a power cut; the answer itself stands in the examples file


def _end_torn_line(path: Path, folder: Path) -> None:
    """Move a last line that a power cut tore while it was written to `torn.txt`; a whole one without line end stays."""
    if not (path.exists() and (folder / "journal.jsonl").exists()):
        return
    data = path.read_bytes()
    last = data[data.rfind(b"\n") + 1 :]
    try:
        if last.strip():
            json.loads(last)
    except ValueError:
        files.append_line(folder / "torn.txt", last.decode("utf-8", errors="replace"))
        files.write_bytes(path, data[: len(data) - len(last)])
