"""A finished climb over a local server whose success can be turned down afterwards, and labelled rows to score it on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stepladder
from chat_server import ChatServer, chat_server, completion
from small_tasks import LABELS, write_task

PROMPT_AND_BASELINE = 'skip = ["classifier", "constrained", "few-shot", "nearest"]'


@dataclass
class Scene:
    """`rate` is the share of questions that the server answers rightly from now on."""

    task: Path
    climb: stepladder.Climb
    server: ChatServer
    rate: float

    @property
    def run(self) -> Path:
        return self.climb.folder

    def test_rows(self) -> Path:
        """The rows that the climb tested on, as a file of their own."""
        tested = {row["id"] for row in map(json.loads, _lines(self.run / "rows.jsonl")) if row["split"] == "test"}
        rows = [line for line in _lines(self.task / "examples.jsonl") if json.loads(line)["id"] in tested]
        path = self.task / "tested.jsonl"
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    def new_rows(self, count: int = 40) -> Path:
        """Rows that the climb has never seen."""
        rows = [{"id": f"n{number}", "prompt": f"A heron on day {number}.", "completion": "bird"} for number in range(count)]
        path = self.task / "new.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@contextmanager
def scored_climb(folder: Path, *, rate: float = 0.9, top: str = "target = 0.6") -> Iterator[Scene]:
    """130 rows, of which only `prompt` is worth anything."""
    with chat_server() as server:
        world = write_task(folder, 130, top=top, model=f'base = "{server.url} served"', rungs=PROMPT_AND_BASELINE)
        scene = Scene(folder, None, server, rate)  # type: ignore[arg-type]

        def answer(request: dict[str, Any]) -> dict[str, Any]:
            text = request["messages"][-1]["content"]
            right = next((label for thing, label in world.answers.items() if f" {thing} " in f" {text} "), LABELS[0])
            luck = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
            return completion(right if luck < scene.rate else LABELS[(LABELS.index(right) + 1) % len(LABELS)])

        server.answer = answer
        scene.climb = stepladder.climb(folder)
        yield scene
