"""A task whose answers are tool calls, from its rows to the verdict and to new answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_server import chat_server, completion
from hostile_texts import HOSTILE_TEXTS
from stepladder.domain.answer import read_answer
from stepladder.domain.climb import RungResult, RungStatus
from stepladder.domain.errors import DataError, ModelError
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.interfaces.exit_codes import exit_code
from stepladder.models.loading import load, unload_all
from stepladder.service.climb import Climb, climb
from stepladder.service.predict import predict
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder
from tiny_model import build_tiny_model
from tool_tasks import CALLING_TEMPLATE, THANKS, TOOLS, CallingWorld, answers_of, rows, write_tool_task


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def named(finished: Climb, name: str) -> RungResult:
    return next(rung for rung in finished.rungs if rung.name == name)


def recorded_rows(finished: Climb) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_task_of_tool_calls_climbs_to_a_tuned_model(tmp_path: Path) -> None:
    world = write_tool_task(tmp_path / "task", 130)
    finished = climb(tmp_path / "task", tools=world.tools)
    assert finished.record.grader == "tool_calls"
    assert finished.verdict.rung is not None
    assert finished.verdict.rung.startswith("lora")
    for name in ("prompt", "few-shot", "nearest", "lora"):
        assert {"validation/parses", "validation/tools_right", "validation/exact"} <= named(finished, name).metrics.keys()
    for name in ("constrained", "lora+constrained"):
        assert named(finished, name).status is RungStatus.NOT_APPLICABLE
        assert "tool calls" in named(finished, name).reason
    assert "tool calls" in named(finished, "classifier").reason
    assert "forms" in named(finished, "prompt").reason
    calls = [read_answer(row["answer"]).tool_calls for row in recorded_rows(finished) if row["rung"] == "lora"]
    assert {call.name for one in calls for call in one} == {"get_weather", "set_alarm"}


def test_the_rows_a_model_learns_end_with_the_calls_themselves(tmp_path: Path) -> None:
    world = write_tool_task(tmp_path / "task", 130)
    climb(tmp_path / "task", tools=world.tools)
    learned = [row for training in world.tuner.trainings for row in training.rows]
    ends = [row.messages[-1] for row in learned]
    assert {len(end.tool_calls) for end in ends} == {0, 1}
    assert all(end.weight == 1 and bool(end.content) != bool(end.tool_calls) for end in ends)
    assert all(row.tools == TOOLS for row in learned)
    weather = next(end for end in ends if end.tool_calls and end.tool_calls[0].name == "get_weather")
    assert list(json.loads(weather.tool_calls[0].arguments)) == ["city", "day"]  # the tool's order, not the row's


def serve(world: CallingWorld, request: dict[str, Any]) -> dict[str, Any]:
    """The world's answer in OpenAI's shape; every seventh call of an alarm has arguments that break off."""
    turns = request["messages"]
    message = world.message(next(turn["content"] for turn in reversed(turns) if turn["role"] == "user"), len(turns))
    chat = message.as_chat()
    for call in chat.get("tool_calls", ()):
        if call["function"]["name"] == "set_alarm" and call["id"].endswith("7"):
            call["function"]["arguments"] = call["function"]["arguments"][:9]
    return completion(message.content or None, "tool_calls" if message.tool_calls else "stop", **chat)


def test_a_served_model_is_sent_the_tools_and_its_calls_are_graded_and_predicted(tmp_path: Path) -> None:
    with chat_server() as server:
        world = write_tool_task(tmp_path / "task", 20, rungs='skip = ["nearest"]', model=f'base = "{server.url} caller"')
        world.zero_shot = world.shown = 0.9
        server.answer = lambda request: serve(world, request)
        finished = climb(tmp_path / "task", tools=replace(served(server.url), tuner=None, embedder=FakeEmbedder()))
        assert all(request["tools"] == list(TOOLS) for request in server.requests if len(request["messages"]) > 1)
        assert_every_call_has_a_result(server.requests)
        broken = [row for row in recorded_rows(finished) if '"arguments": "' in row["answer"]]
        assert broken
        assert all(row["score"] is not None and row["score"] < 1 for row in broken)
        shots = named(finished, "few-shot")
        assert shots.status is RungStatus.RAN
        demonstrated = [turn for request in server.requests for turn in request["messages"] if turn.get("tool_calls")]
        assert demonstrated
        inputs = tmp_path / "new.jsonl"
        asked = [{"id": row["id"], "messages": row["messages"][:1], "tools": row["tools"]} for row in rows(15)]
        inputs.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
        predict(finished.folder, inputs, tmp_path / "out.jsonl", rung="prompt")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in asked]
    called = [call for line in lines for call in line["tool_calls"]]
    assert {"name": "get_weather", "arguments": {"city": "Graz", "day": "Monday"}} in called
    assert any(isinstance(call["arguments"], str) for call in called)  # broken off
    assert "You are welcome." in [line["answer"] for line in lines if not line["tool_calls"]]


def served(url: str) -> Tools:
    from stepladder.engines.endpoint import EndpointEngine

    return Tools(EndpointEngine(url, "caller", "none"), None, FakeEmbedder())


def assert_every_call_has_a_result(requests: list[dict[str, Any]]) -> None:
    """As OpenAI's own service demands of every request."""
    for request in requests:
        turns = request["messages"]
        for place, turn in enumerate(turns):
            wanted = [call["id"] for call in turn.get("tool_calls", ())]
            assert [after["tool_call_id"] for after in turns[place + 1 : place + 1 + len(wanted)]] == wanted


@pytest.mark.parametrize("part", ["base", "compared"])
def test_a_model_whose_template_drops_tools_is_refused_by_name_before_anything_is_written_or_asked(
    tmp_path: Path, part: str
) -> None:
    model = build_tiny_model(tmp_path / "no-tools")
    setting = f'base = "{model}"' if part == "base" else f'compare = ["{model}"]'
    world = write_tool_task(tmp_path / "task", 60, model=setting)
    before = sorted((tmp_path / "task").iterdir())
    tools = Tools(TransformersEngine(load(str(model), device="cpu")), None, FakeEmbedder()) if part == "base" else world.tools
    with pytest.raises(ModelError, match=r"The chat template of .*no-tools drops tools.* row 'r000'.*URL NAME") as caught:
        climb(tmp_path / "task", tools=tools, device="cpu")
    unload_all()
    assert exit_code(caught.value) == 4
    if part == "base":
        assert sorted((tmp_path / "task").iterdir()) == before
    assert not (tmp_path / "task" / "runs").exists()


def test_a_local_model_whose_template_carries_tools_is_asked(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "calling", template=CALLING_TEMPLATE, hidden=16, layers=1)
    engine = TransformersEngine(load(str(model), device="cpu", dtype="float32"))
    assert {"tools", "calls"} <= engine.can
    write_tool_task(tmp_path / "task", 12, rungs='skip = ["few-shot"]')
    finished = climb(tmp_path / "task", tools=Tools(engine, None, FakeEmbedder()))
    unload_all()
    assert finished.record.grader == "tool_calls"
    assert {"prompt", "nearest"} <= {rung.name for rung in finished.rungs if rung.status is RungStatus.RAN}


def test_expected_calls_with_broken_arguments_are_refused_with_their_line(tmp_path: Path) -> None:
    world = write_tool_task(tmp_path / "task", 30)
    path = tmp_path / "task" / "examples.jsonl"
    made = rows(30)
    made[5]["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"city": '
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    with pytest.raises(DataError, match=r"examples\.jsonl:6: the arguments of the expected call 'get_weather'"):
        climb(tmp_path / "task", tools=world.tools)


def test_recorded_calls_in_openais_shape_are_scored_like_any_answer(tmp_path: Path) -> None:
    world = write_tool_task(tmp_path / "task", 60)
    made = [{**row, "recorded": row["messages"][1] if row["messages"][1]["content"] is None else THANKS} for row in rows(60)]
    path = tmp_path / "task" / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    finished = climb(tmp_path / "task", tools=world.tools)
    validation = named(finished, "recorded").validation
    assert validation is not None
    assert validation.value == 1.0


def test_the_report_shows_calls_and_escapes_what_they_hold(tmp_path: Path) -> None:
    world = write_tool_task(tmp_path / "task", 60)
    made = rows(60)
    for number, row in enumerate(made):
        for call in row["messages"][1].get("tool_calls", ()):
            fields = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps({**fields, "note": HOSTILE_TEXTS[number % 12]})
    (tmp_path / "task" / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    world.answers, world.shown, world.tuned = answers_of(made), 0.9, 0.3  # the tuned rung breaks rows, which are then shown
    finished = climb(tmp_path / "task", tools=world.tools)
    shown = [row for row in finished.record.regressions if "alert(" in row.reference]
    assert any(read_answer(row.baseline_answer).tool_calls for row in shown)
    html = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "get_weather" in html
    assert "alert(" in html
    assert not any(tag in html.lower() for tag in ("<script", "<img", "<iframe", "<details open ontoggle"))
