"""Many adapters of several projects on one loaded base, asked at once: each answer is its own, and the base stays itself."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from live_server import BASE, LiveServer, fake_house, live_server, put_model
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.loading import load
from tiny_model import build_tiny_model

PROJECTS = ("red", "green", "blue")
QUESTIONS = ("Where is parcel 7?", "Two lamps and a chair, please.", "Why?")


def random_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A LoRA that changes answers: both matrices random."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        torch.manual_seed(seed)
        get_peft_model(base, config).save_pretrained(folder)
    settings = folder / "adapter_config.json"  # as a finished fine-tune says it: nothing about how its matrices began
    settings.write_text(settings.read_text().replace('"init_lora_weights": false', '"init_lora_weights": true'))
    return folder


@dataclass
class Scene:
    """A server of one real base; every project has a key, and a fine-tune under the name that all others use too."""

    server: LiveServer
    engine: TransformersEngine
    keys: dict[str, str]
    name: str

    def answer(self, project: str, model: str, question: str) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 8,
        }
        with self.server.client(self.keys[project]) as client:
            reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("adapters")
    model = build_tiny_model(folder / "tiny", hidden=32)
    engine = TransformersEngine(load(str(model), device="cpu", dtype="float32"))
    with live_server(fake_house(folder / "service", engine=engine)) as server:
        store, name = server.house.store, "ft:fake:stepladder::abcd1234"
        keys = {}
        for seed, project in enumerate(PROJECTS):
            owner = store.keys.create_project(project).id
            keys[project] = store.keys.create(owner, "key")[1]
            put_model(store, owner, name, adapter_folder=random_adapter(model, folder / project, seed))
        yield Scene(server, engine, keys, name)


def test_each_adapter_answers_its_own_project_however_many_ask_at_once(scene: Scene) -> None:
    wanted = [(project, model, text) for project in PROJECTS for model in (scene.name, BASE) for text in QUESTIONS]
    alone = {asked: scene.answer(*asked) for asked in wanted}
    said = {
        model: {project: [alone[project, model, text] for text in QUESTIONS] for project in PROJECTS} for _, model, _ in wanted
    }
    assert said[BASE]["red"] == said[BASE]["green"] == said[BASE]["blue"]
    voices = [said[BASE]["red"], *said[scene.name].values()]
    assert all(one != other for place, one in enumerate(voices) for other in voices[:place])
    asked = wanted * 5
    random.Random(3).shuffle(asked)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda each: scene.answer(*each), asked))
    assert answers == [alone[each] for each in asked]
    assert scene.server.house.names.bases.loaded == (BASE,)


SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", "b"]}},
    "required": ["count", "kind"],
    "additionalProperties": False,
}
HELD = Grammar("json_schema", json.dumps(SCHEMA))


@pytest.mark.parametrize(
    "decoding",
    [Decoding(8), Decoding(8, temperature=0.9, seed=5, top_p=0.9), Decoding(40, grammar=HELD), Decoding(5, logprobs=2)],
)
def test_this_projects_own_server_answers_its_endpoint_engine_as_the_engine_behind_it(scene: Scene, decoding: Decoding) -> None:
    prompts = [Prompt(text, (Message("system", "Be brief."), Message("user", text))) for text in QUESTIONS]
    with closing(EndpointEngine(scene.server.url, BASE, scene.keys["red"])) as engine:
        answers = engine.generate(prompts, decoding)
        assert engine.remarks == ()  # nothing was asked otherwise
    for answer, wanted in zip(answers, scene.engine.generate(prompts, decoding), strict=True):
        assert (answer.text, answer.cut, answer.fault) == (wanted.text, wanted.cut, "")
        assert (answer.prompt_tokens, answer.completion_tokens) == (wanted.prompt_tokens, wanted.completion_tokens)
        assert [one.logprob for one in answer.logprobs] == pytest.approx([one.logprob for one in wanted.logprobs], abs=1e-4)
        assert len(answer.logprobs) == (answer.completion_tokens if decoding.logprobs else 0)


def test_this_projects_own_server_holds_its_endpoint_engine_to_labels(scene: Scene) -> None:
    labels = ["refund", "delivery"]
    prompts = [Prompt(text, (Message("user", text),)) for text in QUESTIONS]
    with closing(EndpointEngine(scene.server.url, BASE, scene.keys["red"])) as engine:
        answers = engine.generate(prompts, Decoding(20, grammar=Grammar("labels", json.dumps(labels))))
    assert {answer.text for answer in answers} <= set(labels)


def test_tools_that_the_template_would_drop_are_refused_by_name(scene: Scene) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": BASE, "messages": [{"role": "user", "content": "Rain?"}], "tools": [tool]}
    with scene.server.client(scene.keys["red"]) as client:
        reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert "drops the tools on offer" in reply.json()["error"]["message"]
