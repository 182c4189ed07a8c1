"""Task folders as rows in memory, to plant faults into, and what a kind of fault is.

Nothing here, nor in the `planted_*` files beside it, imports or imitates a check: a fault is what someone may do to a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]
Spot = frozenset[tuple[str, int]]
"""One planted fault: the rows it consists of, as (file, line); a finding names it when it names one of them. Empty: the set as a
whole."""
HERE = "{here}"
"""Stands in task.toml for the folder it is written to."""


@dataclass
class Copy:
    """A copy of a task. A row is an object, or the very bytes of a broken line."""

    name: str
    answers: str  # "labels", "json", "short" (a span), "prose"
    toml: str
    files: dict[str, list[Row | bytes]]
    others: dict[str, bytes] = field(default_factory=dict)  # schema, documents, prompts
    taken: set[tuple[str, int]] = field(default_factory=set)

    def draw(self, chance: Random, fits: Callable[[Row], bool] = lambda row: True, *, file: str = "") -> tuple[str, int, Row]:
        """An untouched row that fits, from any file or the named one; it counts as touched from now on.

        Raises:
            LookupError: None is left.
        """
        free = [
            (name, index, row)
            for name, rows in self.files.items()
            for index, row in enumerate(rows)
            if isinstance(row, dict) and (name, index) not in self.taken and file in ("", name) and fits(row)
        ]
        if not free:
            raise LookupError(f"{self.name} has no row left for this fault")
        name, index, row = chance.choice(free)
        self.taken.add((name, index))
        return name, index, row

    def texts(self, file: str, part: str) -> list[str]:
        """Prompts or completions of a file's rows, other faults in them left out."""
        found = [row.get(part) for row in self.files[file] if isinstance(row, dict)]
        return [text for text in found if isinstance(text, str) and text.strip()]

    def put(self, file: str, index: int, row: Row | bytes) -> Spot:
        self.files[file][index] = row
        return frozenset({(file, index + 1)})

    def add(self, file: str, row: Row | bytes, *, beside: int | None = None) -> Spot:
        """Append a row; `beside` is the index of the row that makes it a fault."""
        self.files[file].append(row)
        index = len(self.files[file]) - 1
        self.taken.add((file, index))
        return frozenset({(file, index + 1)} | ({(file, beside + 1)} if beside is not None else set()))

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.toml").write_text(self.toml.replace(HERE, folder.resolve().as_posix()), encoding="utf-8")
        for name, content in self.others.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        for name, rows in self.files.items():
            lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
            (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
        return folder


Plant = Callable[[Copy, Random], Spot]


@dataclass(frozen=True)
class Kind:
    """One kind of fault: how to plant one, and which codes of the reference page say that it is there.

    `exact` faults can be seen without judgement, and all must be found. `hard` ones are reported but held to no bound, for the
    reason given. `ask` names what the base model is asked for (`service/check.py`).
    """

    name: str
    codes: frozenset[str]
    plant: Plant
    sets: tuple[str, ...]
    exact: bool = False
    shape: str = "plain"  # "split": a train and a test file; "chat": messages; "whole": one fault is a whole set
    hard: str = ""
    ask: tuple[str, ...] = ()


def load_copy(folder: Path, name: str, answers: str) -> Copy:
    """A task folder with JSONL rows, read as it is."""
    files: dict[str, list[Row | bytes]] = {}
    others = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.suffix == ".jsonl" and path.parent == folder:
            files[relative] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        elif path.is_file() and path.name != "task.toml" and not relative.startswith("runs/"):
            others[relative] = path.read_bytes()
    return Copy(name, answers, (folder / "task.toml").read_text(encoding="utf-8"), files, others)


def rewriting(change: Callable[[Row, Random], Row | None], fits: Callable[[Row], bool] = lambda row: True) -> Plant:
    """A fault made by changing one row; `change` gives None for a row it cannot make one of."""

    def plant(copy: Copy, chance: Random) -> Spot:
        while True:
            file, index, row = copy.draw(chance, fits)
            changed = change(dict(row), chance)
            if changed is not None and changed != row:
                return copy.put(file, index, changed)

    return plant


def in_prompt(change: Callable[[str, Random], str | None]) -> Plant:
    """A fault in the input."""

    def rewrite(row: Row, chance: Random) -> Row | None:
        text = change(row["prompt"], chance)
        return None if text is None else {**row, "prompt": text}

    return rewriting(rewrite)


def in_answer(change: Callable[[str, Random], str | None]) -> Plant:
    """A fault in the answer."""

    def rewrite(row: Row, chance: Random) -> Row | None:
        text = change(row["completion"], chance)
        return None if text is None else {**row, "completion": text}

    return rewriting(rewrite)


def in_json(change: Callable[[dict[str, Any], Random], Any]) -> Plant:
    """A fault in an answer that is JSON: `change` gives the new value, None for a row that does not fit."""

    def rewrite(answer: str, chance: Random) -> str | None:
        changed = change(json.loads(answer), chance)
        return None if changed is None else json.dumps(changed, ensure_ascii=False)

    return in_answer(rewrite)


def shaped(copy: Copy, shape: str) -> Copy:
    """The copy, made into the shape a kind of fault asks for."""
    if shape == "split" and "examples.jsonl" in copy.files:
        rows = copy.files.pop("examples.jsonl")
        cut = len(rows) * 3 // 5
        copy.files |= {"train.jsonl": rows[:cut], "test.jsonl": rows[cut:]}
        copy.toml = copy.toml.replace('examples = "examples.jsonl"', 'train = "train.jsonl"\ntest = "test.jsonl"')
    if shape == "chat":
        copy.files = {name: [_as_chat(row) for row in rows] for name, rows in copy.files.items()}
    return copy


def _as_chat(row: Row | bytes) -> Row | bytes:
    if isinstance(row, bytes):
        return row
    turns = [
        {"role": "system", "content": "You answer for a small company, in the way you were shown."},
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]
    return {**{key: value for key, value in row.items() if key in ("id", "sources")}, "messages": turns}


def plain(copies: Mapping[str, Copy], name: str) -> Copy:
    """A fresh copy of a loaded set, safe to change."""
    source = copies[name]
    rows: dict[str, list[Row | bytes]] = {
        file: [dict(row) if isinstance(row, dict) else row for row in own] for file, own in source.files.items()
    }
    return Copy(name, source.answers, source.toml, rows, dict(source.others))
