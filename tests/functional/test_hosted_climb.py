"""Hosted models on the ladder: every untuned rung, Claude too, a large one beside a small tuned one; faults, keys, and answers
that are read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion, echo
from messages_server import MessagesServer, message
from small_tasks import THINGS, write_task
from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import EngineError
from stepladder.engines.endpoint import EndpointEngine
from stepladder.service.climb import Climb, climb
from stepladder.service.verify import verify

KEY = "sk-planted-secret-0123456789"
UNTUNED = {"baseline", "prompt", "constrained", "few-shot", "nearest", "rag"}


def label_of(text: str) -> str:
    return next((label for label, things in THINGS.items() if any(f" {thing} " in f" {text} " for thing in things)), "bird")


def knowing(request: dict[str, Any]) -> dict[str, Any]:
    """A good model in OpenAI's shape; it says only what it is held to."""
    text = request["messages"][-1]["content"]
    form = request.get("response_format", {}).get("json_schema", {}).get("schema")
    if form is None:
        return completion(label_of(text), prompt_tokens=len(text.split()), completion_tokens=1)
    if label_of(text) not in form["properties"]["label"]["enum"]:
        return echo(request)
    return completion(json.dumps({"label": label_of(text)}), prompt_tokens=len(text.split()), completion_tokens=5)


def claude(request: dict[str, Any]) -> Any:
    """The same model in Anthropic's shape."""
    text = request["messages"][-1]["content"][-1]["text"]
    return message(json.dumps({"label": label_of(text)}) if "output_config" in request else label_of(text), input_tokens=20)


def write_documents(folder: Path) -> None:
    (folder / "documents").mkdir()
    for label, things in THINGS.items():
        lines = [f"A {thing} is a {label}." for thing in things]
        (folder / "documents" / f"{label}.md").write_text("\n\n".join([f"# {label}", *lines]) + "\n", encoding="utf-8")
    toml = folder / "task.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("[data]", '[data]\ndocuments = "documents"'), encoding="utf-8")


def run_cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env={**os.environ, "NO_COLOR": "1", **environment}
    )


def record_of(folder: Path) -> dict[str, Any]:
    newest = max((folder / "runs").glob("*/verdict.json"), key=lambda path: path.stat().st_mtime)
    record: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))["record"]
    return record


def statuses(record: dict[str, Any]) -> dict[str, str]:
    return {rung["name"]: rung["status"] for rung in record["rungs"]}


@pytest.mark.starter
@pytest.mark.timeout(300)
def test_a_served_model_climbs_every_untuned_rung_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    with chat_server() as server:
        server.answer = knowing
        write_task(folder, 12, model=f'base = "{server.url} large"', rungs='skip = ["classifier"]')
        write_documents(folder)
        done = run_cli("climb", folder, "--json")
        assert done.returncode == 0, done.stderr
    found = statuses(record_of(folder))
    assert {name for name, status in found.items() if status == "ran"} >= UNTUNED
    assert found["lora"] == "not applicable"
    assert any("response_format" in request for request in server.requests)


@pytest.mark.starter
@pytest.mark.timeout(300)
def test_claude_climbs_them_too_and_a_server_elsewhere_under_its_name_is_asked_anew_by_the_next_climb(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    write_task(folder, 12, model='base = "anthropic:claude-test"', rungs='skip = ["classifier"]')
    write_documents(folder)
    with chat_server(MessagesServer) as server:
        server.answer = claude
        environment = {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY}
        first = run_cli("climb", folder, **environment)
        assert first.returncode == 0, first.stderr
        asked = len(server.requests)
        assert f"Answers: 0 read back from earlier climbs, {asked:,} asked." in first.stdout
        again = run_cli("climb", folder, "--fresh", **environment)
        assert again.returncode == 0, again.stderr
        assert "Answers: 0 read back from earlier climbs" in again.stdout
        assert len(server.requests) > asked
        asked = len(server.requests)
        record = record_of(folder)
        toml = (folder / "task.toml").read_text(encoding="utf-8")
        little = toml.replace('["classifier"]', '["classifier", "constrained", "few-shot", "nearest", "rag"]')
        (folder / "task.toml").write_text(little, encoding="utf-8")
        anew = run_cli("climb", folder, "--no-cache", **environment)
        assert f"Answers: {len(server.requests) - asked:,} asked; the cache was not used." in anew.stdout
        assert {headers["authorization"] for headers in server.headers_seen} == {f"Bearer {KEY}"}
    assert {name for name, status in statuses(record).items() if status == "ran"} >= UNTUNED
    assert record["model"]["engine"] == "anthropic"
    assert record["model"]["name"] == f"{server.url} anthropic:claude-test"
    assert_nowhere(KEY, tmp_path, Path(os.environ["STEPLADDER_ANSWERS"]))
    assert not any(KEY in text for run in (first, again, anew) for text in (run.stdout, run.stderr))


def assert_nowhere(secret: str, *folders: Path) -> None:
    """In no file of these folders, and in no file's name."""
    seen = 0
    for folder in folders:
        for path in folder.rglob("*"):
            assert secret not in path.name
            if path.is_file():
                seen += 1
                assert secret.encode() not in path.read_bytes(), path
    assert seen > 10


# The own process: quicker, with a base that can be tuned


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "STEPLADDER_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, KEY)


def climb_beside(folder: Path, name: str, rows: int = 20, more: str = "", **tables: str) -> Climb:
    """A climb of the fake base with one compared model."""
    world = write_task(folder, rows, model=f'compare = ["{name}"]\n{more}', rungs='skip = ["classifier"]', **tables)
    return climb(folder, tools=world.tools)


@pytest.mark.usefixtures("own_cache")
def test_a_large_prompted_model_stands_beside_a_small_tuned_one(tmp_path: Path) -> None:
    with chat_server() as server:
        server.answer = knowing
        name = f"{server.url} large"
        prices = "usd_per_million_prompt_tokens = 2.0\nusd_per_million_completion_tokens = 10.0"
        finished = climb_beside(
            tmp_path / "task", name, 130, use="machine_usd_per_hour = 0.4", **{f'model.prices."{name}"': prices}
        )
    ran = {rung.name: rung for rung in finished.rungs if rung.status is RungStatus.RAN}
    small, large = ran["lora"], ran[f"prompt @ {name}"]
    for rung in (small, large):
        assert rung.validation is not None
        assert rung.cost.usd_per_call is not None
    assert any("lora" in line for line in str(finished).splitlines())
    assert any(name in line for line in str(finished).splitlines())
    assert large.test is not None or small.test is not None
    assert [model.name for model in finished.record.compared] == [name]
    assert_nowhere(KEY, tmp_path / "task")


class Spiteful(ChatServer):
    """Repeats the key it was given, wherever it can."""

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        super().handle_chat(request)
        return Reply(403, {"error": {"message": f"the key {KEY} may not use this model"}}, {"X-Key": KEY})


@pytest.mark.usefixtures("own_cache")
def test_a_key_that_a_server_repeats_is_in_no_file_and_no_line(tmp_path: Path) -> None:
    with chat_server(Spiteful) as server:
        finished = climb_beside(tmp_path / "task", f"{server.url} large")
    [failed] = [rung for rung in finished.rungs if rung.name == f"prompt @ {server.url} large"]
    assert failed.status is RungStatus.FAILED
    assert "may not use this model" in failed.reason
    assert KEY not in str(finished)
    assert_nowhere(KEY, tmp_path / "task")


REPEATED = {
    "an error under 200": Reply(body={"error": {"message": f"the key {KEY} may not"}}),
    "not JSON": Reply(body="<html>" + 66 * "." + KEY),  # across what is shown of it
    "an error page": Reply(502, "<html>" + 180 * "." + KEY, {"Retry-After": "0.01"}),
}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("reply", REPEATED.values(), ids=REPEATED.keys())
def test_a_key_in_the_reason_of_an_ungraded_row_is_hidden(tmp_path: Path, reply: Reply) -> None:
    class Spiteful(ChatServer):
        """Repeats the key it was given, now and then."""

        def handle_chat(self, request: dict[str, Any]) -> Reply:
            said = super().handle_chat(request)
            return reply if "birch" in request["messages"][-1]["content"] else said

    with chat_server(Spiteful) as server:
        server.answer = knowing
        finished = climb_beside(tmp_path / "task", f"{server.url} large")
    assert any(row["unanswered"] for row in rows_of(finished))
    assert_nowhere(KEY[:8], tmp_path / "task")


def rows_of(finished: Climb) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


WITHHELD = {
    "withheld its answer": completion("I", "content_filter"),
    "sent a reply without an answer": {"choices": [{"message": {"role": "assistant"}, "finish_reason": "stop"}]},
    "its finish_reason is 'abort'": completion("I", "abort"),
}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("reason", "reply"), WITHHELD.items(), ids=WITHHELD.keys())
def test_an_answer_that_is_none_is_ungraded_with_its_reason_and_no_wrong_one(
    tmp_path: Path, reason: str, reply: dict[str, Any]
) -> None:
    def withholding(request: dict[str, Any]) -> dict[str, Any]:
        if "birch" in request["messages"][-1]["content"]:
            return reply
        return knowing(request)

    with chat_server() as server:
        server.answer = withholding
        finished = climb_beside(tmp_path / "task", f"{server.url} large")
    theirs = [row for row in rows_of(finished) if row["rung"].endswith("large") and "prompt" in row["rung"]]
    lost = [row for row in theirs if row["unanswered"]]
    assert lost
    assert all(row["score"] is None and reason in row["ungraded"] for row in lost)
    assert all(row["score"] is not None and row["answer"] for row in theirs if not row["unanswered"])
    [rung] = [rung for rung in finished.rungs if rung.name == f"prompt @ {server.url} large"]
    assert rung.validation is not None
    assert rung.validation.ungraded == len({row["id"] for row in lost if row["split"] == "validation"})
    assert not verify(finished.folder).differences


def thoughtful(request: dict[str, Any]) -> dict[str, Any]:
    """A model that thinks for 500 tokens where it reads of a birch; its limit counts them."""
    if "birch" in request["messages"][-1]["content"] and request["max_tokens"] < 500:
        return completion("", "length", completion_tokens=request["max_tokens"])
    return knowing(request)


@pytest.mark.usefixtures("own_cache")
def test_an_answer_whose_limit_went_into_thoughts_is_ungraded_and_answered_by_the_next_climb_that_gives_room(
    tmp_path: Path,
) -> None:
    with chat_server() as server:
        server.answer = thoughtful
        finished = climb_beside(tmp_path / "task", f"{server.url} large")
        theirs = [row for row in rows_of(finished) if row["rung"] == f"prompt @ {server.url} large"]
        lost = [row for row in theirs if not row["answer"]]
        assert lost
        assert all(row["score"] is None and row["unanswered"] and row["cut"] for row in lost)
        assert all("`[model] thinking_tokens`" in row["ungraded"] for row in lost)
        assert all(row["score"] is not None for row in theirs if row["answer"])
        assert any("answers were cut before their first word" in line for line in finished.record.answering)
        assert not verify(finished.folder).differences
        limits = {request["max_tokens"] for request in server.requests}

        toml = tmp_path / "task" / "task.toml"
        toml.write_text(toml.read_text(encoding="utf-8").replace("[model]", "[model]\nthinking_tokens = 600"), encoding="utf-8")
        server.requests.clear()
        finished = climb(tmp_path / "task", tools=write_task(tmp_path / "same", 20).tools)
        assert {request["max_tokens"] for request in server.requests} == {limit + 600 for limit in limits}
    rows = rows_of(finished)
    assert all(row["score"] is not None for row in rows if row["rung"].endswith("large"))
    assert max(row["completion_tokens"] for row in rows if not row["rung"].endswith("large")) < 600


@pytest.mark.usefixtures("own_cache")
def test_a_base_that_answers_no_more_ends_the_climb_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world = write_task(folder, 20, rungs='skip = ["classifier"]')
    with chat_server() as server:

        def failing_later(request: dict[str, Any]) -> dict[str, Any]:
            if len(server.requests) > 40:
                return {"choices": None}
            return knowing(request)

        server.answer = failing_later
        engine = EndpointEngine(server.url, "large", first_pause_seconds=0.001)
        tools = replace(world.tools, engine=engine, tuner=None)
        with pytest.raises(EngineError, match="protocol's shape"):
            climb(folder, tools=tools)
        server.answer = knowing
        before = len(server.requests)
        finished = climb(folder, tools=tools)
        engine.close()
    assert finished.verdict.rung is not None
    kept = (finished.folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == len({json.loads(line)["key"] for line in kept})
    assert len(server.requests) - before < len(kept) + 60


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("same", [True, False], ids=["there", "elsewhere"])
def test_a_run_that_broke_off_is_continued_only_where_a_providers_name_leads_to_the_same_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    folder = tmp_path / "task"
    world = write_task(folder, 20, model='compare = ["openai:large"]', rungs='skip = ["classifier"]')
    with chat_server() as first, chat_server() as second:
        first.answer = second.answer = knowing
        monkeypatch.setenv("OPENAI_BASE_URL", first.url)
        world.stop_after = 20
        with pytest.raises(KeyboardInterrupt):
            climb(folder, tools=world.tools)
        world.stop_after = None
        monkeypatch.setenv("OPENAI_BASE_URL", first.url if same else second.url)
        finished = climb(folder, tools=world.tools)
    assert len(list((folder / "runs").iterdir())) == (1 if same else 2)
    assert [model.name for model in finished.record.compared] == [f"{(first if same else second).url} openai:large"]


# Not comparable


def serving_the_base(extra: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A server of the fake base, whose template adds `extra` tokens to what the base's own makes."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        tokens = sum(len(turn["content"].split()) + 1 for turn in request["messages"]) + 1 + extra
        return completion(label_of(request["messages"][-1]["content"]), prompt_tokens=tokens, completion_tokens=1)

    return answer


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("declared", [False, True], ids=["by its name", "as declared"])
def test_the_base_behind_another_template_is_not_mixed_with_it(tmp_path: Path, declared: bool) -> None:
    with chat_server() as server:
        server.answer = serving_the_base(extra=3)
        name = f"{server.url} {'served' if declared else 'fake'}"
        more = f'same_weights = ["{name}"]' if declared else ""
        finished = climb_beside(tmp_path / "task", name, more=more)
        assert all(request["max_tokens"] == 1 for request in server.requests)  # no rung was climbed
    theirs = [rung for rung in finished.rungs if rung.name.endswith(name)]
    assert {rung.status for rung in theirs} == {RungStatus.NOT_COMPARABLE}
    said = "It should be the base fake, but reads"
    assert all(said in rung.reason for rung in theirs)
    assert any(f"not comparable: {said}" in line for line in str(finished).splitlines())
    assert any(reason.startswith(f"Not compared: {name}. {said}") for reason in finished.verdict.reasons)
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "not comparable" in report
    assert said in report
    assert not any(name in line for line in (finished.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    assert not verify(finished.folder).differences


@pytest.mark.usefixtures("own_cache")
def test_the_base_behind_its_own_template_and_another_model_are_compared(tmp_path: Path) -> None:
    with chat_server() as server:
        server.answer = serving_the_base(extra=0)
        same = climb_beside(tmp_path / "same", f"{server.url} fake")
        server.answer = serving_the_base(extra=3)
        other = climb_beside(tmp_path / "other", f"{server.url} larger")
    for finished in (same, other):
        theirs = [rung for rung in finished.rungs if " @ " in rung.name]
        assert RungStatus.NOT_COMPARABLE not in {rung.status for rung in theirs}
        assert any(rung.status is RungStatus.RAN for rung in theirs)


@pytest.mark.usefixtures("own_cache")
def test_a_compared_local_model_leaves_its_hashes_and_the_same_weights_with_another_template_stand_apart(tmp_path: Path) -> None:
    finished = climb_beside(tmp_path / "task", "fake:other")
    [model] = finished.record.compared
    assert model.name == "fake:other"
    record = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))["record"]
    [written] = record["compared"]
    for key in ("base_sha256", "tokenizer_sha256", "template_sha256"):
        assert len(written[key]) == 64
        assert written[key] != record["model"][key]
    assert written["tokenizer_sha256"] in (finished.folder / "report.html").read_text(encoding="utf-8")
    declared = climb_beside(tmp_path / "declared", "fake:other", more='same_weights = ["fake:other"]')
    [prompt] = [rung for rung in declared.rungs if rung.name == "prompt @ fake:other"]
    assert prompt.status is RungStatus.NOT_COMPARABLE
    assert "its tokenizer and chat template are another" in prompt.reason
