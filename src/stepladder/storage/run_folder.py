"""One folder a run: everything a verdict stands on, readable without this program.

task/             copy of the task's settings, schema, prompts and split, as they were
checks.json       what the data checks found before the climb
climb.json        what was asked for: key, seed, choices, plan, model, versions
generations.jsonl every model answer, written as it came (kept by `engines.cache`)
money.jsonl       what hosted models may have cost: each call's reservation, then its settlement (kept by `engines.purse`)
rungs/NAME/       recipe.json, adapters
graders/          graders that were fitted in this run
rows.jsonl        every graded answer
verdict.json      the record of the climb
report.html       the same for people
review.jsonl      what a person chose between answers, blind; review.json what it came to
judgements.jsonl  what model judges said about answers, and judges.json who they were: copied from the task's runs/
receipt.json      size and hash of every file, so that a changed byte is found
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.domain.climb import ClimbRecord, GradedRow
from stepladder.domain.errors import RunError
from stepladder.domain.review import Review
from stepladder.storage.receipt import renew_receipt, write_receipt
from stepladder.storage.records import from_json, to_json, to_line

ADJECTIVES = ("quiet", "brisk", "amber", "clear", "steady", "early", "plain", "bright", "calm", "keen", "mild", "swift")
ANIMALS = ("heron", "otter", "lark", "finch", "hare", "seal", "wren", "stoat", "plover", "newt", "tern", "vole")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. Writing is whole or not at all; row files survive a kill in mid-line."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, runs: Path, state: Mapping[str, Any], *, now: datetime) -> RunFolder:
        """A new run folder under `runs`, named by time and two words, with `state` as its climb.json."""
        dice = random.Random()  # names need not be reproducible; two runs in one minute must differ
        while True:
            path = runs / f"{now:%Y-%m-%d-%H%M}-{dice.choice(ADJECTIVES)}-{dice.choice(ANIMALS)}"
            if not path.exists():
                break
        run = cls(path)
        path.mkdir(parents=True)
        run.write_state(state)
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            RunError: There is no run at `path`.
        """
        if not (path / "climb.json").is_file():
            raise RunError(f"{path} is not a run folder.", "Give a folder under a task's runs/; `climb` makes them.")
        return cls(path)

    @classmethod
    def unfinished(cls, runs: Path, key: str) -> RunFolder | None:
        """The newest run of the same data and settings (`key`) that has no verdict yet."""
        for path in sorted(runs.glob("*/climb.json"), reverse=True):
            run = cls(path.parent)
            if not run.verdict_path.exists() and run.read_state().get("key") == key:
                return run
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this run.

        Raises:
            RunError: Another process is working on it.
        """
        try:
            with files.lock(self.path / ".lock"):
                yield
        except files.Locked as error:
            raise RunError(f"another process works on {self.path}.", "Wait for it, or stop it first.") from error

    @property
    def generations_path(self) -> Path:
        return self.path / "generations.jsonl"

    @property
    def money_path(self) -> Path:
        return self.path / "money.jsonl"

    @property
    def verdict_path(self) -> Path:
        return self.path / "verdict.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def write_report(self, html: str) -> None:
        """Replace the report; in a finished run its place in the receipt too, since reports are written again."""
        files.write_text(self.report_path, html)
        if self.verdict_path.exists():
            renew_receipt(self.path, self.report_path.name)

    @property
    def reviews_journal_path(self) -> Path:
        return self.path / "review.jsonl"

    def write_review(self, review: Review) -> None:
        """Add a finished review; an earlier one of the same pair of answers is replaced."""
        others = [one for one in self.read_reviews() if (one.rung, one.against) != (review.rung, review.against)]
        content = {"reviews": [to_json(one) for one in (*others, review)]}
        files.write_text(self.path / "review.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_reviews(self) -> tuple[Review, ...]:
        """Finished reviews by a person; none when nobody has reviewed the run.

        Raises:
            RunError: The file is broken.
        """
        path = self.path / "review.json"
        if not path.exists():
            return ()
        try:
            return tuple(from_json(Review, one) for one in self._read_json(path)["reviews"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is broken.", "Delete it and run `stepladder review` again: the choices are kept.") from error

    def rung_folder(self, rung: str, fold: int | None) -> Path:
        """Where a rung keeps what it made; one folder a fold in cross-fitting."""
        return self.path / "rungs" / (_file_name(rung) if fold is None else f"{_file_name(rung)}-fold{fold}")

    def grader_path(self, grader: str, fold: int | None) -> Path:
        """Where a grader that was fitted in this run is kept; one file a fold in cross-fitting."""
        return self.path / "graders" / f"{grader if fold is None else f'{grader}-fold{fold}'}.json"

    def write_state(self, state: Mapping[str, Any]) -> None:
        files.write_text(self.path / "climb.json", json.dumps(state, indent=2, ensure_ascii=False) + "\n")

    def read_state(self) -> dict[str, Any]:
        return self._read_json(self.path / "climb.json")

    def write_checks(self, checks: Mapping[str, Any]) -> None:
        files.write_text(self.path / "checks.json", json.dumps(checks, indent=2, ensure_ascii=False) + "\n")

    def write_result(self, rung: str, fold: int | None, result: Mapping[str, Any]) -> None:
        """A rung's outcome (recipe, status, seconds); its presence says that the rung is finished."""
        path = self.rung_folder(rung, fold) / "recipe.json"
        files.write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")

    def read_result(self, rung: str, fold: int | None) -> dict[str, Any] | None:
        path = self.rung_folder(rung, fold) / "recipe.json"
        return self._read_json(path) if path.exists() else None

    def replace_rows(self, rows: Iterable[GradedRow]) -> None:
        """Write all graded rows at once."""
        files.write_text(self.path / "rows.jsonl", "".join(to_line(row) + "\n" for row in rows))

    def read_rows(self) -> list[GradedRow]:
        return [from_json(GradedRow, json.loads(line)) for line in files.read_lines(self.path / "rows.jsonl")]

    def write_verdict(self, record: ClimbRecord, inputs: Mapping[str, Any]) -> None:
        """Write the record, and beside it (`inputs`) all that the verdict can be derived from again."""
        content = {"record": to_json(record), "inputs": inputs}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        # The verdict comes last: a run that has one is finished, its receipt included.
        write_receipt(self.path, {self.verdict_path.name: text.encode("utf-8")})
        files.write_text(self.verdict_path, text)

    def read_inputs(self) -> dict[str, Any]:
        """What the verdict was derived from, as it was written.

        Raises:
            RunError: The climb is not finished, or its file is broken.
        """
        if not self.verdict_path.exists():
            raise RunError(f"{self.path} has no verdict yet.", "Run `stepladder climb` again; it continues.")
        inputs = self._read_json(self.verdict_path).get("inputs")
        if not isinstance(inputs, dict):
            raise RunError(f"{self.verdict_path} is broken: it has no inputs.", "Restore it, or climb again.")
        return inputs

    def read_verdict(self) -> ClimbRecord:
        """The record of a finished climb.

        Raises:
            RunError: The climb is not finished, or its file is broken.
        """
        if not self.verdict_path.exists():
            raise RunError(f"{self.path} has no verdict yet.", "Run `stepladder climb` again; it continues.")
        try:
            return from_json(ClimbRecord, self._read_json(self.verdict_path)["record"])
        except (KeyError, ValueError) as error:
            raise RunError(
                f"{self.verdict_path} is broken: {str(error).splitlines()[0]}.", "Restore it, or climb again."
            ) from error

    def keep_task(self, folder: Path, names: Iterable[str]) -> None:
        """Copy the task's small files into the run, so that it can be read, and answer, without the task folder."""
        with files.new_folder(self.path / "task") as target:
            for name in names:
                source = folder / name
                if source.is_dir():
                    shutil.copytree(source, target / name)
                elif source.is_file():
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target / name)

    @property
    def task_folder(self) -> Path:
        return self.path / "task"

    @staticmethod
    def _read_json(path: Path) -> dict[str, Any]:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}.", "Restore it, or climb again.") from error
        if not isinstance(value, dict):
            raise RunError(f"{path} holds no JSON object.", "Restore it, or climb again.")
        return value


def _file_name(rung: str) -> str:
    """A rung's name as a folder name: model names of compared rungs may hold slashes and colons."""
    plain = "".join(letter if letter.isalnum() or letter in "+-." else "_" for letter in rung)
    return plain if plain == rung else f"{plain}-{files.hash_text(rung)[:8]}"
