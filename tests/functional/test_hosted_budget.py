"""`[budget] usd`: one purse for all hosted models of a climb, never exceeded, through kills and restarts too."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion, echo
from small_tasks import THINGS, write_task
from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import BudgetError, DataError, EngineError, RunError
from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.domain.messages import Input, Message
from stepladder.domain.task import Task
from stepladder.engines.endpoint import EndpointEngine
from stepladder.service.chat import open_chat
from stepladder.service.climb import Climb, climb
from stepladder.service.predict import predict
from stepladder.service.serving.house import House
from stepladder.service.serving.opening import Wishes, open_house
from stepladder.service.wiring import build_engine

PROMPT_USD, COMPLETION_USD = 1000.0, 2000.0  # per million tokens
PRICES = f"usd_per_million_prompt_tokens = {PROMPT_USD}\nusd_per_million_completion_tokens = {COMPLETION_USD}"
CALL_USD = 0.15 + 2 * 0.002
SET_ASIDE_USD = 8.0  # for the longest call: 2,000 bytes, the template, and 24 tokens with the longest thoughts
NO_CLASSIFIER = 'skip = ["classifier"]'


class Knowing(ChatServer):
    """Knows every thing's label, and charges the same for each call: 150 tokens in, 2 out."""

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        super().handle_chat(request)
        text = f" {request['messages'][-1]['content']} "
        label = next((label for label, things in THINGS.items() if any(f" {thing} " in text for thing in things)), "bird")
        return Reply(body=completion(label, prompt_tokens=150, completion_tokens=2))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ledger(folder: Path) -> tuple[dict[int, float], dict[int, float]]:
    """What was reserved and what was settled, by call, over the task's only run."""
    (path,) = (folder / "runs").glob("*/money.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    reserved = {line["call"]: line["reserved_usd"] for line in lines if "reserved_usd" in line}
    return reserved, {line["call"]: line["spent_usd"] for line in lines if "spent_usd" in line}


def spent_usd(folder: Path) -> float:
    reserved, settled = ledger(folder)
    return sum(settled.get(call, usd) for call, usd in reserved.items())


def climb_beside(folder: Path, server: ChatServer, models: list[str], usd: float, rows: int = 130) -> Climb:
    """A climb of the fake base with served models compared to it."""
    names = [f"{server.url} {model}" for model in models]
    tables = {f'model.prices."{name}"': PRICES for name in names}
    world = write_task(folder, rows, model=f"compare = {json.dumps(names)}", budget=f"usd = {usd}", rungs=NO_CLASSIFIER, **tables)
    return climb(folder, tools=world.tools)


@pytest.mark.usefixtures("own_cache")
def test_compared_models_draw_on_one_purse(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    with chat_server(Knowing) as server:
        finished = climb_beside(folder, server, ["small", "large"], usd=20.0)
    over = [rung.name for rung in finished.rungs if rung.status is RungStatus.OVER_BUDGET]
    assert any(name.endswith("small") for name in over)
    assert any(name.endswith("large") for name in over)
    assert spent_usd(folder) == pytest.approx(len(server.requests) * CALL_USD)
    assert 10 < spent_usd(folder) <= 20.0


@pytest.mark.usefixtures("own_cache")
def test_each_compared_model_costs_by_its_own_prices(tmp_path: Path) -> None:
    with chat_server(Knowing) as server:
        finished = climb_beside(tmp_path / "task", server, ["small"], usd=1000.0, rows=20)
    costs = [rung.cost for rung in finished.rungs if rung.name.endswith("small") and rung.status is RungStatus.RAN]
    assert [cost.usd_per_call for cost in costs] == [pytest.approx(CALL_USD)] * 2
    assert spent_usd(tmp_path / "task") == pytest.approx(len(server.requests) * CALL_USD)


@pytest.mark.usefixtures("own_cache")
def test_a_climb_whose_money_ends_at_the_test_rows_continues_when_there_is_more(tmp_path: Path) -> None:
    with chat_server(Knowing) as server:
        whole = climb_beside(tmp_path / "whole", server, ["small"], usd=1000.0)
        everything = len(server.requests)
    rows = [json.loads(line) for line in (whole.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    tested = sum(row["split"] == "test" and row["rung"].endswith("small") for row in rows)
    replayed = sum(count for name, count in whole.record.noise.items() if name.startswith("replayed_rows ") and "small" in name)
    assert tested > 30
    enough_to_choose = (everything - tested - replayed + 10) * CALL_USD + SET_ASIDE_USD
    folder = tmp_path / "task"
    with chat_server(Knowing) as server:
        with pytest.raises(BudgetError, match="could not answer all test rows.*this run is continued"):
            climb_beside(folder, server, ["small"], usd=enough_to_choose)
        assert spent_usd(folder) <= enough_to_choose
        toml = (folder / "task.toml").read_text(encoding="utf-8")
        world = write_task(folder, 130)
        (folder / "task.toml").write_text(toml.replace(f"usd = {enough_to_choose}", "usd = 1000.0"), encoding="utf-8")
        finished = climb(folder, tools=world.tools)
        assert len(server.requests) == everything  # no answer was paid for twice
    assert finished.verdict.outcome == whole.verdict.outcome
    assert spent_usd(folder) == pytest.approx(everything * CALL_USD)
    assert "usd = 1000.0" in (finished.folder / "task" / "task.toml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("own_cache")
def test_answers_to_new_inputs_never_cost_more_than_the_budget_however_often_they_are_continued(tmp_path: Path) -> None:
    new, output = tmp_path / "new.jsonl", tmp_path / "out.jsonl"
    new.write_text("".join(json.dumps({"prompt": f"number {number}"}) + "\n" for number in range(200)), encoding="utf-8")
    with chat_server(Knowing) as server:
        model = f'base = "{server.url} small"'
        world = write_task(tmp_path / "task", 60, model=model, use=PRICES, budget="usd = 20", rungs=NO_CLASSIFIER)
        free = EndpointEngine(server.url, "small")
        finished = climb(tmp_path / "task", tools=replace(world.tools, engine=free, tuner=None))
        server.requests.clear()
        for _ in range(2):
            with pytest.raises(BudgetError, match="of 20 USD are spent"):
                predict(finished.folder, new, output, rung="prompt")
        assert 10 < len(server.requests) * CALL_USD <= 20
        assert len(output.read_text(encoding="utf-8").splitlines()) >= 32


@pytest.mark.usefixtures("own_cache")
def test_two_that_answer_into_one_output_neither_share_a_budget_nor_mix_lines(tmp_path: Path) -> None:
    new, output = tmp_path / "new.jsonl", tmp_path / "out.jsonl"
    new.write_text("".join(json.dumps({"prompt": f"number {number}"}) + "\n" for number in range(70)), encoding="utf-8")
    with chat_server(Knowing) as server:
        model = f'base = "{server.url} small"'
        world = write_task(tmp_path / "task", 60, model=model, use=PRICES, budget="usd = 100", rungs=NO_CLASSIFIER)
        free = EndpointEngine(server.url, "small")
        finished = climb(tmp_path / "task", tools=replace(world.tools, engine=free, tuner=None))
        server.requests.clear()
        server.delay_seconds = 0.2
        line = ["predict", str(finished.folder), str(new), "--output", str(output), "--rung", "prompt"]
        command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *line]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        deadline = time.monotonic() + 120
        while not server.requests:
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(RunError, match="another process answers into .*out.jsonl"):
            predict(finished.folder, new, output, rung="prompt")
        _, errors = first.communicate(timeout=240)
        assert first.returncode == 0, errors
        asked = [request["messages"][-1]["content"] for request in server.requests]
        assert sorted(text for text in asked if text.startswith("number")) == sorted(f"number {number}" for number in range(70))
        assert predict(finished.folder, new, output, rung="prompt").new == 0


# Rungs at work


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ChatServer]]:
    """A finished climb of a served base whose calls cost money from now on, and the server."""
    folder = tmp_path_factory.mktemp("priced") / "task"
    with pytest.MonkeyPatch.context() as patch, chat_server(Knowing) as server:
        patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("OPENAI_API_KEY", raising=False)
        model, left_out = f'base = "{server.url} small"', 'skip = ["classifier", "rag", "constrained", "nearest"]'
        world = write_task(folder, 130, model=model, use=PRICES, budget="usd = 20", rungs=left_out)
        free = EndpointEngine(server.url, "small")
        finished = climb(folder, tools=replace(world.tools, engine=free, tuner=None))
        yield finished.folder, server


def ask_until_broke(house: House, run: Path, rung: str, server: ChatServer) -> float:
    """Ask a served rung until the money ends; what the provider has billed since its list of requests was cleared."""
    speaker = house.names.rungs.speaker(LOCAL_PROJECT, f"rung:{run.name}/{rung}")
    assert speaker is not None
    inputs = [Input(str(number), (Message("user", f"number {number}"),)) for number in range(200)]
    with pytest.raises(BudgetError, match="of 20 USD are spent") as caught:
        house.asking.call(lambda: speaker.predictor().predict(inputs)).result()
    assert f"remove {run.name}.serve.money.jsonl" in str(caught.value)
    return len(server.requests) * CALL_USD


def test_a_server_has_one_budget_for_all_rungs_of_a_run_through_evictions_and_restarts(
    priced: tuple[Path, ChatServer], tmp_path: Path
) -> None:
    run, server = priced
    server.requests.clear()
    wishes = Wishes(tmp_path / "home", models=("mine=fake",), runs=(run,))
    with closing(open_house(wishes)) as house:
        spent = ask_until_broke(house, run, "prompt", server)
        assert 10 < spent <= 20
        assert ask_until_broke(house, run, "few-shot", server) == spent
        house.names.rungs.forget()
        assert ask_until_broke(house, run, "prompt", server) == spent
    with closing(open_house(wishes)) as house:
        assert ask_until_broke(house, run, "prompt", server) == spent
    run.with_name(f"{run.name}.serve.money.jsonl").unlink()
    with closing(open_house(wishes)) as house:
        assert spent < ask_until_broke(house, run, "prompt", server) <= spent + 20


def test_all_talks_with_a_run_have_one_budget(priced: tuple[Path, ChatServer]) -> None:
    run, server = priced
    server.requests.clear()
    for _ in range(2):
        talk = open_chat(run, rung="prompt")
        with pytest.raises(BudgetError, match="of 20 USD are spent"):
            for _ in range(200):
                talk.voices[0].answer("A heron.", lambda piece: None)
                talk.forget()
        del talk
        gc.collect()  # as if its process had ended
    assert 10 < len(server.requests) * CALL_USD <= 20


# Without prices


@pytest.mark.usefixtures("own_cache")
def test_a_compared_model_without_prices_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 60, model='compare = ["openai:some-model"]', use="data_may_leave = true")
    before = sorted((tmp_path / "task").iterdir())
    with pytest.raises(DataError) as caught:
        climb(tmp_path / "task", tools=world.tools)
    assert_names_the_keys(caught.value, '[model.prices."openai:some-model"]')
    assert sorted((tmp_path / "task").iterdir()) == before


@pytest.mark.parametrize("base", ["openai:some-model", "http://far.example/v1 some-model"])
def test_a_hosted_base_without_prices_is_refused(tmp_path: Path, base: str) -> None:
    write_task(tmp_path / "task", 60, model=f'base = "{base}"', use="data_may_leave = true")
    with pytest.raises(DataError) as caught:
        build_engine(base, Task.load(tmp_path / "task"))
    assert_names_the_keys(caught.value, "`[use]`")


def assert_names_the_keys(error: DataError, table: str) -> None:
    for words in (table, "usd_per_million_prompt_tokens", "usd_per_million_completion_tokens", "usd = inf", "task.toml"):
        assert words in str(error)


@pytest.mark.usefixtures("own_cache")
def test_without_prices_only_an_unlimited_budget_will_do(tmp_path: Path) -> None:
    model = 'compare = ["openai:some-model"]'
    world = write_task(tmp_path / "task", 60, model=model, use="data_may_leave = true", budget="usd = inf")
    with pytest.raises(EngineError, match="OPENAI_API_KEY"):  # the next thing it lacks
        climb(tmp_path / "task", tools=world.tools)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({'model.prices."openai:other"': PRICES}, "`compare` does not"),
        ({'model.prices."fake"': PRICES, "model": 'base = "fake"'}, "stand in `[use]`"),
        ({"use": "usd_per_million_prompt_tokens = 1"}, "come together"),
    ],
)
def test_prices_that_belong_to_nothing_are_faults(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    world = write_task(tmp_path / "task", 60, **dict(sorted(settings.items())))
    with pytest.raises(DataError) as caught:
        climb(tmp_path / "task", tools=world.tools)
    assert says in str(caught.value)


# Killed


@pytest.mark.starter
@pytest.mark.timeout(600)
def test_money_spent_before_a_kill_is_not_spent_again(tmp_path: Path) -> None:
    budget = 400.0
    with chat_server() as server:
        server.delay_seconds = 0.1
        write_task(
            tmp_path / "task",
            130,
            model=f'base = "{server.url} small"',
            use=PRICES,
            budget=f"usd = {budget}",
            rungs=NO_CLASSIFIER,
        )
        for settlements in (20, 60):
            kill_after(tmp_path / "task", settlements)
            reserved, settled = ledger(tmp_path / "task")
            assert len(reserved) > len(settled)  # it struck while calls were under way
            assert bill_usd(server) <= spent_usd(tmp_path / "task") + 1e-9
        server.delay_seconds = 0.01
        last = start(tmp_path / "task")
        _, errors = last.communicate(timeout=280)
        assert last.returncode in (0, 5), errors
        assert "of $400 spent in this run." in errors
    assert len(list((tmp_path / "task" / "runs").iterdir())) == 1
    assert bill_usd(server) <= spent_usd(tmp_path / "task") + 1e-9
    assert spent_usd(tmp_path / "task") <= budget


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "climb", str(folder), "--budget-minutes", "600"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def kill_after(folder: Path, settlements: int) -> None:
    """Start the climb, and kill it as soon as its ledger holds so many settled calls."""
    process = start(folder)
    deadline = time.monotonic() + 120
    while not list((folder / "runs").glob("*/money.jsonl")) or len(ledger_lines(folder)) < settlements:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def ledger_lines(folder: Path) -> list[str]:
    (path,) = (folder / "runs").glob("*/money.jsonl")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if "spent_usd" in line]


def bill_usd(server: ChatServer) -> float:
    """What a provider would charge for every request that arrived, answered or not."""
    usages = [echo(request)["usage"] for request in list(server.requests)]
    return sum(usage["prompt_tokens"] * PROMPT_USD + usage["completion_tokens"] * COMPLETION_USD for usage in usages) / 1e6
