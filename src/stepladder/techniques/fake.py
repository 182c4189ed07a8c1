"""A small made-up task, an embedder and a tuner without a model, so that techniques can be tried and tested anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from stepladder.domain.answer import expected_answer
from stepladder.domain.hosted import HostedTune
from stepladder.domain.messages import Chunk, Example, Input, Message, ToolCall
from stepladder.domain.prediction import Grade, Prediction, Score
from stepladder.domain.protocols import Choices, Conversation, Engine, FitContext, Preference, Progress, TrainPoint, Tuned
from stepladder.domain.task import DpoSettings, LoraSettings, Task, TaskSettings
from stepladder.files import hash_file

Kind = Literal["labels", "json", "text", "calls"]

LABELS = ("animal", "plant", "stone")
WORDS = {
    "animal": ("heron", "otter", "weasel", "lynx", "badger", "toad", "newt", "stoat"),
    "plant": ("fern", "alder", "sedge", "willow", "nettle", "clover", "thistle", "moss"),
    "stone": ("basalt", "granite", "slate", "gneiss", "marble", "flint", "chalk", "schist"),
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind", "note"],
    "properties": {"kind": {"enum": list(LABELS)}, "note": {"type": "string", "description": "a remark in a few words"}},
}


TOOL: Mapping[str, Any] = {"type": "function", "function": {"name": "name_kind", "parameters": SCHEMA}}


class FakeEmbedder:
    """Words hashed to dimensions, counted, and brought to length 1."""

    name = "fake"

    def __init__(self, dimensions: int = 256) -> None:
        self._dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimensions)."""
        vectors = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % self._dimensions] += 1
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class FakeTraining:
    """One call of the tuner."""

    rows: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]
    folder: Path
    seed: int


@dataclass
class FakeTuner:
    """Trains nothing: leaves a folder, and gives every held-out row the loss that `nll` says (by default 1)."""

    nll: Callable[[Conversation], float] = lambda row: 1.0
    trainings: list[FakeTraining] = field(default_factory=list)

    def tune(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        settings: LoraSettings,
        *,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> Tuned:
        """Leave a folder whose content depends on the rows and the seed."""
        return self._leave(rows, held_out, settings.model_dump(), folder, seed)

    def prefer(
        self,
        rows: Sequence[Preference],
        held_out: Sequence[Preference],
        settings: DpoSettings,
        *,
        start: Path,
        folder: Path,
        seed: int,
        progress: Progress,
    ) -> Tuned:
        """Leave a folder whose content depends on the start, the chosen answers and the seed."""
        begun = {**settings.model_dump(), "start": hash_file(start / "adapter_model.safetensors")}
        return self._leave([row.chosen for row in rows], [row.chosen for row in held_out], begun, folder, seed)

    def _leave(
        self,
        rows: Sequence[Conversation],
        held_out: Sequence[Conversation],
        settings: Mapping[str, Any],
        folder: Path,
        seed: int,
    ) -> Tuned:
        self.trainings.append(FakeTraining(tuple(rows), tuple(held_out), folder, seed))
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps([seed, settings, [[message.as_chat() for message in row.messages] for row in rows]])
        (folder / "adapter_config.json").write_text(content, encoding="utf-8")
        digest = hashlib.sha256(content.encode()).digest()
        weights = {  # a real, tiny file: it has a hash of its own, and can be scaled
            "layer.lora_A.weight": np.frombuffer(digest, dtype=np.uint8).astype(np.float32),
            "layer.lora_B.weight": np.ones(4, dtype=np.float32),
        }
        save_file(weights, folder / "adapter_model.safetensors")
        (folder / "stepladder.json").write_text('{"pins": {}}', encoding="utf-8")
        losses = tuple(self.nll(row) for row in held_out)
        point = TrainPoint(step=1, epoch=1.0, learning_rate=1e-3, loss=1.0, held_out_nll=float(np.mean(losses)))
        adapter_sha256 = hash_file(folder / "adapter_model.safetensors")
        return Tuned(folder, adapter_sha256, losses, (point,), best_step=1, steps=1, seconds=1.0, tokens=len(content))


@dataclass
class FakeHosted:
    """An endpoint that tunes nothing: its models are `engine`. Remembers what was submitted."""

    engine: Engine
    name: str = "fake:hosted"
    closed: str | None = None
    jobs: list[FakeTraining] = field(default_factory=list)

    def tune(
        self, rows: Sequence[Conversation], held_out: Sequence[Conversation], *, folder: Path, seed: int, progress: Progress
    ) -> HostedTune:
        """Always the same model."""
        self.jobs.append(FakeTraining(tuple(rows), tuple(held_out), folder, seed))
        return HostedTune("ft:fake", "ftjob-fake", epochs=3, trained_tokens=3 * len(rows), usd=None, seconds=1.0)

    def spoken_name(self, model: str) -> str:
        return f"fake:{model}"

    def answering(self, model: str) -> Engine:
        return self.engine


def fake_context(folder: Path, engine: Engine, kind: Kind = "labels", *, clusters: int = 24, **changes: Any) -> FitContext:
    """A fitted-to-be rung's surroundings in the middle size regime, where validation is the training rows.

    Every cluster holds two near-duplicates; of every fifth cluster both rows are held out. `changes` replace fields.
    """
    task = fake_task(folder / "task", kind)
    rows = [fake_example(kind, cluster, copy) for cluster in range(clusters) for copy in range(2)]
    held_out = tuple(row for number, row in enumerate(rows) if number // 2 % 5 == 0)
    references = {row.id: expected_answer(row) for row in rows}
    fields: dict[str, Any] = {
        "task": task,
        "train": tuple(rows),
        "validation": tuple(rows),
        "tune_rows": tuple(row for row in rows if row not in held_out),
        "held_out": held_out,
        "clusters": {row.id: number // 2 for number, row in enumerate(rows)},
        "chunks": fake_chunks(clusters),
        "engine": engine,
        "embedder": FakeEmbedder(),
        "score": lambda predictions: _grade(predictions, references),
        "folder": folder / "rung",
        "tuner": FakeTuner(),
        "hosted": FakeHosted(engine),
        "choices": Choices(forms=4, shots=(2, 4), orders=2, passages=(1, 3)),
        "recorded": {row.id: expected_answer(row) for row in rows},
        **changes,
    }
    return FitContext(**fields)


def fake_task(folder: Path, kind: Kind, **settings: Any) -> Task:
    """A task folder: name the kind of a thing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    output = {"labels": {"labels": LABELS}, "json": {"schema": "schema.json"}}.get(kind, {})
    raw = {"name": "things", "instruction": "Say what kind of thing it is.", "data": {"examples": "examples.jsonl"}}
    return Task(folder=folder, settings=TaskSettings.model_validate({**raw, "output": output, **settings}))


def fake_example(kind: Kind, cluster: int, copy: int) -> Example:
    """Row `copy` of a cluster. References hold a text found nowhere else, but for labels, which cannot."""
    label = LABELS[cluster % len(LABELS)]
    word = WORDS[label][cluster // len(LABELS) % len(WORDS[label])]
    id = f"row-{cluster}-{copy}"
    secret = f"secret-{id}."
    text = f"what is the {word} numbered {cluster} found at the pond" + (" please" if copy else "")
    turns = (Message("user", text),)
    tools = (TOOL,) if kind == "calls" else ()
    worse = fake_reference(kind, LABELS[(cluster + 1) % len(LABELS)], f"worse than {secret}")
    return Example(
        Input(id, turns, tools), fake_reference(kind, label, secret), sources=(f"documents/{word}.md",), rejected=worse
    )


def fake_reference(kind: Kind, label: str, note: str) -> Message:
    """The expected answer, whichever way it is given."""
    both = json.dumps({"note": note, "kind": label})
    if kind == "calls":
        return Message("assistant", "", tool_calls=(ToolCall(f"id-{label}", "name_kind", both),), weight=1)
    return Message("assistant", {"labels": label, "json": both, "text": f"{label} {note}"}[kind], weight=1)


def fake_chunks(clusters: int) -> tuple[Chunk, ...]:
    """A passage about every thing that the rows ask for."""
    words = dict.fromkeys(
        WORDS[LABELS[cluster % len(LABELS)]][cluster // len(LABELS) % len(WORDS[LABELS[0]])] for cluster in range(clusters)
    )
    texts = {word: f"The {word} is one of the things at the pond and needs care." for word in words}
    return tuple(Chunk(f"documents/{word}.md", 0, len(text), text, heading=f"On {word}") for word, text in texts.items())


def _grade(predictions: Sequence[Prediction], references: dict[str, str]) -> list[Grade]:
    return [Score(float(one.text.strip() == references[one.input_id])) for one in predictions]
