"""Rows that a model alone has answered teach, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.split import Splits, load_or_make, split_given
from stepladder.data.split_file import load_split_file
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.task import Task
from stepladder.service.worlds import build_worlds, whole_world


def make_task(folder: Path, data: str = 'examples = "examples.jsonl"') -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(f'name = "t"\ninstruction = "Answer."\n[data]\n{data}\n', encoding="utf-8")
    return Task.load(folder)


def row(number: int, source: str = "human", *, name: str | None = None) -> Example:
    reference = Message("assistant", "x" * (number % 40 + 1))
    text = Input.of(f"question {number}", name or f"{source[0]}{number}")
    return Example(text, reference, metadata={"source": source}, line=number + 1)


def clusters_of(examples: Sequence[Example]) -> dict[str, int]:
    """Rows that ask the same are one cluster."""
    return {example.id: int(example.input.text.split()[1]) for example in examples}


def check(task: Task, examples: Sequence[Example], splits: Splits) -> None:
    """No choice, no stopping and no test rests on a teacher's row or is told by one."""
    clusters = clusters_of(examples)
    worlds = build_worlds(task, examples, splits, folds=5)
    for world in [*worlds, whole_world(task, examples, splits)]:
        for judged in (world.validation, world.held_out, world.test.for_leak_check()):
            assert not any(example.by_teacher for example in judged)
        assert {clusters[one.id] for one in world.train}.isdisjoint(clusters[name] for name in world.test.ids)
        assert {clusters[one.id] for one in world.tune_rows}.isdisjoint(clusters[one.id] for one in world.held_out)
    assert all(splits.split_of.get(example.id, "train") == "train" for example in examples if example.by_teacher)


@pytest.mark.parametrize(("seen", "regime"), [(20, "prompts"), (60, "cross"), (160, "medium"), (320, "large")])
@settings(max_examples=12, deadline=None)
@given(taught=st.lists(st.integers(0, 500), max_size=60, unique=True))
def test_teacher_rows_learn_in_every_regime_and_never_choose_or_confirm(
    tmp_path_factory: pytest.TempPathFactory, seen: int, regime: str, taught: list[int]
) -> None:
    task = make_task(tmp_path_factory.mktemp("task"))
    examples = [*(row(number) for number in range(seen)), *(row(number, "teacher") for number in taught)]
    splits, notes = load_or_make(task, examples, clusters_of(examples))
    assert splits.regime == regime  # what a person has answered decides, not what a teacher adds
    check(task, examples, splits)
    assert bool(taught) == any("only ever teach" in note for note in notes)
    again, _ = load_or_make(task, examples, clusters_of(examples))
    assert again == splits


def test_a_teacher_row_teaches_where_nobody_is_tested_on_its_question(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    examples = [*(row(number) for number in range(60)), row(900, "teacher"), row(5, "teacher")]
    splits, _ = load_or_make(task, examples, clusters_of(examples))
    worlds = build_worlds(task, examples, splits, folds=5)
    assert all("t900" in {one.id for one in world.train} for world in worlds)
    for world in worlds:
        assert ("t5" in {one.id for one in world.train}) == ("h5" in {one.id for one in world.train})


def test_a_teacher_row_that_asks_what_a_test_row_asks_is_set_aside_and_not_the_test_row(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    examples = [row(number) for number in range(160)]
    first, _ = load_or_make(task, examples, clusters_of(examples))
    tested = next(name for name, split in first.split_of.items() if split == "test")
    grown = [*examples, row(int(tested[1:]), "teacher")]
    splits, notes = load_or_make(task, grown, clusters_of(grown))
    assert splits.split_of[tested] == "test"
    assert splits.aside == {f"t{tested[1:]}"}
    assert any("1 set aside" in note for note in notes)


def test_a_row_that_a_person_has_checked_later_still_never_becomes_a_test_row(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    examples = [
        *(row(number) for number in range(160)),
        *(row(number, "teacher", name=f"x{number}") for number in range(700, 760)),
    ]
    load_or_make(task, examples, clusters_of(examples))
    checked = [replace(one, metadata={"source": "accepted"}) for one in examples]
    splits, _ = load_or_make(task, checked, clusters_of(checked))
    assert {splits.split_of[one.id] for one in checked if one.id.startswith("x")} == {"train"}


def test_teacher_rows_do_not_count_towards_the_least_that_a_climb_needs(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    examples = [*(row(number) for number in range(9)), *(row(number, "teacher") for number in range(100, 200))]
    with pytest.raises(DataError, match=r"only 9 rows\..*`stepladder label .*`"):
        load_or_make(task, examples, clusters_of(examples))
    assert load_split_file(task) is None


@pytest.mark.parametrize("name", ["test", "validation"])
def test_a_teacher_row_in_the_users_own_test_or_validation_file_is_refused_by_its_line(tmp_path: Path, name: str) -> None:
    task = make_task(tmp_path, 'train = "a.jsonl"\nvalidation = "validation.jsonl"\ntest = "test.jsonl"')
    parts = {
        "train": [*(row(number) for number in range(60)), row(400, "teacher")],
        "validation": [row(number) for number in range(100, 150)],
        "test": [row(number) for number in range(200, 250)],
    }
    everything = [example for part in parts.values() for example in part]
    splits, _ = split_given(parts, clusters_of(everything), task=task)
    assert splits.split_of["t400"] == "train"
    check(task, everything, splits)
    parts[name].append(row(450, "teacher"))
    everything = [example for part in parts.values() for example in part]
    with pytest.raises(DataError, match=rf"{name}\.jsonl:451: a model alone wrote"):
        split_given(parts, clusters_of(everything), task=task)
