"""Test rows asked again one by one: how many, by whom, and what is counted as changed."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small_tasks import World, write_task
from stepladder.domain.climb import GradedRow
from stepladder.domain.errors import EngineError
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Choices, Prompt
from stepladder.domain.sealed import Opened
from stepladder.domain.task import Task
from stepladder.engines.fake import FakeEngine
from stepladder.service.climb import climb
from stepladder.service.contest import replay_noise
from stepladder.service.replay import Replay, replay_alone
from stepladder.service.rung_run import RungRun, run_rung
from stepladder.service.setup import (
    Base,
    ClimbOptions,
    Watcher,
    fit_context,
    make_base,
    open_run,
    record_engine,
    runs_folder,
)
from stepladder.service.show import ladder_lines
from stepladder.service.speeds import Speeds
from stepladder.service.workload import SLOWER_THAN_THE_PROBE, Workload, estimate_confirmation, replay_share
from stepladder.service.worlds import build_worlds
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.ladder import technique

LATE, NEVER = 0.0, math.inf


class Alone(FakeEngine):
    """Answers as the world does; when a prompt comes alone, it is noted, and the first `spoilt` of these answers get a suffix."""

    def __init__(self, world: World, spoilt: int = 0, suffix: str = "", fails_after: float = math.inf) -> None:
        super().__init__(world.answer)
        self.alone: list[str] = []
        self.spoilt, self.suffix, self.fails_after = spoilt, suffix, fails_after

    def generate(self, prompts: Sequence[Prompt], *args: Any, **settings: Any) -> list[Generation]:
        answers = super().generate(prompts, *args, **settings)
        if len(prompts) > 1:
            return answers
        if len(self.alone) >= self.fails_after:
            raise EngineError("the server sleeps.")
        self.alone.append(prompts[0].id)
        return [replace(answers[0], text=answers[0].text + self.suffix)] if len(self.alone) <= self.spoilt else answers


OPENED = Opened("a run", 1)


class Scene:
    """A task with some rungs fitted and their test rows answered in batches; then `replay`."""

    def __init__(self, folder: Path, rungs: Sequence[str], *, rows: int = 160, use: str = "", **engine: Any) -> None:
        world = write_task(folder, rows, use=use)
        self.engine = Alone(world, **engine)
        self.said: list[str] = []
        watcher = replace(Watcher(), say=self.said.append)
        tools = replace(world.tools, engine=self.engine)
        self.base: Base = make_base(Task.load(folder), ClimbOptions(), watcher, tools=tools)
        self.run: RunFolder = open_run(self.base, runs_folder(self.base.task))
        self.runs: dict[str, list[RungRun]] = {name: [] for name in rungs}
        self.rows: list[GradedRow] = []
        for place in build_worlds(self.base.task, self.base.data.examples, self.base.data.splits, folds=3):
            recipes: dict[str, Any] = {}
            for name in rungs:
                home = self.run.rung_folder(name, place.fold)
                context = fit_context(
                    self.base, place, record_engine(self.base.engine, self.run, None), Choices(forms=1, shots=(2,)), home, recipes
                )
                ran = run_rung(name, technique(name), place, context, self.base.marker, self.run)
                assert ran.predictor is not None
                recipes[name] = ran.recipe
                self.runs[name].append(ran)
                answers = ran.predictor.predict([example.input for example in place.test.open(OPENED)])
                self.rows += self.base.marker.rows(name, "test", place.test.open(OPENED), answers, fold=place.fold)
        self.engine.alone.clear()

    def replay(self, deadline: float) -> dict[str, Replay]:
        return replay_alone(self.base, self.run, self.runs, self.rows, OPENED, deadline=deadline)


@pytest.mark.parametrize(("rungs", "each"), [(("prompt",), 30), (("prompt", "few-shot"), 15)])
def test_thirty_rows_are_replayed_however_late_it_is_and_different_ones(
    tmp_path: Path, rungs: tuple[str, ...], each: int
) -> None:
    scene = Scene(tmp_path / "task", rungs)
    replays = scene.replay(LATE)
    assert {name: replay.rows for name, replay in replays.items()} == dict.fromkeys(rungs, each)
    assert len(set(scene.engine.alone)) == 30


def test_with_time_enough_each_contender_answers_thirty_rows_the_same_ones(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt", "few-shot"))
    assert [replay.rows for replay in scene.replay(NEVER).values()] == [30, 30]
    assert sorted(scene.engine.alone) == sorted([*set(scene.engine.alone)] * 2)


def test_where_latency_decides_each_contender_answers_thirty_rows_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt", "few-shot"), use="max_latency_seconds = 2.0")
    assert [replay.rows for replay in scene.replay(LATE).values()] == [30, 30]


def test_in_cross_fitting_the_rows_come_from_every_fold(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt",), rows=60)
    folds = {row.id: row.fold for row in scene.rows}
    assert scene.replay(LATE)["prompt"].rows == 30
    assert {folds[name] for name in scene.engine.alone} == {0, 1, 2}


def test_with_fewer_rows_all_are_replayed_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt",), rows=20)
    assert scene.replay(NEVER)["prompt"].rows == len({row.id for row in scene.rows}) == len(scene.engine.alone) < 30


def test_a_rung_that_asks_no_model_is_not_replayed(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("baseline", "prompt"))
    assert {name: replay.rows for name, replay in scene.replay(LATE).items()} == {"prompt": 30}
    assert Scene(tmp_path / "other", ("baseline",)).replay(NEVER) == {}


def test_an_answer_that_reads_otherwise_and_scores_the_same_is_a_changed_answer_only(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt",), spoilt=4, suffix=" ")
    replay = scene.replay(LATE)["prompt"]
    assert (replay.changed_answers, replay.changed_scores) == (4, 0)


def test_an_answer_that_scores_otherwise_is_counted_as_both(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt",), spoilt=30, suffix="?")
    scored = {row.id: row.score for row in scene.rows}
    replay = scene.replay(LATE)["prompt"]
    assert replay.changed_answers == 30
    assert replay.changed_scores == sum(scored[name] == 1.0 for name in scene.engine.alone) > 0


def test_replayed_answers_are_recorded_and_not_asked_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt",))
    first = scene.replay(LATE)
    scene.engine.alone.clear()
    assert scene.replay(LATE)["prompt"].rows == first["prompt"].rows == 30
    assert scene.engine.alone == []
    assert len((scene.run.path / "replay.jsonl").read_text().splitlines()) == 30


def test_a_model_that_fails_meanwhile_costs_its_remaining_replays_not_the_verdict(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt", "few-shot"), fails_after=20)
    assert [replay.rows for replay in scene.replay(NEVER).values()] == [15, 5]
    assert any("the server sleeps." in line for line in scene.said)


def test_time_that_is_left_is_shared_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "task", ("prompt", "few-shot"))
    started = time.monotonic()
    replays = scene.replay(started + 0.2)
    assert all(15 <= replay.rows <= 30 for replay in replays.values())
    assert time.monotonic() - started < 10


def test_noise_says_how_many_rows_and_what_changed() -> None:
    noise = replay_noise({"prompt": Replay((0.1,) * 15, 5, 3), "lora": Replay((0.2,) * 15, 1, 0)}, 100)
    assert noise == {
        "replayed_rows": 30.0,
        "answers_changed_by_batching": 0.2,
        "scores_changed_by_batching": 0.1,
        "batching_floor": pytest.approx(1.96 * (0.1 / 100) ** 0.5),
        "replayed_rows prompt": 15.0,
        "replayed_rows lora": 15.0,
    }
    assert replay_noise({}, 100) == {}


@pytest.mark.parametrize(("contenders", "share"), [(1, 30), (2, 15), (3, 10), (4, 8)])
def test_shares_add_up_to_thirty_rows_or_more(contenders: int, share: int) -> None:
    assert replay_share(contenders, latency_decides=False) == share
    assert replay_share(contenders, latency_decides=True) == 30


def test_the_plan_counts_the_replay() -> None:
    work = Workload(96, 19, 77, 64, 1, 213, 45, 42, 88, epochs=5, batch_size=4)
    speeds = Speeds(prompt=1500, completion=400, training=250)
    plain, strict = (
        estimate_confirmation(replace(work, latency_decides=decides), Choices(), speeds, tuned=True) for decides in (False, True)
    )
    read = 213 + 45 + 1.5 * work.demonstration_tokens  # between a plain prompt and a few-shot one
    alone = SLOWER_THAN_THE_PROBE * read / 1500 + 42 * 32 / 400  # seconds an answer
    assert strict - plain == pytest.approx((3 * 30 - 3 * 10) * alone)


def test_the_climb_tells_the_noise_in_its_record_and_its_lines(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160, rungs='skip = ["classifier", "lora+constrained", "lora+nearest"]')
    finished = climb(tmp_path / "task", tools=world.tools)
    saved = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))["record"]["noise"]
    assert saved["replayed_rows"] >= 30
    assert saved["answers_changed_by_batching"] == 0.0
    assert any(line.strip().startswith("Noise: ") for line in ladder_lines(finished.record))
    page = re.sub("<[^>]*>", "", (finished.folder / "report.html").read_text(encoding="utf-8"))
    assert "scores changed by batching: 0 %" in page
