from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from small_tasks import write_task
from stepladder.domain.messages import Chunk, Input
from stepladder.domain.sealed import SealedRows
from stepladder.domain.task import Task
from stepladder.service.leaks import find_accepted, find_leaks
from stepladder.service.task_data import TaskData, load_task_data
from stepladder.service.worlds import World, build_worlds
from stepladder.techniques.fake import FakeEmbedder


def small(folder: Path, rows: int = 140) -> tuple[TaskData, list[World]]:
    write_task(folder, rows)
    data = load_task_data(Task.load(folder), FakeEmbedder(), write=False)
    return data, build_worlds(data.task, data.examples, data.splits, folds=5)


@pytest.fixture(scope="module")
def heron(tmp_path_factory: pytest.TempPathFactory) -> tuple[TaskData, World]:
    """A task whose only test row is one sentence about a heron."""
    folder = tmp_path_factory.mktemp("heron")
    write_task(folder, 140)
    row = {"id": "heron", "prompt": "A heron seen by the gate in early light (4)", "completion": "bird"}
    with (folder / "examples.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    data = load_task_data(Task.load(folder), FakeEmbedder(), write=False)
    (example,) = (example for example in data.examples if example.id == "heron")
    return data, World(None, (), (), (), (), SealedRows((example,)))


def test_a_clean_task_has_no_leak(tmp_path: Path) -> None:
    assert find_leaks(*small(tmp_path)) == ()
    assert find_leaks(*small(tmp_path / "cross", 60)) == ()


def test_a_test_row_in_the_cluster_of_a_learned_row_is_found(tmp_path: Path) -> None:
    data, (world,) = small(tmp_path)
    stolen = replace(world, train=(*world.train, world.test.for_leak_check()[0]))
    (leak,) = find_leaks(data, [stolen])
    assert leak.startswith(f"test row {world.test.for_leak_check()[0].id}: near-duplicates of rows that learn or choose")


def test_many_leaks_are_counted_and_not_listed(tmp_path: Path) -> None:
    data, (world,) = small(tmp_path)
    text = "\n\n".join(f"{row.input.text}\n{row.reference.content}" for row in world.test.for_leak_check()[:8])
    leaks = find_leaks(replace(data, chunks=(Chunk("documents/all.md", 0, len(text), text),)), [world])
    assert len(leaks) == 1
    assert f"test rows {', '.join(row.id for row in world.test.for_leak_check()[:5])} and 3 more" in leaks[0]


def test_questions_listed_above_their_answers_leak_like_those_that_stand_there_once(tmp_path: Path) -> None:
    data, (world,) = small(tmp_path)
    asked = world.test.for_leak_check()[:16]
    listed = "\n".join(row.input.text for row in asked)
    text = f"{listed}\n\n{'a word ' * 80}\n\n" + "\n\n".join(f"{row.input.text}\n{row.reference.content}" for row in asked)
    (leak,) = find_leaks(replace(data, chunks=(Chunk("faq.md", 0, len(text), text),)), [world])
    assert "and 11 more" in leak


def test_a_document_that_is_accepted_is_told_apart_from_leaks(tmp_path: Path) -> None:
    data, (world,) = small(tmp_path)
    row = world.test.for_leak_check()[0]
    text = f"{row.input.text} {row.reference.content}"
    data = replace(data, chunks=(Chunk("notes.md", 0, len(text), text),))
    toml = (tmp_path / "task.toml").read_text(encoding="utf-8")
    (tmp_path / "task.toml").write_text(toml.replace("[data]\n", '[data]\naccept = ["leak-documents"]\n'), encoding="utf-8")
    accepting = replace(data, task=Task.load(tmp_path))
    assert (len(find_leaks(data, [world])), find_accepted(data, [world])) == (1, ())
    assert find_leaks(accepting, [world]) == ()
    assert find_accepted(accepting, [world]) == (
        f"the document notes.md holds the input and the answer of test row {row.id} word for word",
    )


@pytest.mark.parametrize("overlap", [0, 1, 5, 40])
@pytest.mark.parametrize("size", [1, 2, 7, 19, 60, 200])
def test_a_leak_is_found_however_the_document_is_cut(heron: tuple[TaskData, World], size: int, overlap: int) -> None:
    text = "Notes of Tuesday.\n\nA heron seen by the gate in early light (4).\nThat was a bird, said Ann.\n\nMore tomorrow."
    step = max(1, size - overlap)
    pieces = [(at, min(len(text), at + size)) for at in range(0, len(text), step)]
    chunks = tuple(Chunk("notes.md", start, end, text[start:end]) for start, end in pieces)
    data, world = heron
    assert len(find_leaks(replace(data, chunks=chunks), [world])) == 1


def test_short_questions_and_words_inside_words_are_no_leak(heron: tuple[TaskData, World]) -> None:
    data, world = heron
    inside = "The axheron seen by the gate in early light (4), a bird"
    assert find_leaks(replace(data, chunks=(Chunk("a.md", 0, len(inside), inside),)), [world]) == ()
    short = replace(world.test.for_leak_check()[0], input=Input.of("Seen by the gate", "heron"))
    said = "Seen by the gate: bird"
    chunks = (Chunk("a.md", 0, len(said), said),)
    assert find_leaks(replace(data, examples=(short,), chunks=chunks), [replace(world, test=SealedRows((short,)))]) == ()
