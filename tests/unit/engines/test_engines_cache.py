from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepladder.domain.errors import EngineError
from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.fake import FakeEngine

SHORT = Decoding(max_new_tokens=8)


def ask(text: str, id: str = "row") -> Prompt:
    return Prompt(id, (Message("user", text),))


def adapter(folder: Path, weights: bytes = b"weights", settings: str = "{}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(settings)
    return folder


def test_a_second_run_asks_nothing_and_gets_the_same_generations(tmp_path: Path) -> None:
    first = RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
    answers = first.generate([ask("a"), ask("b")], SHORT)
    inner = FakeEngine()
    second = RecordedEngine(inner, tmp_path / "answers.jsonl")
    assert second.generate([ask("a", "other-id"), ask("b")], SHORT) == answers
    assert (first.hits, first.misses, second.hits, second.misses) == (0, 2, 2, 0)
    assert inner.calls == []


def test_a_prompt_that_stands_twice_is_asked_once_and_reported_twice(tmp_path: Path) -> None:
    inner = FakeEngine()
    seen: list[int] = []
    recorded = RecordedEngine(inner, tmp_path / "answers.jsonl")
    answers = recorded.generate([ask("a"), ask("b"), ask("a")], SHORT, on_answer=lambda index, answer: seen.append(index))
    assert sorted(seen) == [0, 1, 2]
    assert [answer.text for answer in answers] == ["a", "b", "a"]
    assert len(inner.calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"decoding": Decoding(9)},
        {"decoding": Decoding(8, temperature=0.5)},
        {"decoding": Decoding(8, logprobs=0)},
        {"decoding": Decoding(8, grammar=Grammar("labels", '["a"]'))},
        {"prompt": Prompt("row", (Message("system", ""), Message("user", "a")))},
        {"prompt": Prompt("row", (Message("user", "a"),), ({"type": "function", "function": {"name": "f"}},))},
        {"engine": FakeEngine(name="another")},
        {"engine": FakeEngine(context_tokens=999)},
        {"adapter": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_could_change_an_answer_asks_again(change: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    path = tmp_path / "answers.jsonl"
    RecordedEngine(FakeEngine(), path).generate([ask("a")], SHORT)
    again = RecordedEngine(change.get("engine", FakeEngine()), path)
    folder = adapter(tmp_path / "adapter") if "adapter" in change else None
    again.generate([change.get("prompt", ask("a"))], change.get("decoding", SHORT), adapter=folder)
    assert (again.hits, again.misses) == (0, 1)


def test_seed_and_top_p_matter_only_above_temperature_zero(tmp_path: Path) -> None:
    recorded = RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
    greedy = (Decoding(8, seed=1), Decoding(8, seed=2, top_p=0.5))
    for decoding in (*greedy, Decoding(8, 0.5, seed=1), Decoding(8, 0.5, seed=2), Decoding(8, 0.5, seed=2, top_p=0.5)):
        recorded.generate([ask("a")], decoding)
    assert (recorded.hits, recorded.misses) == (1, 4)


@pytest.mark.parametrize("later", [{"weights": b"other"}, {"settings": '{"lora_alpha": 8}'}])
def test_an_adapter_counts_by_weights_and_settings_not_by_folder(later: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    recorded = RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
    recorded.generate([ask("a")], SHORT, adapter=adapter(tmp_path / "one"))
    recorded.generate([ask("a")], SHORT, adapter=adapter(tmp_path / "two"))
    assert recorded.misses == 1
    recorded.generate([ask("a")], SHORT, adapter=adapter(tmp_path / "two", **later))
    assert recorded.misses == 2


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no adapter"):
        RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl").generate([ask("a")], SHORT, adapter=tmp_path)


def test_recorded_answers_are_reported_before_new_ones_are_asked(tmp_path: Path) -> None:
    recorded = RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
    recorded.generate([ask("b")], SHORT)
    seen: list[int] = []
    recorded.generate([ask("a"), ask("b")], SHORT, on_answer=lambda index, answer: seen.append(index))
    assert seen == [1, 0]


def test_an_error_in_mid_call_loses_no_finished_answer(tmp_path: Path) -> None:
    def breaks_at_c(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        if prompt.messages[0].content == "c":
            raise EngineError("the provider fell over")
        return "fine"

    path = tmp_path / "answers.jsonl"
    with pytest.raises(EngineError, match="fell over"):
        RecordedEngine(FakeEngine(breaks_at_c), path).generate([ask(text) for text in "abcd"], SHORT)
    inner = FakeEngine()
    RecordedEngine(inner, path).generate([ask(text) for text in "abcd"], SHORT)
    assert [call.prompt.messages[0].content for call in inner.calls] == ["c", "d"]


KILLED = """
import sys, time
from pathlib import Path
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.fake import FakeEngine

def answer(prompt, decoding, adapter):
    if prompt.messages[0].content == "row 5":
        print("five", flush=True)
        time.sleep(60)
    return "fine"

prompts = [Prompt(f"{n}", (Message("user", f"row {n}"),)) for n in range(10)]
RecordedEngine(FakeEngine(answer), Path(sys.argv[1])).generate(prompts, Decoding(8))
"""


def test_a_killed_process_is_continued_without_repeating_finished_rows(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "five\n"
        process.kill()  # kill -9
    inner = FakeEngine(lambda prompt, decoding, adapter: "fine")
    prompts = [ask(f"row {number}") for number in range(10)]
    answers = RecordedEngine(inner, path).generate(prompts, SHORT)
    assert [answer.text for answer in answers] == ["fine"] * 10
    assert [call.prompt.messages[0].content for call in inner.calls] == [f"row {number}" for number in range(5, 10)]


def test_torn_and_broken_lines_are_skipped_and_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    RecordedEngine(FakeEngine(), path).generate([ask(text) for text in "abcd"], SHORT)
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:30]
    lines[2] = json.dumps({"key": json.loads(lines[2])["key"], "generation": {"text": "no counts"}})
    path.write_text("\n".join([*lines[:3], "[]", lines[3][:-5]]))  # the last line is torn, without its end
    inner = FakeEngine()
    recorded = RecordedEngine(inner, path)
    assert recorded.bad_lines == 3
    recorded.generate([ask(text) for text in "abcd"], SHORT)
    assert [call.prompt.messages[0].content for call in inner.calls] == ["b", "c", "d"]
    again = RecordedEngine(FakeEngine(), path)
    again.generate([ask(text) for text in "abcd"], SHORT)
    assert again.misses == 0


def test_every_field_of_a_generation_survives(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    text = "é\u2028\n☃ \ud83d" + "x"
    first = RecordedEngine(FakeEngine(lambda prompt, decoding, adapter: text), path)
    [answer] = first.generate([ask("a")], SHORT, adapter=adapter(tmp_path / "adapter"))
    [again] = RecordedEngine(FakeEngine(), path).generate([ask("a")], SHORT, adapter=tmp_path / "adapter")
    assert dataclasses.asdict(again) == dataclasses.asdict(answer)
    assert all(getattr(again, field.name) is not None for field in dataclasses.fields(Generation))


def test_scores_are_recorded_completion_by_completion(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = RecordedEngine(FakeEngine(), path).score([ask("a"), ask("b")], [["x", "y"], ["x"]])
    inner = FakeEngine()
    recorded = RecordedEngine(inner, path)
    second = recorded.score([ask("b"), ask("a")], [["z", "x", "z"], ["y", "x"]])
    assert [second[0][1], *second[1]] == [first[1][0], first[0][1], first[0][0]]
    assert [call.completions for call in inner.calls] == [("z",)]
    assert (recorded.hits, recorded.misses) == (4, 1)
    assert second[0][0] == second[0][2]
    assert all(score.seconds > 0 for row in second for score in row)


def test_a_file_that_outlives_versions_is_asked_by_what_else_decides(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for setting, misses in (({"versions": "1"}, 1), ({"versions": "2"}, 1), ({}, 1), ({"versions": "1"}, 0), (None, 0)):
        recorded = RecordedEngine(FakeEngine(), path, setting=setting)
        recorded.generate([ask("a")], SHORT)
        assert recorded.misses == misses


def test_adding_many_answers_does_not_wait_for_the_disk_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(handle))
    RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl").generate([ask(f"row {number}") for number in range(200)], SHORT)
    assert 1 <= len(calls) <= 5


def test_counting_is_the_engines_own(tmp_path: Path) -> None:
    recorded = RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
    assert recorded.count_tokens([ask("a b")]) == FakeEngine().count_tokens([ask("a b")])
    assert recorded.count_text_tokens(["a b c"]) == [3]
    assert recorded.can == FakeEngine().can


def test_reading_ten_thousand_answers_takes_little_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    RecordedEngine(FakeEngine(), path).generate([ask("a")], SHORT)
    path.write_text(path.read_text() * 10_000)
    started = time.perf_counter()
    RecordedEngine(FakeEngine(), path)
    assert time.perf_counter() - started < 5
