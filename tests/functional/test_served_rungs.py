"""Rungs of a finished climb as models of the server, over a chat server that plays the base model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from openai import InternalServerError, NotFoundError, OpenAI

from chat_server import Reply
from live_server import LiveServer, fake_house, live_server
from scored_climb import Scene, scored_climb
from stepladder.service.predict import restore_rung
from stepladder.service.serving.opening import Wishes, hold_base, open_house
from stepladder.service.serving.rungs import Rungs
from stepladder.storage.run_folder import RunFolder

pytestmark = pytest.mark.starter  # the embedder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scored_climb(tmp_path_factory.mktemp("climb") / "things", rate=1.0) as finished:
        yield finished


@pytest.fixture
def server(scene: Scene, tmp_path: Path) -> Iterator[LiveServer]:
    rungs = Rungs([scene.task], restore=lambda run, name: restore_rung(RunFolder.open(run), name))
    with live_server(fake_house(tmp_path / "service", rungs=rungs)) as running:
        yield running


def test_every_rung_that_ran_is_a_model_and_the_winner_has_a_name(server: LiveServer, scene: Scene) -> None:
    client = OpenAI(base_url=server.url, api_key="anything", _strict_response_validation=True)
    names = {model.id for model in client.models.list()}
    for rung in ("baseline", "prompt", "winner"):
        assert f"rung:{scene.run.name}/{rung}" in names
        assert client.models.retrieve(f"rung:{scene.run.name}/{rung}").owned_by == "stepladder"


def test_a_rung_answers_a_conversation_with_all_it_is_made_of(server: LiveServer, scene: Scene) -> None:
    client = OpenAI(base_url=server.url, api_key="anything", max_retries=0, _strict_response_validation=True)
    name = f"rung:{scene.run.name}/winner"
    turn = {"role": "user", "content": "A heron on day 7."}
    asked = len(scene.server.requests)
    done = client.chat.completions.create(model=name, messages=[turn])  # type: ignore[list-item]
    assert done.choices[0].message.content == "bird"
    assert done.model == name
    sent = scene.server.requests[asked]["messages"]
    assert any("kind of thing" in message["content"] for message in sent)  # the task's instruction, which the caller did not send
    stream = client.chat.completions.create(model=name, messages=[turn], stream=True)  # type: ignore[list-item]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "bird"


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_that_got_no_answer_is_an_error_and_no_empty_answer(server: LiveServer, scene: Scene, stream: bool) -> None:
    client = OpenAI(base_url=server.url, api_key="anything", max_retries=0)

    def ask(text: str) -> None:
        done = client.chat.completions.create(  # type: ignore[call-overload]
            model=f"rung:{scene.run.name}/winner", messages=[{"role": "user", "content": f"{text} {stream}"}], stream=stream
        )
        list(done)

    ask("A heron on day 8.")
    scene.server.script = [Reply(body={"choices": None})] * 2
    with pytest.raises(InternalServerError) as caught:
        ask("A heron on day 9.")
    assert caught.value.status_code == 502
    assert caught.value.type == "server_error"
    assert "There is no answer" in caught.value.message
    assert "did not answer in its protocol's shape" in caught.value.message


def test_a_rung_without_a_model_answers_too(server: LiveServer, scene: Scene) -> None:
    client = OpenAI(base_url=server.url, api_key="anything", max_retries=0, _strict_response_validation=True)
    asked = len(scene.server.requests)
    done = client.chat.completions.create(
        model=f"rung:{scene.run.name}/baseline", messages=[{"role": "user", "content": "A heron on day 7."}]
    )
    assert done.choices[0].message.content
    assert len(scene.server.requests) == asked


def test_a_rung_is_brought_back_once_and_again_after_its_weights_had_to_make_room(scene: Scene) -> None:
    restored, held = [], []

    def restore(run: Path, rung: str) -> Any:
        restored.append(rung)
        return object()

    rungs = Rungs([scene.task], restore=restore, hold=lambda run, rung: held.append(rung))
    name = f"rung:{scene.run.name}/prompt"
    for _ in range(2):
        speaker = rungs.speaker("proj_any", name)
        assert speaker is not None
        speaker.predictor()
    assert (restored, held) == (["prompt"], ["prompt", "prompt"])
    rungs.forget()
    speaker.predictor()
    assert restored == ["prompt", "prompt"]


def test_the_local_model_below_a_rung_counts_among_those_in_memory(scene: Scene, tmp_path: Path) -> None:
    with closing(open_house(Wishes(tmp_path / "home", models=("mine=fake",)))) as house:
        hold_base(house.names.bases, scene.run, "prompt")  # of a server: no weights here
        assert house.names.bases.loaded == ()
        hold_base(house.names.bases, scene.run, "prompt @ fake")
        assert house.names.bases.loaded == ("fake",)


@pytest.mark.parametrize("name", ["rung:x/prompt", "rung:RUN/lora", "rung:RUN/../../x", "rung:RUN", "rung:"])
def test_a_rung_that_is_none_is_not_found(server: LiveServer, scene: Scene, name: str) -> None:
    client = OpenAI(base_url=server.url, api_key="anything", max_retries=0)
    with pytest.raises(NotFoundError):
        client.chat.completions.create(
            model=name.replace("RUN", scene.run.name), messages=[{"role": "user", "content": "A heron on day 7."}]
        )
