"""Whole climbs over fakes whose forgetting is known: what passes, what is restored and by which remedy, and what is ruled out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from small_tasks import World, write_task
from stepladder.data.split_file import load_split_file
from stepladder.domain.climb import RungResult
from stepladder.domain.errors import DataError, ModelError
from stepladder.domain.protocols import Decoding, Prompt, Tuned
from stepladder.domain.retention import Retention
from stepladder.domain.task import Task
from stepladder.engines.fake import ComparingFakeEngine, FakeEngine
from stepladder.evaluation.records import rederive, verdict_to_json
from stepladder.files import hash_file
from stepladder.service.climb import Climb, climb
from stepladder.service.open_run import load_climb
from stepladder.service.retention_text import retention_line
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder, FakeTuner

SKIP = 'skip = ["classifier", "few-shot", "nearest", "lora+nearest", "lora+constrained"]'
ADAPTER = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def openings(folder: Path) -> int:
    file = load_split_file(Task.load(folder))
    return 0 if file is None else len(file.openings)


def strength(adapter: Path) -> float:
    """How much of its effect an adapter of the fake tuner has left."""
    return float(load_file(adapter / ADAPTER)["layer.lora_B.weight"][0])


class SlowTuner(FakeTuner):
    """Takes longer than any plan of a fake tuner foresees."""

    seconds = 3.0

    def tune(self, *args: Any, **named: Any) -> Tuned:
        time.sleep(self.seconds)
        return super().tune(*args, **named)


@dataclass
class Forgetful:
    """A climb whose adapters move from their base as `moved` says; `tuned` is how often they are right when at full strength."""

    folder: Path
    moved: Callable[[Path], float] = lambda adapter: 0.0
    other_tasks: bool = True
    rows: int = 120
    tuner: FakeTuner = field(default_factory=FakeTuner)
    answer: Callable[[World, Prompt, Decoding, Path | None], str] = lambda world, *asked: world.answer(*asked)
    rungs: str = SKIP

    def climb(self, budget_minutes: float | None = None) -> Climb:
        world = write_task(self.folder, self.rows, use=f"other_tasks = {str(self.other_tasks).lower()}", rungs=self.rungs)
        engine = ComparingFakeEngine(lambda *asked: self.answer(world, *asked), moved=self.moved)
        return climb(self.folder, tools=Tools(engine, self.tuner, FakeEmbedder()), budget_minutes=budget_minutes)


def lora_of(finished: Climb) -> RungResult:
    return next(rung for rung in finished.rungs if rung.name == "lora")


def retention_of(finished: Climb) -> Retention:
    return next(one for one in finished.record.retention if one.rung == "lora" and not one.refit)


def changes(retention: Retention) -> Mapping[str, float]:
    return {one.name: one.loss.value for one in retention.measures}


def test_a_healthy_tune_passes_and_is_recommended(tmp_path: Path) -> None:
    finished = Forgetful(tmp_path / "task", lambda adapter: 0.01).climb()
    found = retention_of(finished)
    assert finished.verdict.rung == "lora"
    assert (found.failed, found.remedy, found.tried, found.blocked) == ((), "", (), "")
    assert changes(found)["general text"] == pytest.approx(0.01)
    assert changes(found)["KL, task inputs"] == pytest.approx(0.01)
    assert len(found.measures) == 8
    assert "adapter_scale" not in lora_of(finished).recipe


def test_an_overcooked_tune_is_scaled_until_it_passes_and_what_answers_is_what_ships(tmp_path: Path) -> None:
    opened_before: list[int] = []

    def moved(adapter: Path) -> float:
        opened_before.append(openings(tmp_path / "task"))
        return 0.15 * strength(adapter)

    finished = Forgetful(tmp_path / "task", moved).climb()
    found = retention_of(finished)
    assert [(one.name, one.failed) for one in found.tried] == [
        ("adapter scale 0.75", ("general text",)),
        ("adapter scale 0.5", ()),
    ]
    assert found.remedy == "adapter scale 0.5"
    assert changes(found)["general text"] == pytest.approx(0.075)
    assert (set(opened_before), openings(tmp_path / "task")) == ({0}, 1)  # settled before the test rows are opened
    recipe = lora_of(finished).recipe
    assert recipe["adapter_scale"] == 0.5
    assert strength(finished.folder / "adapter") == 0.5
    rows = [json.loads(line) for line in (finished.folder / "rows.jsonl").read_text().splitlines()]
    spoke = {row["adapter_sha256"] for row in rows if row["rung"] == "lora" and row["seed"] == 0}
    assert spoke == {hash_file(finished.folder / "adapter" / ADAPTER)} == {recipe["adapters"][0]["adapter_sha256"]}
    assert finished.verdict.rung == "lora"
    home = finished.folder / "rungs" / "lora"
    folders = [home / adapter["folder"] for adapter in recipe["adapters"]]
    assert [strength(folder) for folder in folders] == [0.5] * len(folders)  # every seed alike
    assert (home / folders[0].name.removesuffix("-scaled-0.5")).is_dir()  # the trained one stays


def test_scaling_that_costs_the_task_gives_way_to_replay(tmp_path: Path) -> None:
    def moved(adapter: Path) -> float:
        return 0.0 if "replay" in str(adapter) else 0.15 * strength(adapter)

    def answer(world: World, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        weak = adapter is not None and strength(adapter) < 1
        return world.answer(prompt, decoding, None if weak else adapter)

    tuner = FakeTuner()
    finished = Forgetful(tmp_path / "task", moved, tuner=tuner, answer=answer).climb()
    found = retention_of(finished)
    assert found.remedy == "replay of the base's own answers"
    scores = {one.name: one.score for one in found.tried if one.score is not None}
    assert scores["adapter scale 0.5"] < scores[found.remedy]
    again = [training for training in tuner.trainings if "replay" in training.folder.name]
    assert again
    for training in again:
        replayed = [row for row in training.rows if row.id.startswith("replay-")]
        assert len(replayed) / len(training.rows) == pytest.approx(0.3, abs=0.02)
        assert all(row.messages[-1].weight == 1.0 for row in replayed)
        assert not [row for row in training.held_out if row.id.startswith("replay-")]
    assert lora_of(finished).recipe["adapters"][0]["folder"].endswith("-replay")


def test_a_lower_learning_rate_is_the_last_remedy(tmp_path: Path) -> None:
    finished = Forgetful(tmp_path / "task", lambda adapter: 0.0 if "slower" in str(adapter) else 1.0).climb()
    found = retention_of(finished)
    assert found.remedy == "learning rate 0.00025"  # a quarter of the fake tuner's peak
    assert [one.name for one in found.tried][:4] == [
        "adapter scale 0.75",
        "adapter scale 0.5",
        "adapter scale 0.25",
        "replay of the base's own answers",
    ]


def test_a_tune_that_nothing_restores_is_shown_and_ruled_out_also_when_derived_again(tmp_path: Path) -> None:
    finished = Forgetful(tmp_path / "task", lambda adapter: 1.0).climb()
    assert finished.verdict.rung != "lora"
    lora = lora_of(finished)
    assert lora.test is not None
    assert lora.role == "tuned champion"
    assert any("lora is ruled out: it lost general abilities (general text)" in why for why in finished.verdict.reasons)
    stored = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))
    again = rederive(stored["inputs"])
    assert verdict_to_json(again) == verdict_to_json(finished.verdict)
    assert rederive(stored["inputs"], target=0.9).rung != "lora"
    assert load_climb(finished.folder).record.retention == finished.record.retention


def test_where_the_champion_fails_the_next_tuned_rung_is_looked_at(tmp_path: Path) -> None:
    rungs = 'skip = ["classifier", "few-shot", "lora+constrained"]'
    finished = Forgetful(tmp_path / "task", lambda adapter: 0.0 if "lora+nearest" in str(adapter) else 1.0, rungs=rungs).climb()
    known = {one.rung: one.blocked for one in finished.record.retention}
    assert known["lora"]
    assert known["lora+nearest"] == ""
    champion = next(rung for rung in finished.rungs if "tuned champion" in rung.role)
    assert champion.name == "lora+nearest"


def test_without_other_tasks_what_was_forgotten_is_reported_and_does_not_block(tmp_path: Path) -> None:
    finished = Forgetful(tmp_path / "task", lambda adapter: 1.0, other_tasks=False).climb()
    found = retention_of(finished)
    assert finished.verdict.rung == "lora"
    assert changes(found)["general text"] == pytest.approx(1.0)
    assert not found.tried
    said = "General abilities of lora: past their limit (general text), which does not count without other tasks. Loss: general"
    assert retention_line(found).startswith(said)


def test_a_model_that_no_longer_stops_is_ruled_out_even_without_other_tasks(tmp_path: Path) -> None:
    def answer(world: World, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        known = world.answer(prompt, decoding, adapter)
        return "on " * 400 if adapter is not None and prompt.id.startswith("probe-") else known

    finished = Forgetful(tmp_path / "task", other_tasks=False, answer=answer).climb()
    found = retention_of(finished)
    assert [one.name for one in found.failed] == ["self-stopping", "repetition"]
    assert finished.verdict.rung != "lora"


def test_an_engine_that_cannot_compare_says_not_measured_and_blocks_with_other_tasks(tmp_path: Path) -> None:
    world = write_task(tmp_path, 120, use="other_tasks = true", rungs=SKIP)
    finished = climb(tmp_path, tools=Tools(FakeEngine(world.answer), FakeTuner(), FakeEmbedder()))
    assert "General abilities of lora: not measured. The engine 'fake' cannot compare" in str(finished)
    assert any("its general abilities were not measured" in why for why in finished.verdict.reasons)
    assert finished.verdict.rung != "lora"


def test_abilities_that_no_time_was_left_for_are_named_beside_the_verdict(tmp_path: Path) -> None:
    forgetful = Forgetful(tmp_path / "task", other_tasks=False, tuner=SlowTuner())
    finished = forgetful.climb(budget_minutes=SlowTuner.seconds / 60)
    said = "Not measured of lora: self-stopping, repetition and refusals, which could rule it out. The time of `[budget] minutes`"
    assert any(said in why for why in finished.verdict.reasons)
    stored = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))
    assert verdict_to_json(rederive(stored["inputs"])) == verdict_to_json(finished.verdict)


def test_probes_that_the_engine_cannot_take_leave_the_climb_unharmed(tmp_path: Path) -> None:
    def moved(adapter: Path) -> float:
        raise ModelError("Text 3 is too long.")

    finished = Forgetful(tmp_path / "task", moved, other_tasks=False).climb()
    assert retention_of(finished).unmeasured == "Text 3 is too long."
    assert finished.verdict.rung == "lora"


def test_a_climb_killed_after_a_remedy_continues_with_it(tmp_path: Path) -> None:
    state: dict[str, Any] = {"kill": True}

    def answer(world: World, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        if state["kill"] and adapter is not None and strength(adapter) == 0.5 and state.get("kept"):
            raise KeyboardInterrupt
        return world.answer(prompt, decoding, adapter)

    def moved(adapter: Path) -> float:
        state["kept"] = bool(list((tmp_path / "task").glob("runs/*/rungs/lora/*scaled-0.5")))
        return 0.15 * strength(adapter)

    interrupted = Forgetful(tmp_path / "task", moved, answer=answer)
    with pytest.raises(KeyboardInterrupt):
        interrupted.climb()
    state["kill"] = False
    finished = interrupted.climb()
    assert len(list((tmp_path / "task" / "runs").iterdir())) == 1
    assert retention_of(finished).remedy == "adapter scale 0.5"
    assert retention_of(finished).tried[0].name == "adapter scale 0.75"
    assert changes(retention_of(finished))["general text"] == pytest.approx(0.075)


def test_after_cross_fitting_every_fold_and_the_refit_are_guarded(tmp_path: Path) -> None:
    finished = Forgetful(tmp_path / "task", lambda adapter: 0.15 * strength(adapter), rows=80).climb()
    found = finished.record.retention
    assert finished.record.regime == "cross"
    assert [one.fold for one in found if not one.refit] == list(range(5))
    assert {one.remedy for one in found} == {"adapter scale 0.5"}
    assert [one.rung for one in found if one.refit] == ["lora"]
    assert strength(finished.folder / "adapter") == 0.5


def test_a_broken_file_of_own_probes_stops_the_climb_before_it_begins(tmp_path: Path) -> None:
    world = write_task(tmp_path, 160, use='probes = "mine.jsonl"')
    (tmp_path / "mine.jsonl").write_text('{"welcome": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"mine\.jsonl:1"):
        climb(tmp_path, tools=world.tools)
    assert not (tmp_path / "runs").exists()
