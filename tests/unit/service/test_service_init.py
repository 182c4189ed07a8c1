"""What `init` writes is what a climb reads: settings, schema, instruction, and nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepladder.data.readers import read_examples
from stepladder.domain.errors import DataError, UsageError
from stepladder.domain.task import Task
from stepladder.service.init import SCHEMA_NAME, Started, init_task
from stepladder.service.task_file import TaskText, write_toml

FULL_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(str.strip)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def start(folder: Path, rows: list[Any], **options: Any) -> tuple[Task, Started]:
    started = init_task(folder / "task", write_rows(folder / "rows.jsonl", rows), **options)
    return Task.load(folder / "task"), started


def test_answers_in_json_get_a_schema_file_that_every_answer_follows(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "completion": {"kind": "ab"[n % 2], "n": n}} for n in range(20)]
    task, started = start(tmp_path, rows)
    assert started.files == ("task.toml", "rows.jsonl", SCHEMA_NAME)
    assert task.output_schema is not None
    assert sorted(task.output_schema["properties"]["kind"]["enum"]) == ["a", "b"]
    assert len(read_examples(task).examples) == 20
    assert [grader.type for grader in task.settings.graders] == ["json_fields"]


def test_answers_that_are_tool_calls_are_graded_as_calls(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "ring", "arguments": "{}"}}
    rows = [{"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "tool_calls": [call]}]} for n in range(12)]
    task, started = start(tmp_path, rows)
    assert [grader.type for grader in task.settings.graders] == ["tool_calls"]
    assert "tool calls" in str(started)


def test_a_system_message_of_all_rows_becomes_the_instruction_word_for_word(tmp_path: Path) -> None:
    said = 'Be kind.\nSay "yes" \\ or \'no\'.\n\n"""quoted"""\tand no more"'
    rows = [
        {
            "messages": [
                {"role": role, "content": text} for role, text in (("system", said), ("user", f"Q{n}"), ("assistant", "A"))
            ]
        }
        for n in range(12)
    ]
    task, _ = start(tmp_path, rows)
    assert task.settings.instruction == said
    assert task.settings.data.input is None


def test_an_own_test_file_stands_beside_the_training_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "completion": "yes" if n % 2 else "no"} for n in range(30)]
    held = write_rows(tmp_path / "held.jsonl", rows[20:])
    task, started = start(tmp_path, rows[:20], test=held)
    assert (task.settings.data.train, task.settings.data.test, task.settings.data.examples) == ("rows.jsonl", "held.jsonl", None)
    assert started.files == ("task.toml", "rows.jsonl", "held.jsonl")
    assert started.rows == 30
    assert len(read_examples(task, "test").examples) == 10
    (tmp_path / "elsewhere").mkdir()
    again = write_rows(tmp_path / "elsewhere" / "rows.jsonl", rows[20:])
    with pytest.raises(UsageError, match="both files are called rows.jsonl"):
        init_task(tmp_path / "other", tmp_path / "rows.jsonl", test=again)
    with pytest.raises(DataError, match="no such file"):
        init_task(tmp_path / "other", tmp_path / "rows.jsonl", test=tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.json", '{"data": [{"prompt": "Q", "completion": "A"}]}', "the rows lie in a list under the key 'data'"),
        ("rows.jsonl", '{"inputs": {"a": 1}, "result": {"b": 2}}', "Objects stand in 'inputs' and 'result': write them as text"),
        ("rows.csv", "note\nx\n", "there is only one column: 'note'"),
    ],
)
def test_a_file_without_an_input_and_an_answer_says_what_stands_there_instead(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        init_task(tmp_path / "task", tmp_path / name)
    assert said in str(caught.value)


def test_a_file_that_lies_in_the_folder_already_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    source = write_rows(tmp_path / "task" / "rows.jsonl", [{"prompt": "Q", "completion": "A"}])
    before = source.stat().st_mtime_ns
    started = init_task(tmp_path / "task", source)
    assert source.stat().st_mtime_ns == before
    assert any("too few" in doubt for doubt in started.doubts)
    assert Task.load(tmp_path / "task").settings.name == "task"


@pytest.mark.parametrize("name", ["rows.jsonl", SCHEMA_NAME])
def test_another_file_of_the_same_name_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        start(tmp_path, [{"prompt": "Q", "completion": {"a": 1}}])
    assert [path.name for path in (tmp_path / "task").iterdir()] == [name]
    assert (tmp_path / "task" / name).read_text(encoding="utf-8") == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        start(tmp_path, [{"prompt": "Q", "completion": "A"}])


def test_a_byte_order_mark_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nhello there,a\ngood bye,b\n", encoding="utf-8-sig")
    started = init_task(tmp_path / "task", tmp_path / "rows.csv")
    assert any("byte order mark" in note for note in started.notes)
    assert Task.load(tmp_path / "task").settings.data.input == "text"


def test_a_model_is_written_down_when_it_is_named(tmp_path: Path) -> None:
    task, _ = start(tmp_path, [{"prompt": "Q", "completion": "A"}], model="http://127.0.0.1:9/v1 x")
    assert task.settings.model.base == "http://127.0.0.1:9/v1 x"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(FULL_TEXTS, min_size=7, max_size=7), labels=st.lists(FULL_TEXTS, max_size=30, unique=True))
def test_any_text_survives_the_way_into_task_toml(tmp_path: Path, texts: list[str], labels: list[str]) -> None:
    name, origin, instruction, above, column, why, model = texts
    text = TaskText(name, (origin,), instruction, " ".join(above.split()), {"examples": "e.csv", "input": column}, ("token_f1",),
                    {"input": why, "output": why}, labels=labels, model=model)  # fmt: skip
    (tmp_path / "task.toml").write_bytes(write_toml(text).encode())
    loaded = Task.load(tmp_path).settings
    assert (loaded.name, loaded.instruction, loaded.data.input) == (name.strip(), instruction.strip(), column)
    assert loaded.output.labels == tuple(labels)
    assert loaded.model.base == model


GOOD = '{"prompt": "question about tea", "completion": "answer one"}\n'
CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
BAD: dict[str, tuple[str, bytes, int | None]] = {
    "latin-1": ("rows.jsonl", (GOOD * 3).encode() + '{"prompt": "caf\u00e9", "completion": "b"}\n'.encode("latin-1"), 4),
    "latin-1 table": ("rows.csv", 'text,label\nokay,a\n"caf\u00e9",b\n'.encode("latin-1"), 3),
    "UTF-16": ("rows.csv", "text,label\na,b\n".encode("utf-16"), 1),
    "NUL": ("rows.jsonl", (GOOD * 2).encode() + b'{"prompt": "a\0", "completion": "b"}\n', 3),
    "mixed shapes": ("rows.jsonl", (GOOD * 5 + CHAT).encode(), 6),
    "mixed keys": ("rows.jsonl", b'{"q": "a b c", "a": "one"}\n{"q": "d e f", "a": "two"}\n{"x": "g", "a": "three"}\n', 3),
    "not JSON": ("rows.jsonl", (GOOD * 4 + "{no\n").encode(), 5),
    "no rows": ("rows.jsonl", b"\n\n", None),
    "header only": ("rows.csv", b"text,label\n", None),
    "no header": ("rows.csv", b"", 1),
    "one column": ("rows.csv", b"text\nhello there\n", 1),
    "no answer": ("rows.csv", b"text,label\none,a\ntwo,\n", 3),
    "no column that asks": ("rows.csv", b"x,y\n1,2026-01-01\n2,2026-01-02\n", 1),
    "a broken answer": ("rows.jsonl", b"".join(
        json.dumps({"prompt": f"p{n}", "completion": '{"a": 1}' if n else '{"a": 1'}).encode() + b"\n" for n in range(9)
    ), 1),
    "one id twice": ("rows.csv", b"id,text,label\n1,one,a\n1,two,b\n", 3),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_with_its_place_and_nothing_is_written(fault: str, tmp_path: Path) -> None:
    name, content, line = BAD[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        init_task(tmp_path / "new" / "task", tmp_path / name)
    assert (caught.value.path.name, caught.value.line) == (name, line)
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [name]


def saved(path: Path, rows: int, start: int = 0) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "utterance": [f"Where is parcel number {number} that I asked about?" for number in range(start, start + rows)],
            "intent": [("late", "lost", "other")[number % 3] for number in range(rows)],
        }
    )


def test_a_saved_dataset_and_a_parquet_file_become_tasks(tmp_path: Path) -> None:
    saved(tmp_path, 30).save_to_disk(tmp_path / "saved")
    saved(tmp_path, 30).to_parquet(tmp_path / "saved.parquet")
    for name in ("saved", "saved.parquet"):
        init_task(tmp_path / f"task-{name}", tmp_path / name)
        task = Task.load(tmp_path / f"task-{name}")
        assert (task.settings.data.input, task.settings.data.reference) == ("utterance", "intent")
        assert len(task.settings.output.labels) == 3
        assert len(read_examples(task).examples) == 30


def test_the_splits_of_a_saved_dataset_are_kept(tmp_path: Path) -> None:
    parts = {"train": saved(tmp_path, 30), "validation": saved(tmp_path, 9, 30), "test": saved(tmp_path, 12, 60)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "dict")
    started = init_task(tmp_path / "task", tmp_path / "dict")
    assert started.rows == 51
    task = Task.load(tmp_path / "task")
    assert (task.settings.data.train, task.settings.data.test) == ("dict/train", "dict/test")
    assert len(read_examples(task, "validation").examples) == 9
