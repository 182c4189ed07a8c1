"""Answers that outlive a climb: found by all that decided them, bounded, checked on reading, shared by processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chat_server import chat_server, completion
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Grammar, ModelIdentity, Prompt
from stepladder.engines.address import Address
from stepladder.engines.answers import BLOCK_BYTES, AnswerStore, CachedEngine
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.fake import FakeEngine
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.engines.wrappers import Wrapped
from stepladder.files import hash_json
from stepladder.models.loading import LoadedModel

SHORT = Decoding(max_new_tokens=8)
PLENTY = 10**8


def ask(text: str) -> Prompt:
    return Prompt("row", (Message("user", text),))


def store(folder: Path, most_bytes: int = PLENTY) -> AnswerStore:
    return AnswerStore(folder, most_bytes)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*") if path.suffix != ".tmp")


def test_another_climb_asks_nothing_and_gets_the_same_generations(tmp_path: Path) -> None:
    first = CachedEngine(FakeEngine(), store(tmp_path)).generate([ask("a"), ask("b")], SHORT)
    inner, later = FakeEngine(), store(tmp_path)
    assert CachedEngine(inner, later).generate([ask("b"), ask("a"), ask("b")], SHORT) == [first[1], first[0], first[1]]
    assert inner.calls == []
    assert (later.read_back, later.asked, later.broken) == (2, 0, 0)


def test_label_scores_are_kept_too(tmp_path: Path) -> None:
    first = CachedEngine(FakeEngine(), store(tmp_path)).score([ask("a")], [["x", "y"]])
    inner, later = FakeEngine(), store(tmp_path)
    assert CachedEngine(inner, later).score([ask("a")], [["y", "x"]]) == [first[0][::-1]]
    assert inner.calls == []
    assert later.read_back == 2


class ReadingFake(FakeEngine):
    """Says what its model reads: the words' lengths, so that different texts may read alike."""

    def __init__(self, **setting: Any) -> None:
        super().__init__()
        self.said = {"stop_ids": [2], "device": "cpu", "versions": {"torch": "2"}, **setting}

    @property
    def setting(self) -> Mapping[str, Any]:
        return self.said

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [[len(word) for word in prompt.messages[0].content.split()] for prompt in prompts]


@pytest.mark.parametrize(
    ("change", "hits"),
    [
        ({}, 1),
        ({"text": "ccc dd"}, 1),  # other words, the same ids
        ({"text": "aa bbb"}, 0),
        ({"setting": {"stop_ids": [2, 3]}}, 0),
        ({"setting": {"device": "cuda"}}, 0),
        ({"setting": {"versions": {"torch": "3"}}}, 0),
        ({"decoding": Decoding(9)}, 0),
        ({"decoding": Decoding(8, 0.5, seed=1)}, 0),
        ({"decoding": Decoding(8, seed=5)}, 1),  # greedy answers do not depend on it
        ({"decoding": Decoding(8, grammar=Grammar("labels", '["a"]'))}, 0),
        ({"manner": "alone"}, 0),
        ({"adapter": True}, 0),
    ],
    ids=repr,
)
def test_an_answer_is_found_by_what_decided_it_and_by_nothing_else(change: dict[str, Any], hits: int, tmp_path: Path) -> None:
    CachedEngine(ReadingFake(), store(tmp_path / "s")).generate([ask("aaa bb")], SHORT)
    later = store(tmp_path / "s")
    adapter = None
    if "adapter" in change:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    engine = CachedEngine(ReadingFake(**change.get("setting", {})), later, manner=change.get("manner", ""))
    engine.generate([ask(change.get("text", "aaa bb"))], change.get("decoding", SHORT), adapter=adapter)
    assert (later.read_back, later.asked) == (hits, 1 - hits)


def test_the_local_engine_says_what_its_model_reads(tiny: LoadedModel, tmp_path: Path) -> None:
    engine = TransformersEngine(tiny)
    [ids] = engine.prompt_ids([ask("one two")])
    assert [len(ids)] == engine.count_tokens([ask("one two")])
    assert engine.setting["stop_ids"] == sorted(tiny.stop_ids)
    assert set(engine.setting["versions"]) >= {"stepladder", "torch", "transformers"}
    first = CachedEngine(engine, store(tmp_path)).generate([ask("one two")], SHORT)
    later = store(tmp_path)
    assert CachedEngine(engine, later).generate([ask("one two")], SHORT) == first
    assert later.read_back == 1


class Former(Wrapped):
    """The engine on this machine as it computed before attention and norms were written out anew."""

    engine: TransformersEngine

    @property
    def setting(self) -> Mapping[str, Any]:
        return {**self.engine.setting, "format": 2}

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return self.engine.prompt_ids(prompts)


def test_answers_of_an_arithmetic_that_was_replaced_are_asked_for_anew(tiny: LoadedModel, tmp_path: Path) -> None:
    engine = TransformersEngine(tiny)
    CachedEngine(Former(engine), store(tmp_path)).generate([ask("one two")], SHORT)
    later = store(tmp_path)
    CachedEngine(engine, later).generate([ask("one two")], SHORT)
    assert (later.read_back, later.asked) == (0, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: data.replace(b"fine", b"foul"),
        lambda data: b"",
        lambda data: b"\xff" * 40,
        lambda data: data + b" ",
    ],
)
def test_a_damaged_entry_is_a_miss_that_is_said_and_mended(damage: Any, tmp_path: Path) -> None:
    engine = FakeEngine(lambda prompt, decoding, adapter: "fine")
    CachedEngine(engine, store(tmp_path)).generate([ask("a")], SHORT)
    [path] = entries(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    later = store(tmp_path)
    [answer] = CachedEngine(engine, later).generate([ask("a")], SHORT)
    assert answer.text == "fine"
    assert (later.read_back, later.asked, later.broken) == (0, 1, 1)
    last = store(tmp_path)
    CachedEngine(engine, last).generate([ask("a")], SHORT)
    assert (last.read_back, last.broken) == (1, 0)


def refuse_to_remove(path: Path, missing_ok: bool = False) -> None:
    raise PermissionError(1, "Operation not permitted", str(path))


def test_a_damaged_entry_that_cannot_be_removed_is_a_miss_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = CachedEngine(FakeEngine(), store(tmp_path)).generate([ask("a"), ask("b")], SHORT)
    for entry in entries(tmp_path):
        entry.write_bytes(b"torn")
    monkeypatch.setattr(Path, "unlink", refuse_to_remove)
    inner, later = FakeEngine(), store(tmp_path)
    assert CachedEngine(inner, later).generate([ask("a"), ask("b")], SHORT) == answers
    assert (len(inner.calls), later.broken) == (2, 2)


@pytest.mark.parametrize("what", ["entries", "lock"])
def test_a_crowded_folder_of_somebody_else_is_left_as_it_is(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CachedEngine(FakeEngine(), store(tmp_path, most_bytes=2 * BLOCK_BYTES))
    if what == "entries":
        monkeypatch.setattr(Path, "unlink", refuse_to_remove)
    else:
        (tmp_path / ".lock").mkdir()  # cannot be opened, as a file of another user cannot
    engine.generate([ask(str(number)) for number in range(9)], SHORT)
    assert len(entries(tmp_path)) == 9


def test_a_whole_entry_under_another_key_is_not_believed(tmp_path: Path) -> None:
    CachedEngine(FakeEngine(), store(tmp_path)).generate([ask("a"), ask("b")], SHORT)
    first, second = entries(tmp_path)
    second.write_bytes(first.read_bytes())
    later = store(tmp_path)
    answers = CachedEngine(FakeEngine(), later).generate([ask("a"), ask("b")], SHORT)
    assert [answer.text for answer in answers] == ["a", "b"]
    assert (later.read_back, later.broken) == (1, 1)


def test_it_stays_below_its_bound_and_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    most = 40 * BLOCK_BYTES
    kept = store(tmp_path, most)
    engine = CachedEngine(FakeEngine(), kept)
    for number in range(40):
        engine.generate([ask(f"row {number}")], SHORT)
        for path in entries(tmp_path):  # as if a second had passed
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 1))
        CachedEngine(FakeEngine(), store(tmp_path, most)).generate([ask("row 0")], SHORT)  # always in use
    for number in range(40, 60):
        engine.generate([ask(f"row {number}")], SHORT)
    assert len(entries(tmp_path)) * BLOCK_BYTES <= most + most // 16
    later = store(tmp_path, most)
    CachedEngine(FakeEngine(), later).generate([ask("row 0"), ask("row 59")], SHORT)
    assert later.read_back == 2
    CachedEngine(FakeEngine(), later).generate([ask("row 1")], SHORT)
    assert later.asked == 1


@pytest.mark.parametrize(("blocks", "climbs"), [(40, 120), (2 * 256, 900)])
def test_many_climbs_that_write_little_each_stay_below_the_bound_together(blocks: int, climbs: int, tmp_path: Path) -> None:
    for number in range(climbs):
        store(tmp_path, blocks * BLOCK_BYTES).keep(hash_json(number), {"answer": number})
    assert 0.7 * blocks < len(entries(tmp_path)) <= 1.1 * blocks


def test_a_folder_with_room_is_not_gone_through_at_each_climbs_first_answer(tmp_path: Path) -> None:
    trims = []

    class Watched(AnswerStore):
        def trim(self) -> None:
            trims.append(len(entries(tmp_path)))
            super().trim()

    for number in range(2 * 256):
        Watched(tmp_path, 20 * 256 * BLOCK_BYTES).keep(hash_json(number), {"answer": number})
    assert trims == []


def test_leftovers_of_killed_processes_go_when_they_are_old(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / "old.tmp", tmp_path / "ab" / "new.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 7200))
    store(tmp_path).trim()
    assert not old.exists()
    assert new.exists()


def test_without_a_folder_nothing_is_found_or_kept(tmp_path: Path) -> None:
    off = AnswerStore(None)
    for _ in range(2):
        CachedEngine(FakeEngine(), off).generate([ask("a")], SHORT)
    assert (off.read_back, off.asked) == (0, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_the_entry_and_not_the_climb(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file, no folder")
    blocked = store(tmp_path / "s")
    assert CachedEngine(FakeEngine(), blocked).generate([ask("a")], SHORT)[0].text == "a"
    assert blocked.asked == 1


class Served(Wrapped):
    """The engine under the name of a served model."""

    def __init__(self, engine: FakeEngine, name: str) -> None:
        super().__init__(engine)
        self._name = name

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(self._name, "endpoint")


@pytest.mark.parametrize(
    ("name", "asked"),
    [("openai:m", 1), ("anthropic:m", 1), ("http://h/v1 m", 2), ("http://h/v1 openai:m", 2), ("h:80 openai:m", 2)],
)
def test_a_providers_own_model_is_remembered_and_one_behind_a_url_is_not(name: str, asked: int, tmp_path: Path) -> None:
    inner = FakeEngine()
    for _ in range(2):
        CachedEngine(Served(inner, name), store(tmp_path)).generate([ask("a")], SHORT)
    assert len(inner.calls) == asked


@pytest.mark.parametrize("kept", ["between climbs", "in a run"])
def test_two_servers_behind_one_providers_name_share_no_answer(kept: str, tmp_path: Path) -> None:
    said = []
    for text in ("one", "two"):
        with chat_server() as server:
            server.answer = lambda request, text=text: completion(text)  # type: ignore[misc]
            engine = EndpointEngine(Address(server.url, "m", "", "openai"))
            run = RecordedEngine(engine, tmp_path / "generations.jsonl")
            asked = CachedEngine(engine, store(tmp_path / "s")) if kept == "between climbs" else run
            said += [answer.text for answer in asked.generate([ask("a")], SHORT)]
            engine.close()
    assert said == ["one", "two"]


def test_it_lies_under_the_record_of_a_run(tmp_path: Path) -> None:
    CachedEngine(FakeEngine(), store(tmp_path / "s")).generate([ask("a")], SHORT)
    inner, later = FakeEngine(), store(tmp_path / "s")
    run = RecordedEngine(CachedEngine(inner, later), tmp_path / "generations.jsonl")
    run.generate([ask("a"), ask("b")], SHORT)
    assert [call.prompt for call in inner.calls] == [ask("b")]
    assert (later.read_back, later.asked) == (1, 1)
    assert len((tmp_path / "generations.jsonl").read_text().splitlines()) == 2


TOGETHER = """
import sys
from pathlib import Path
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.answers import AnswerStore, CachedEngine
from stepladder.engines.fake import FakeEngine

for round in range(6):
    store = AnswerStore(Path(sys.argv[1]), int(sys.argv[2]))
    prompts = [Prompt("p", (Message("user", f"row {number}"),)) for number in range(60)]
    found = CachedEngine(FakeEngine(), store).generate(prompts, Decoding(8))
    assert [one.text for one in found] == [f"row {number}" for number in range(60)], found
    assert store.broken == 0
"""


def test_several_processes_write_read_and_trim_at_once_without_a_wrong_or_broken_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOGETHER, str(tmp_path), str(30 * BLOCK_BYTES)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert all(json.loads(path.read_bytes().partition(b"\n")[2])["key"] for path in entries(tmp_path))
