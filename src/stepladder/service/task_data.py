"""Everything a task folder holds, read, checked and split, before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.data.documents import load_documents
from stepladder.data.duplicates import cluster
from stepladder.data.fingerprint import fingerprint
from stepladder.data.language import foreign_evidence
from stepladder.data.readers import read_examples
from stepladder.data.split import Splits, load_or_make, split_given
from stepladder.domain.grader_settings import grader_files
from stepladder.domain.messages import Chunk, Example
from stepladder.domain.protocols import Embedder
from stepladder.domain.task import PromptSettings, Task
from stepladder.evaluation.planning import rows_to_show
from stepladder.models.catalog import STARTER_EMBEDDER

MOSTLY = 0.5
"""Share of inputs in other languages from which on the English embedder is warned about."""


@dataclass(frozen=True)
class TaskData:
    """A task with its rows, near-duplicate clusters, split and passages. `notes` say what the readers guessed."""

    task: Task
    examples: tuple[Example, ...]
    splits: Splits
    chunks: tuple[Chunk, ...]
    fingerprint: str
    notes: tuple[str, ...]
    file_of: Mapping[str, Path]  # example id -> the file it stands in

    @property
    def clusters(self) -> Mapping[str, int]:
        return self.splits.cluster_of

    @property
    def recorded(self) -> dict[str, str]:
        return {example.id: example.recorded for example in self.examples if example.recorded is not None}


def load_task_data(task: Task, embedder: Embedder, *, seed: int = 0, write: bool = True) -> TaskData:
    """Read, cluster and split a task's rows; the split is written to splits.json when it is new or has grown.

    Raises:
        DataError: Anything wrong with a file, named; nothing is written then.
    """
    chunks = load_documents(task)
    data = task.settings.data
    if data.examples is not None:
        read = read_examples(task)
        clusters = cluster(read.examples, embedder)
        splits, said = load_or_make(task, read.examples, clusters, seed=seed, rows_needed=rows_to_show, write=write)
        examples, notes = read.examples, (*read.notes, *said)
        instruction, file_of = read.shared_instruction, dict(read.file_of)
    else:
        parts = {name: read_examples(task, name) for name in ("train", "validation", "test") if getattr(data, name)}
        examples = tuple(example for part in parts.values() for example in part.examples)
        clusters = cluster(examples, embedder)
        splits, said = split_given(
            {name: part.examples for name, part in parts.items()}, clusters, task=task, seed=seed, write=write
        )
        notes = (*(note for part in parts.values() for note in part.notes), *said)
        instruction = next(iter(parts.values())).shared_instruction
        file_of = {name: path for part in parts.values() for name, path in part.file_of.items()}
    task, notes = _with_instruction(task, instruction, notes)
    notes = (*notes, *_language_notes(examples, embedder))
    return TaskData(task, examples, splits, chunks, fingerprint(examples), notes, file_of)


def read_task_rows(task: Task) -> tuple[Task, tuple[Example, ...]]:
    """A task and its rows without clusters and split, for grading again; no model and no embedder is needed."""
    data = task.settings.data
    names = [None] if data.examples is not None else [name for name in ("train", "validation", "test") if getattr(data, name)]
    parts = [read_examples(task, name) for name in names]
    task, _ = _with_instruction(task, parts[0].shared_instruction, ())
    return task, tuple(example for part in parts for example in part.examples)


def _with_instruction(task: Task, shared: str | None, notes: tuple[str, ...]) -> tuple[Task, tuple[str, ...]]:
    """A system turn that all rows share is the instruction. Where it differs from task.toml's, it is tried as it stands."""
    if not shared or not shared.strip() or shared.strip() == task.settings.instruction:
        return task, notes
    note = "All rows share a system message that differs from `instruction`; the rows' own is used as the instruction."
    settings = task.settings.model_copy(update={"instruction": shared.strip()})
    return task.model_copy(update={"settings": settings}), (*notes, note)


def _language_notes(examples: Sequence[Example], embedder: Embedder) -> list[str]:
    """A warning where the starter embedder meets data it has no words for."""
    if embedder.name != STARTER_EMBEDDER.name:
        return []
    found = foreign_evidence([example.input.text for example in examples])
    if found.share <= MOSTLY:
        return []
    return [
        f"{found.share:.0%} of the inputs do not look English ({found.told_by}), but the starter embedder knows English only. "
        "What rests on it will be weaker than it could be: near-duplicates in the split, the classifier, the choice of "
        "demonstrations, and retrieval by meaning. Prompts, grammars and LoRA do not rest on it, and scores stay comparable."
    ]


def own_prompt_files(prompts: tuple[PromptSettings, ...]) -> list[str]:
    """Files that a task's own prompts come from."""
    return [prompt.file for prompt in prompts]


def task_files(task: Task) -> list[str]:
    """Names of everything in the task folder that a run must keep to answer again later."""
    settings = task.settings
    data = settings.data
    named = [data.examples, data.train, data.validation, data.test, data.documents, settings.output.json_schema]
    named.append(settings.use.probes)
    recorded = data.recorded if data.recorded and (task.folder / data.recorded).is_file() else None
    graders = [name for grader in settings.graders for name in grader_files(grader)]
    found = [name for name in [*named, recorded, *graders] if name]
    return ["task.toml", "splits.json", *dict.fromkeys(found), *own_prompt_files(settings.prompts)]
