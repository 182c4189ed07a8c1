"""A row that does not fit into the model's context is named before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepladder.domain.errors import DataError
from stepladder.engines.fake import FakeEngine
from stepladder.service.climb import climb
from stepladder.service.predict import predict
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder


def write_task(folder: Path, rows: dict[str, list[dict[str, str]]], more: str = "") -> Path:
    names = {name: f"{name}.jsonl" for name in rows}
    for name, some in rows.items():
        (folder / names[name]).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    data = "\n".join(f'{name} = "{file}"' for name, file in names.items())
    (folder / "task.toml").write_text(f'name = "t"\ninstruction = "Do it."\n{more}\n[data]\n{data}\n', encoding="utf-8")
    return folder


def rows_of(count: int, start: int = 0) -> list[dict[str, str]]:
    topics = "tea rain ships bread glass winter clocks paint maps owls salt doors".split()
    return [
        {"id": f"r{n}", "prompt": f"{topics[n % 12]} and number {n * 37}", "completion": f"answer {n}"}
        for n in range(start, start + count)
    ]


def refuse(folder: Path, context: int) -> DataError:
    engine = FakeEngine(context_tokens=context)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(DataError) as caught:
        climb(folder, tools=Tools(engine, None, FakeEmbedder()))
    assert engine.calls == []
    assert sorted(path.name for path in folder.iterdir()) == before
    return caught.value


def test_a_long_row_is_named_with_file_line_length_and_limit_before_anything_runs(tmp_path: Path) -> None:
    rows = rows_of(20)
    rows[6]["prompt"] = "long " * 400
    error = refuse(write_task(tmp_path, {"examples": rows}), context=300)
    assert (error.path.name, error.line) == ("examples.jsonl", 7)
    found = [int(word.strip(".,")) for word in error.problem.split() if word.strip(".,").isdigit()]
    length, room, context = found[-3:]
    assert context == 300
    assert length > 400
    assert room >= 16
    assert "Rows too long" not in error.problem


def test_the_file_is_the_one_the_row_stands_in_and_others_are_counted(tmp_path: Path) -> None:
    test = rows_of(12, start=50)
    for row in test[3:5]:
        row["prompt"] += " again" * 500
    error = refuse(write_task(tmp_path, {"train": rows_of(20), "test": test}), context=400)
    assert (error.path.name, error.line) == ("test.jsonl", 4)
    assert "Rows too long: 2." in error.problem


def test_the_longest_prompt_form_counts_not_only_the_plain_one(tmp_path: Path) -> None:
    folder = write_task(tmp_path, {"examples": rows_of(20)}, more='[[prompts]]\nfile = "own.txt"')
    (folder / "own.txt").write_text("word " * 300 + "{input}", encoding="utf-8")
    assert refuse(folder, context=200).path.name == "examples.jsonl"


def test_a_long_answer_needs_room_too(tmp_path: Path) -> None:
    rows = rows_of(300)
    rows[9]["completion"] = "and " * 200
    error = refuse(write_task(tmp_path, {"examples": rows}), context=150)
    assert error.line == 10


def test_rows_that_fit_climb(tmp_path: Path) -> None:
    finished = climb(
        write_task(tmp_path, {"examples": rows_of(20)}), tools=Tools(FakeEngine(context_tokens=300), None, FakeEmbedder())
    )
    assert finished.verdict.rung is not None


def test_a_new_input_over_the_context_is_refused_with_its_line_before_any_is_answered(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    write_task(folder, {"examples": rows_of(20)})
    toml = folder / "task.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + '[model]\nbase = "fake"\n', encoding="utf-8")
    climb(folder, tools=Tools(FakeEngine(), None, FakeEmbedder()))  # the named fake holds 4,096 words too
    new = tmp_path / "new.csv"
    new.write_text(f"input\nwhat about tea\n{'long ' * 5000}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"new\.csv:3: the prompt of the input .* has 50\d\d tokens .* a context of 4096"):
        predict(folder, new, tmp_path / "answers.jsonl", rung="prompt")
    assert not (tmp_path / "answers.jsonl").exists()
    assert predict(folder, new, tmp_path / "answers.jsonl", rung="baseline").answered == 2  # asks no model
