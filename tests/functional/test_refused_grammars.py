"""A schema that nothing here can hold answers to costs its own rungs, by name, and not the climb."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion
from small_tasks import THINGS, World, write_task
from stepladder.domain.climb import RungStatus
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.fake import FakeEngine
from stepladder.engines.transformers.grammar import GrammarCompiler
from stepladder.service.climb import Climb, climb
from tiny_model import build_tiny_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"kinds": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
    "required": ["kinds"],
    "additionalProperties": False,
}
REFUSAL = "Invalid schema for response_format 'answer': In context=('properties', 'kinds'), 'uniqueItems' is not permitted."


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def in_shape(label: str) -> str:
    return json.dumps({"kinds": [label]})


def write_schema_task(folder: Path, rows: int) -> World:
    """The small task, its answers lists of unlike kinds."""
    world = write_task(folder, rows)
    lines = [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [json.dumps({**line, "completion": in_shape(line["completion"])}) for line in lines]
    (folder / "examples.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    toml = folder / "task.toml"
    kept = [line for line in toml.read_text(encoding="utf-8").splitlines() if not line.startswith("labels")]
    toml.write_text("\n".join(kept) + '\nschema = "schema.json"\n', encoding="utf-8")
    return world


class Holding(FakeEngine):
    """A fake whose grammars are those of the engine on this machine."""

    def __init__(self, answer: Callable[[Prompt, Decoding, Path | None], str]) -> None:
        super().__init__(answer)
        self._grammars = GrammarCompiler(build_tiny_tokenizer().to_str(), 400, [2])

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, **settings: Any) -> list[Generation]:
        if decoding.grammar is not None:
            self._grammars.start(decoding.grammar)
        return super().generate(prompts, decoding, **settings)


class Strict(ChatServer):
    """Holds answers to a schema, but not to this keyword."""

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        said = super().handle_chat(request)
        return Reply(400, {"error": {"message": REFUSAL}}) if "uniqueItems" in json.dumps(request) else said


def refused(finished: Climb, rung: str) -> str:
    """Why a rung was not climbed."""
    [found] = [one for one in finished.rungs if one.name == rung]
    assert found.status is RungStatus.NOT_APPLICABLE
    return found.reason


def test_a_keyword_that_the_local_engine_does_not_hold_leaves_out_the_constrained_rungs_alone(tmp_path: Path) -> None:
    world = write_schema_task(tmp_path / "task", 160)
    engine = Holding(lambda prompt, decoding, adapter: in_shape(world.answer(prompt, decoding, adapter)))
    finished = climb(tmp_path / "task", tools=replace(world.tools, engine=engine))
    for rung in ("constrained", "lora+constrained"):
        assert "uniqueItems" in refused(finished, rung)
    assert {rung.name for rung in finished.rungs if rung.status is RungStatus.RAN} >= {"prompt", "few-shot", "lora"}
    assert finished.verdict.rung is not None


def test_a_schema_that_a_server_refuses_leaves_out_the_constrained_rung_alone(tmp_path: Path) -> None:
    def knowing(request: dict[str, Any]) -> dict[str, Any]:
        if "response_format" in request:
            return completion('{"label": "zq7kx"}')  # the probe
        text = request["messages"][-1]["content"]
        return completion(in_shape(next((kind for kind, things in THINGS.items() if any(one in text for one in things)), "bird")))

    world = write_schema_task(tmp_path / "task", 20)
    with chat_server(Strict) as server:
        server.answer = knowing
        engine = EndpointEngine(server.url, "large")
        finished = climb(tmp_path / "task", tools=replace(world.tools, engine=engine, tuner=None))
        engine.close()
    assert "status 400" in refused(finished, "constrained")
    assert "'uniqueItems' is not permitted" in refused(finished, "constrained")
    assert {rung.name for rung in finished.rungs if rung.status is RungStatus.RAN} >= {"prompt", "few-shot"}
