"""`verify` knows which rows should have answered: of every regime, for every rung and seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from small_tasks import write_task
from stepladder.data.split_file import load_split_file, save_split_file
from stepladder.domain.climb import ClimbRecord, GradedRow
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.service.climb import climb
from stepladder.service.open_run import find_run
from stepladder.service.task_data import read_task_rows
from stepladder.service.verify import verify
from stepladder.service.verify_rows import row_faults
from stepladder.storage.receipt import renew_receipt

SKIP = 'skip = ["classifier", "lora+constrained", "lora+nearest"]'
REGIMES = {"cross": 60, "medium": 160, "large": 320}


@dataclass(frozen=True)
class Run:
    folder: Path
    task: Task
    record: ClimbRecord
    examples: Sequence[Example]
    rows: Sequence[GradedRow]
    folds: int

    def faults(self, rows: Sequence[GradedRow] | None = None, **record: object) -> str:
        changed = replace(self.record, **record)  # type: ignore[arg-type]
        return "\n".join(row_faults(changed, self.task, self.examples, self.rows if rows is None else rows, folds=self.folds))

    def ids(self, split: str, rung: str) -> list[str]:
        return [row.id for row in self.rows if (row.split, row.rung, row.seed) == (split, rung, 0)]


def read(folder: Path) -> Run:
    run = find_run(folder)
    task, examples = read_task_rows(Task.load(run.task_folder))
    folds = run.read_state()["plan"]["choices"]["folds"]
    return Run(run.path, task, run.read_verdict(), examples, run.read_rows(), folds)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """A finished run of each regime; nothing here changes them."""
    root = tmp_path_factory.mktemp("regimes")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(root / "cache"))
        for regime, rows in REGIMES.items():
            world = write_task(root / regime, rows, rungs=SKIP)
            found[regime] = read(climb(root / regime, tools=world.tools).folder)
            assert found[regime].record.regime == regime
    return found


@pytest.fixture
def medium(runs: Mapping[str, Run], tmp_path: Path) -> Run:
    """A copy that may be changed."""
    return read(Path(shutil.copytree(runs["medium"].folder, tmp_path / "run")))


@pytest.mark.parametrize("regime", REGIMES)
def test_a_run_of_every_regime_has_the_rows_of_its_split(runs: Mapping[str, Run], regime: str) -> None:
    assert runs[regime].faults() == ""
    assert verify(runs[regime].folder).agrees


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("split", ["test", "validation"])
def test_rows_that_all_rungs_miss_are_named(runs: Mapping[str, Run], regime: str, split: str) -> None:
    run = runs[regime]
    gone = run.ids(split, "prompt")[0]
    said = run.faults([row for row in run.rows if (row.split, row.id) != (split, gone)])
    assert f"prompt did not answer {5 - 1 if (regime, split) == ('cross', 'validation') else 1} of " in said
    assert gone in said
    if regime == "medium" and split == "test":
        assert "lora (seed 1) did not answer 1 of 64 test rows" in said


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_row_of_another_split_a_repeated_row_and_another_order_are_named(runs: Mapping[str, Run], split: str) -> None:
    run = runs["large"]
    one, other = run.ids(split, "prompt")[:2]
    foreign = run.ids({"test": "validation", "validation": "test"}[split], "prompt")[0]

    def with_ids(change: Callable[[str], str]) -> str:
        return run.faults([replace(row, id=change(row.id)) if row.split == split else row for row in run.rows])

    assert f"1 of the {split} rows of prompt are none by splits.json: {foreign}." in with_ids(
        lambda name: foreign if name == one else name
    )
    assert f"prompt answered 1 {split} row more than once: {other}." in with_ids(lambda name: other if name == one else name)
    swapped = with_ids(lambda name: {one: other, other: one}.get(name, name))
    assert f"prompt answered the {split} rows in another order than they stand in the data." in swapped


def test_a_row_that_one_fold_tests_is_not_asked_in_another(runs: Mapping[str, Run]) -> None:
    run = runs["cross"]
    place = next(number for number, row in enumerate(run.rows) if row.split == "test")
    row = run.rows[place]
    moved = replace(row, fold=((row.fold or 0) + 1) % 5)
    said = run.faults([*run.rows[:place], moved, *run.rows[place + 1 :]])
    assert f"1 of the test rows of {row.rung} are none by splits.json: {row.id}." in said


def test_folds_that_were_left_out_are_named(runs: Mapping[str, Run]) -> None:
    run = runs["cross"]
    sizes = {**run.record.split_sizes, "folds": 4}
    said = run.faults([row for row in run.rows if row.fold != 4], split_sizes=sizes)
    assert "5 folds by splits.json, and the record says 4." in said
    assert "prompt has validation answers in 4 of 5 folds." in said


def test_sizes_and_answers_of_unknown_rungs_are_named(runs: Mapping[str, Run]) -> None:
    run = runs["medium"]
    assert (
        run.faults(split_sizes={**run.record.split_sizes, "train": 9}) == "96 train rows by splits.json, and the record says 9."
    )
    stray = replace(run.rows[-1], rung="other", split="test")
    assert run.faults([*run.rows, stray]) == "other has 1 test answer, and no test score is recorded."


def test_rows_set_aside_are_not_asked_for(medium: Run) -> None:
    file = load_split_file(medium.task)
    assert file is not None
    gone = medium.ids("test", "prompt")[3]
    rows = [row for row in medium.rows if (row.split, row.id) != ("test", gone)]
    sizes = {**medium.record.split_sizes, "test": 63}
    assert gone in medium.faults(rows, split_sizes=sizes)
    save_split_file(medium.task, file.model_copy(update={"aside": (gone,)}))
    assert medium.faults(rows, split_sizes=sizes) == ""
    assert f"1 of the test rows of prompt are none by splits.json: {gone}." in medium.faults()


def test_a_run_that_does_not_say_what_was_set_aside_is_measured_by_its_sizes_and_by_its_rungs(medium: Run) -> None:
    file = load_split_file(medium.task)
    assert file is not None
    save_split_file(medium.task, file.model_copy(update={"aside": None}))
    assert medium.faults() == ""
    gone = medium.ids("test", "prompt")[3]
    rows = [row for row in medium.rows if (row.split, row.id) != ("test", gone)]
    assert medium.faults(rows) == "63 test rows answered, and the record says 64."
    rows = [row for row in medium.rows if (row.split, row.id, row.rung) != ("test", gone, "prompt")]
    assert medium.faults(rows) == f"prompt did not answer 1 of 64 test rows: {gone}."


def test_a_train_row_that_poses_as_a_test_row_is_found_by_verify(medium: Run) -> None:
    """All rungs answer alike and are right, so that every grade and figure follows from the changed rows."""
    by_id = {example.id: example for example in medium.examples}
    scores: dict[str, list[float | None]] = {}
    for row in medium.rows:
        if row.split == "test":
            scores.setdefault(row.id, []).append(row.score)
    old = next(name for name, own in scores.items() if set(own) == {1.0})
    learned = medium.ids("validation", "prompt")
    new = next(name for name in learned if by_id[name].reference.content == by_id[old].reference.content)
    path = medium.folder / "rows.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    changed = [{**line, "id": new} if (line["split"], line["id"]) == ("test", old) else line for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in changed), encoding="utf-8")
    renew_receipt(medium.folder, "rows.jsonl")
    found = verify(medium.folder)
    assert f"rows.jsonl: 1 of the test rows of prompt are none by splits.json: {new}." in map(str, found.differences)


def test_a_missing_and_a_broken_split_file_are_named(medium: Run) -> None:
    path = medium.task.path("splits.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"train"', '"test"', 1), encoding="utf-8")
    assert "was changed by hand" in medium.faults()
    path.unlink()
    assert medium.faults() == "the run has no splits.json, so nobody can say which rows should have answered."
