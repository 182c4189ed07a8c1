"""The rung over 4-bit weights: left out with its reason, climbed when asked for, and answered by the model that was tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import stepladder
from small_tasks import World, write_task
from stepladder.domain.climb import RungResult
from stepladder.domain.errors import UsageError
from stepladder.engines.fake import FakeEngine
from stepladder.service import wiring
from stepladder.service.chat import open_chat
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder, FakeTuner

SKIP = 'skip = ["classifier", "few-shot", "nearest", "lora+nearest", "lora+constrained", "constrained"]'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def four_bit_tools(world: World) -> Tools:
    return Tools(FakeEngine(world.answer, name="fake in 4 bits"), FakeTuner(), FakeEmbedder())


def qlora_of(climb: stepladder.Climb) -> RungResult:
    return next(rung for rung in climb.rungs if rung.name == "qlora")


def test_it_is_left_out_with_its_reason_and_nothing_is_loaded(tmp_path: Path) -> None:
    world = write_task(tmp_path / "things", 140, rungs=SKIP)

    def never() -> Tools:
        raise AssertionError("4-bit weights were loaded")

    climb = stepladder.climb(tmp_path / "things", tools=replace(world.tools, four_bit=never))
    assert qlora_of(climb).reason.startswith("Tuning over 16-bit weights fits this machine; `[rungs] include")
    elsewhere = stepladder.climb(tmp_path / "things", tools=world.tools, fresh=True)
    assert qlora_of(elsewhere).reason == "'fake' cannot be held in 4 bits here."


def test_asked_for_it_is_tuned_and_answered_by_the_4_bit_model_with_the_prompt_of_lora(tmp_path: Path) -> None:
    world = write_task(tmp_path / "things", 140, rungs=f'{SKIP}\ninclude = ["qlora"]')
    four_bit = four_bit_tools(world)
    tools = replace(world.tools, four_bit=lambda: four_bit)
    climb = stepladder.climb(tmp_path / "things", tools=tools)
    rung = qlora_of(climb)
    assert rung.status.value == "ran"
    assert rung.model == "fake in 4 bits"
    assert isinstance(four_bit.tuner, FakeTuner)
    assert isinstance(four_bit.engine, FakeEngine)
    assert [training.seed for training in four_bit.tuner.trainings] == [0, 1]  # one prompt: the one that `lora` chose
    adapters = {training.folder for training in four_bit.tuner.trainings}
    assert adapters
    assert {call.adapter for call in four_bit.engine.calls} <= {*adapters, None}
    plain = tools.engine
    assert isinstance(plain, FakeEngine)
    assert not {call.adapter for call in plain.calls} & adapters


def test_a_talk_with_it_is_heard_word_by_word_and_is_no_part_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "build_tuner", lambda *given, **more: FakeTuner())  # the fake model cannot be trained
    world = write_task(tmp_path / "things", 140, rungs=f'{SKIP}\ninclude = ["qlora"]', model='base = "fake"')
    four_bit = four_bit_tools(world)
    climb = stepladder.climb(tmp_path / "things", tools=replace(world.tools, four_bit=lambda: four_bit))
    recorded = (climb.folder / "generations.jsonl").read_bytes()
    heard: list[str] = []
    open_chat(climb.folder, rung="qlora").voices[0].answer("one two three", heard.append)
    assert heard == ["one", " two", " three"]
    assert (climb.folder / "generations.jsonl").read_bytes() == recorded


def test_only_a_rung_that_may_be_left_out_can_be_included(tmp_path: Path) -> None:
    world = write_task(tmp_path / "things", 140, rungs='include = ["rag"]')
    with pytest.raises(UsageError, match="names 'rag', which is not left out"):
        stepladder.climb(tmp_path / "things", tools=world.tools)
