"""The server under load: what is promised, how it is counted, the table; and a run of all its parts in small."""

import asyncio
import json

import pytest

import bench_serve
from serving.client import Ask, Client
from serving.promises import PROMISES, Load
from serving.server import Served
from serving.table import serving_table
from tiny_model import build_tiny_model

MACHINE = {
    "commit": "abc",
    "dirty": True,
    "date": "2026-11-22",
    "cores": 2,
    "cpu": "Abacus",
    "system": "Linux",
    "versions": {"torch": "2.13.0"},
    "model": "starter",
}


def test_the_promises_and_the_load_are_those_that_were_agreed():
    assert {name: (promise.bound, promise.at_least) for name, promise in PROMISES.items()} == {
        "reads": (0.050, False),
        "creation": (0.150, False),
        "listing": (0.100, False),
        "streams": (0.05, False),
        "chats": (3.0, True),
    }
    load = Load()
    assert (load.jobs, load.reads_per_second, load.creations_per_second) == (10_000, 200, 50)
    assert (load.streams, load.chats, load.adapters) == (100, 16, 4)


def test_the_table_names_what_falls_short():
    measurements = [{"name": "chats", "value": 2.5}, {"name": "reads", "value": 0.0123}, {"name": "streams", "value": 0.05}]
    assert serving_table({"machine": MACHINE, "measurements": measurements}) == (
        "| under load | measured | promised |\n"
        "| :-- | --: | --: |\n"
        "| 99 of 100 reads, 200 a second | 12 ms | below 50 ms |\n"
        "| a running training is slowed by 100 event streams | 5.0 % | below 5.0 % |\n"
        "| 16 chats at once over 4 adapters, to one at a time | 2.5 x | at least 3.0 x |\n"
        "\n"
        "- Falls short: a running training is slowed by 100 event streams: 5.0 % instead of below 5.0 %.\n"
        "- Falls short: 16 chats at once over 4 adapters, to one at a time: 2.5 x instead of at least 3.0 x.\n"
        "\n"
        "Client, server and worker share 2 cores of Abacus; starter, commit abc with local changes, 2026-11-22; torch 2.13.0."
    )
    assert serving_table({"machine": MACHINE, "measurements": []}) == ""


def test_figures_of_one_commit_are_kept_together_and_no_others(tmp_path):
    path = tmp_path / "results" / "service.json"
    bench_serve.keep(path, MACHINE, {"reads": (0.06, {"refused": 0})})
    bench_serve.keep(path, MACHINE, {"chats": (3.5, {})})
    written = json.loads(path.read_text(encoding="utf-8"))["measurements"]
    assert [(row["name"], row["holds"]) for row in written] == [("reads", False), ("chats", True)]
    bench_serve.keep(path, MACHINE, {"reads": (0.01, {})})
    assert [row["value"] for row in json.loads(path.read_text(encoding="utf-8"))["measurements"]] == [0.01, 3.5]
    bench_serve.keep(path, {**MACHINE, "commit": "def"}, {"reads": (0.02, {})})
    assert [row["value"] for row in json.loads(path.read_text(encoding="utf-8"))["measurements"]] == [0.02]


def test_a_server_that_stalls_cannot_hide_it_by_slowing_its_test_down():
    async def measure():
        turn = asyncio.Lock()

        async def slowly(reader, writer):
            while await reader.readuntil(b"\r\n\r\n"):
                async with turn:
                    await asyncio.sleep(0.05)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        async with await asyncio.start_server(slowly, "127.0.0.1", 0) as server:
            client = Client(Served("127.0.0.1", server.sockets[0].getsockname()[1], "none"))
            found = await client.at_rate([Ask("GET", "/")] * 10, 100.0)
            await client.close()
            return found

    found = asyncio.run(measure())
    assert len(found.seconds) == 10
    assert found.refused == 0
    assert found.quantile(1.0) > 10 * 0.05 - 9 * 0.01
    assert found.quantile(0.1) < found.quantile(0.5) < found.quantile(0.99) == found.quantile(1.0)


@pytest.mark.parametrize("arguments", [["--quick"], ["--only", "writes"]])
def test_a_trial_run_or_an_unknown_measurement_does_not_begin(arguments, capsys):
    with pytest.raises(SystemExit):
        bench_serve.parse(arguments)
    assert capsys.readouterr().err


def run_quick(tmp_path, *arguments):
    results = tmp_path / "service.json"
    assert bench_serve.main(["--quick", "--results", str(results), *arguments]) == 0
    return {row["name"]: row for row in json.loads(results.read_text(encoding="utf-8"))["measurements"]}


def test_reads_pages_and_creation_are_measured(tmp_path, capsys):
    found = run_quick(tmp_path, "--model", "fake", "--only", "reads,listing,creation")
    assert found.keys() == {"reads", "creation", "listing"}
    assert all(row["value"] > 0 and row.get("refused", 0) == 0 for row in found.values())
    assert found["reads"]["requests"] == 40
    assert found["listing"]["jobs"] == 200
    assert "| 99 of 100 reads, 200 a second |" in capsys.readouterr().out


def test_streams_beside_a_training_and_chats_over_adapters_are_measured(tmp_path):
    model = build_tiny_model(tmp_path / "tiny", hidden=32)
    found = run_quick(tmp_path, "--model", str(model), "--only", "streams,chats")
    assert found["streams"]["value"] < 1
    assert found["streams"]["events_delivered"] >= 5 * found["streams"]["streams"]
    assert min(*found["streams"]["steps_per_second_alone"], *found["streams"]["steps_per_second_followed"]) > 0
    assert found["chats"]["value"] > 0
