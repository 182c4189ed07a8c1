"""Nobody who fits or chooses can reach a test row; the ledger counts who opened them; adding rows and climbing again."""

from __future__ import annotations

import gc
import json
import re
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from small_tasks import World, write_task
from stepladder.data.split import record_opening
from stepladder.domain.messages import Example
from stepladder.domain.protocols import Choices, Decoding, Prompt
from stepladder.domain.sealed import Opened, SealedRows
from stepladder.domain.task import Task
from stepladder.domain.verdict import Outcome
from stepladder.engines.fake import FakeEngine
from stepladder.service.climb import Climb, climb
from stepladder.service.setup import ClimbOptions, Watcher, fit_context, make_base
from stepladder.service.worlds import build_worlds

SKIP = 'skip = ["classifier", "lora+constrained", "lora+nearest"]'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def reachable(start: object) -> Iterator[object]:
    """Everything that hangs on an object: fields, items, closures, but neither modules nor classes nor a function's module."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (types.ModuleType, type)):
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, types.FunctionType):
            waiting += [found.__closure__, found.__defaults__, found.__kwdefaults__]
        else:
            waiting += gc.get_referents(found)


@pytest.mark.parametrize("rows", [60, 160, 320])
def test_no_test_row_hangs_on_what_a_technique_is_given(tmp_path: Path, rows: int) -> None:
    world = write_task(tmp_path / "task", rows)
    base = make_base(Task.load(tmp_path / "task"), ClimbOptions(), Watcher(), tools=world.tools)
    for place in build_worlds(base.task, base.data.examples, base.data.splits, folds=5):
        sealed = set(place.test.ids)
        context = fit_context(base, place, base.engine, Choices(), tmp_path / "rung", {})
        assert sealed
        hanging = list(reachable(context))
        examples = {found.id for found in hanging if isinstance(found, Example)}
        assert examples, "the walk finds the rows that a technique is given"
        assert examples.isdisjoint(sealed)
        assert not any(isinstance(found, SealedRows) for found in hanging)


def test_sealed_rows_open_only_with_proof_of_the_ledgers_entry() -> None:
    sealed = SealedRows(())
    with pytest.raises(TypeError, match="proof of an entry in the ledger"):
        sealed.open(3)  # type: ignore[arg-type]
    assert sealed.open(Opened("run", 1)) == ()


@pytest.mark.parametrize("rows", [60, 160, 320])
def test_no_test_row_is_asked_before_the_ledger_is_entered_so_all_racing_is_on_validation_rows(tmp_path: Path, rows: int) -> None:
    folder = tmp_path / "task"
    world = write_task(folder, rows, rungs=SKIP)
    before: set[str] = set()

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        ledger = folder / "splits.json"
        if not ledger.exists() or not json.loads(ledger.read_text(encoding="utf-8"))["openings"]:
            before.add(prompt.messages[-1].content)
        return world.answer(prompt, decoding, adapter)

    finished = climb(folder, tools=replace(world.tools, engine=FakeEngine(answer)))
    splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    texts = {line["id"]: line["prompt"] for line in map(json.loads, (folder / "examples.jsonl").read_text().splitlines())}
    tested = [texts[name] for name, place in splits["rows"].items() if place["split"] == "test"]
    assert len(before) > 20
    assert len(splits["openings"]) == 1
    if finished.record.regime != "cross":  # there every row is a validation row of the other folds
        assert tested
    assert [text for text in tested if any(text in asked for asked in before)] == []


def climbed(folder: Path, world: World, **options: object) -> Climb:
    return climb(folder, tools=world.tools, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("opening", "warns", "confirms"), [(4, False, True), (5, True, True), (19, True, True), (20, True, False)]
)
def test_the_ledger_warns_from_the_fifth_opening_and_confirms_nothing_from_the_twentieth(
    tmp_path: Path, opening: int, warns: bool, confirms: bool
) -> None:
    folder = tmp_path / "task"
    world = write_task(folder, 160, top="target = 0.4", rungs='skip = ["classifier", "lora", "lora+constrained", "lora+nearest"]')
    world.shown = 0.9
    make_base(Task.load(folder), ClimbOptions(), Watcher(), tools=world.tools)  # writes the split
    for earlier in range(1, opening):
        assert len(record_opening(Task.load(folder), f"run {earlier}")) == earlier
    lines: list[str] = []
    finished = climbed(folder, world, watcher=replace(Watcher(), say=lines.append))
    assert finished.verdict.outcome is Outcome.SUFFICIENT
    assert finished.verdict.confidence == ("confirmed" if confirms else "indicative")
    assert any(f"opened {opening} times" in line for line in lines) == warns
    assert any(f"opened {opening} times" in reason for reason in finished.verdict.reasons) == warns


def test_new_test_rows_confirm_again(tmp_path: Path) -> None:
    """Twenty looks at 64 test rows are none at the hundreds that came after."""
    folder = tmp_path / "task"
    skip = 'skip = ["classifier", "lora", "lora+constrained", "lora+nearest"]'
    world = write_task(folder, 160, top="target = 0.4", rungs=skip)
    world.shown = 0.9
    make_base(Task.load(folder), ClimbOptions(), Watcher(), tools=world.tools)
    for earlier in range(1, 20):
        record_opening(Task.load(folder), f"run {earlier}")
    assert climbed(folder, world).verdict.confidence == "indicative"
    write_task(folder, 600, top="target = 0.4", rungs=skip)
    lines: list[str] = []
    finished = climbed(folder, world, watcher=replace(Watcher(), say=lines.append))
    assert finished.record.split_sizes["test"] > 2 * 64
    assert finished.verdict.confidence == "confirmed"
    assert not any("opened" in line for line in [*lines, *finished.verdict.reasons])


def test_adding_the_rows_that_an_undecided_verdict_asks_for_and_climbing_again_decides(tmp_path: Path) -> None:
    """The loop: undecided names a number, the user labels so many, the new rows fill the test split, the verdict decides."""
    folder = tmp_path / "task"
    skip = 'skip = ["classifier", "lora", "lora+constrained", "lora+nearest"]'
    world = write_task(folder, 125, top="target = 0.6", rungs=skip)
    world.shown = 0.68
    first = climbed(folder, world)
    assert first.verdict.outcome is Outcome.UNDECIDED
    needed = first.verdict.needed_test_rows
    assert needed is not None
    tested = first.record.split_sizes["test"]
    label, to_test = map(int, re.findall(r"Label (\d+) more rows, of which (\d+) go to test", first.verdict.would_change[0])[0])
    assert tested + to_test >= needed
    before = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    write_task(folder, 125 + label, top="target = 0.6", rungs=skip)
    second = climbed(folder, world)
    after = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    assert {name: place["split"] for name, place in before["rows"].items()} == {
        name: after["rows"][name]["split"] for name in before["rows"]
    }
    assert second.record.split_sizes["test"] == tested + to_test
    assert len(after["openings"]) == 2
    assert second.verdict.outcome is Outcome.SUFFICIENT
