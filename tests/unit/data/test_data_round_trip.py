"""Every shape and container: what a reader reads can be written back, and reading that gives the same examples."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepladder.data.fingerprint import fingerprint
from stepladder.data.readers import ReadResult, read_file, read_inputs
from stepladder.data.write import write_examples
from stepladder.domain.errors import DataError, UsageError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.task import DataSettings

SETTINGS = DataSettings(examples="rows.jsonl")
IN_PLACE = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
FULL_TEXTS = TEXTS.filter(lambda text: text.strip())
VALUES = TEXTS | st.integers(-9, 9) | st.booleans() | st.none() | st.lists(TEXTS, max_size=2)
EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "topic": VALUES,
        "metadata": st.dictionaries(TEXTS, VALUES, max_size=2) | TEXTS,
        "sources": FULL_TEXTS | st.lists(FULL_TEXTS, max_size=2),
        "recorded": TEXTS,
    },
)
TOOLS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(
            FULL_TEXTS.map(lambda name: {"type": "function", "function": {"name": name, "parameters": {"default": None}}}),
            min_size=1,
            max_size=2,
        )
    },
)
WEIGHTS = st.fixed_dictionaries({}, optional={"weight": st.sampled_from([0, 1])})
CALLS = st.lists(
    st.builds(
        lambda id, name, arguments: {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}},
        TEXTS,
        FULL_TEXTS,
        TEXTS,
    ),
    min_size=1,
    max_size=2,
)


def turn(role: str, content: st.SearchStrategy[str] = TEXTS, **rest: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "content": content}, optional=rest)


TURNS = st.one_of(
    turn("system"),
    turn("user", name=FULL_TEXTS),
    turn("assistant", weight=st.sampled_from([0, 1])),
    turn("assistant", tool_calls=CALLS),
    turn("tool", tool_call_id=FULL_TEXTS),
)
ASKED = st.builds(lambda before, last: [*before, last], st.lists(TURNS, max_size=3), turn("user", FULL_TEXTS))
ANSWER = st.builds(lambda answer, weight: {**answer, **weight}, turn("assistant", FULL_TEXTS), WEIGHTS)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


def said(speakers: list[str], text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"from": st.sampled_from(speakers), "value": text})


SHAPES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "OpenAI chat": merged(EXTRAS, TOOLS, st.fixed_dictionaries({"messages": st.builds(lambda a, b: [*a, b], ASKED, ANSWER)})),
    "prompt/completion": merged(
        EXTRAS,
        TOOLS,
        st.fixed_dictionaries(
            {"prompt": FULL_TEXTS | ASKED, "completion": FULL_TEXTS | ANSWER.map(lambda answer: [answer]) | st.integers(0, 9)}
        ),
    ),
    "Alpaca": merged(
        EXTRAS,
        st.fixed_dictionaries({"instruction": FULL_TEXTS, "output": FULL_TEXTS}, optional={"input": FULL_TEXTS | st.just("")}),
    ),
    "ShareGPT": merged(
        EXTRAS,
        TOOLS,
        st.fixed_dictionaries(
            {
                "conversations": st.builds(
                    lambda before, asked, answer, weight: [*before, asked, {**answer, **weight}],
                    st.lists(said(["human", "gpt", "system", "tool"], TEXTS), max_size=3),
                    said(["human", "user"], FULL_TEXTS),
                    said(["gpt", "assistant"], FULL_TEXTS),
                    WEIGHTS,
                )
            },
            optional={"system": TEXTS},
        ),
    ),
    "OpenAI preference": merged(
        EXTRAS,
        st.fixed_dictionaries(
            {
                "input": merged(
                    TOOLS,
                    st.fixed_dictionaries({"messages": ASKED}, optional={"parallel_tool_calls": st.booleans()}),
                ),
                "preferred_output": ANSWER.map(lambda answer: [answer]),
                "non_preferred_output": ANSWER.map(lambda answer: [answer]),
            }
        ),
    ),
}
FILES = ("back.jsonl", "back.json", "back.parquet", "back")


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def without_lines(result: ReadResult) -> list[Example]:
    return [replace(example, line=0) for example in result.examples]


def written_back(result: ReadResult, path: Path, given: DataSettings = SETTINGS) -> ReadResult:
    write_examples(path, result.examples, result.shape, given, shared_instruction=result.shared_instruction)
    return read_file(path, given)


@pytest.mark.parametrize("shape", SHAPES)
@IN_PLACE
@given(data=st.data(), name=st.sampled_from(FILES))
def test_what_is_read_can_be_written_back_without_loss(tmp_path: Path, shape: str, data: st.DataObject, name: str) -> None:
    rows = data.draw(st.lists(SHAPES[shape], min_size=1, max_size=3))
    result = read_file(write_lines(tmp_path / "rows.jsonl", rows), SETTINGS)
    assert result.shape == shape
    again = written_back(result, tmp_path / name)
    assert without_lines(again) == without_lines(result)
    assert again.shared_instruction == result.shared_instruction
    assert fingerprint(again.examples) == fingerprint(result.examples)


def strings(value: Any, key: str = "") -> Iterator[str]:
    """Strings of a row that say something; roles, speakers and types are words of the format."""
    if isinstance(value, str) and key not in ("role", "type", "from"):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


@pytest.mark.parametrize("shape", SHAPES)
@IN_PLACE
@given(data=st.data())
def test_every_string_of_a_row_arrives_in_its_example(tmp_path: Path, shape: str, data: st.DataObject) -> None:
    row = data.draw(SHAPES[shape])
    result = read_file(write_lines(tmp_path / "rows.jsonl", [row]), SETTINGS)
    carried = json.dumps([result.shared_instruction, *map(repr, result.examples)], ensure_ascii=False)
    plain = "\n".join([result.shared_instruction or "", *(text for example in result.examples for text in every_text(example))])
    for text in strings(row):
        assert text in plain or json.dumps(text, ensure_ascii=False)[1:-1] in plain, (text, carried)


def every_text(example: Example) -> Iterator[str]:
    for message in (*example.input.messages, example.reference, *([example.rejected] if example.rejected else [])):
        yield from (message.content, message.name or "", message.tool_call_id or "")
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    yield json.dumps(list(example.input.tools), ensure_ascii=False)
    yield from (*example.metadata.values(), *example.sources, example.id, example.recorded or "")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@IN_PLACE
@given(
    cells=st.lists(st.tuples(FULL_TEXTS, FULL_TEXTS, TEXTS, TEXTS), min_size=1, max_size=4),
    columns=st.lists(st.text("abcXYZ äß-", min_size=1).filter(str.strip).map(str.strip), min_size=4, max_size=4, unique=True),
)
def test_tables_are_written_back_without_loss(
    tmp_path: Path, name: str, cells: list[tuple[str, ...]], columns: list[str]
) -> None:
    given_settings = DataSettings(examples=name, input=columns[0], reference=columns[1], recorded=columns[2])
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter="," if name == "rows.csv" else "\t", quoting=csv.QUOTE_ALL).writerows([columns, *cells])
    (tmp_path / name).write_bytes(buffer.getvalue().encode())
    result = read_file(tmp_path / name, given_settings)
    again = written_back(result, tmp_path / f"back-{name}", given_settings)
    assert without_lines(again) == without_lines(result)


def test_a_shape_that_cannot_hold_an_example_says_so_and_writes_nothing(tmp_path: Path) -> None:
    turns = (Message("user", "a"), Message("assistant", "b", weight=1.0), Message("user", "c"))
    example = Example(Input("x", turns), Message("assistant", "d", weight=1.0))
    for shape, name in (("Alpaca", "a.jsonl"), ("", "a.csv"), ("OpenAI preference", "b.jsonl")):
        with pytest.raises(DataError, match="this shape cannot hold"):
            write_examples(tmp_path / name, [example], shape)
    with pytest.raises(UsageError, match="no shape"):
        write_examples(tmp_path / "c.jsonl", [example], "Vicuna")
    assert list(tmp_path.iterdir()) == []


# --- what the new shapes mean -----------------------------------------------------------------------------------------


def read(folder: Path, rows: list[Any]) -> ReadResult:
    return read_file(write_lines(folder / "rows.jsonl", rows), SETTINGS)


def test_an_alpaca_instruction_of_all_rows_is_the_instruction_and_one_without_input_is_the_question(tmp_path: Path) -> None:
    shared = read(tmp_path, [{"instruction": "Add.", "input": f"{n}+{n}", "output": str(2 * n)} for n in range(3)])
    assert shared.shared_instruction == "Add."
    assert shared.examples[2].input.text == "2+2"
    alone = read(tmp_path, [{"instruction": f"Name {n}.", "input": "", "output": "x", "text": "whole"} for n in range(2)])
    assert alone.shared_instruction is None
    assert alone.examples[1].input.messages == (Message("user", "Name 1."),)
    assert alone.examples[1].metadata == {"text": "whole"}


def test_the_rejected_answer_of_a_preference_row_is_kept_and_counts_for_the_fingerprint(tmp_path: Path) -> None:
    row = {
        "input": {"messages": [{"role": "user", "content": "Q"}], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    }
    result = read(tmp_path, [row])
    (example,) = result.examples
    assert (example.reference.content, example.rejected) == ("good", Message("assistant", "bad", weight=1.0))
    assert example.metadata == {"input.parallel_tool_calls": "true"}
    assert fingerprint([example]) != fingerprint([replace(example, rejected=None)])
    asked = read_inputs(write_lines(tmp_path / "ask.jsonl", [{"input": row["input"]}]), SETTINGS)
    assert asked[0].input.text == "Q"


def test_a_sharegpt_system_text_opens_the_conversation(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    result = read(tmp_path, [{"conversations": turns, "system": f"S{n}"} for n in range(2)])
    assert [message.role for message in result.examples[0].input.messages] == ["system", "user"]
    assert result.notes[0] == "rows.jsonl: ShareGPT, 2 rows."


BAD = {
    "alpaca without output": ({"instruction": "a", "input": "b"}, "'output' is missing"),
    "alpaca with turns": ({"instruction": "a", "output": "b", "history": [["x", "y"]]}, "'history' would not be shown"),
    "alpaca number": ({"instruction": 3, "output": "b"}, "'instruction' must be a text"),
    "sharegpt speaker": ({"conversations": [{"from": "bing", "value": "a"}]}, "'conversations[0].from' is 'bing'"),
    "sharegpt key": (
        {"conversations": [{"from": "human", "value": "a", "markdown": "b"}]},
        "key that would be lost: 'markdown'",
    ),
    "sharegpt value": ({"conversations": [{"from": "human", "value": None}]}, "'conversations[0].value' must be a text"),
    "sharegpt end": ({"conversations": [{"from": "human", "value": "a"}]}, "not the model's"),
    "sharegpt list": ({"conversations": "x"}, "list of messages"),
    "preference without input": ({"preferred_output": []}, "'input' must be an object"),
    "preference key": ({"input": {"messages": [], "x": 1}, "preferred_output": []}, "would be lost: 'x'"),
    "preference two answers": (
        {
            "input": {"messages": [{"role": "user", "content": "a"}]},
            "preferred_output": [{"role": "assistant", "content": "a"}] * 2,
            "non_preferred_output": [],
        },
        "'preferred_output' must hold one message",
    ),
    "preference without the other": (
        {"input": {"messages": [{"role": "user", "content": "a"}]}, "preferred_output": [{"role": "assistant", "content": "a"}]},
        "'non_preferred_output' must be a list",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_row_that_breaks_its_shape_is_refused_with_field_and_line(tmp_path: Path, fault: str) -> None:
    row, words = BAD[fault]
    with pytest.raises(DataError) as caught:
        read(tmp_path, [row])
    assert caught.value.line == 1
    assert words in str(caught.value)
    assert caught.value.hint


# --- containers -------------------------------------------------------------------------------------------------------


def test_a_json_array_is_read_with_the_lines_of_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n  {"instruction": "a",\n "output": "b"},\n\n  {"instruction": "c", "output": "d"}\n]\n', encoding="utf-8")
    result = read_file(path, SETTINGS)
    assert [(example.line, example.input.text) for example in result.examples] == [(2, "a"), (5, "c")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[{"instruction": "a", "output": "b"}, 3]', 1, "no object"),
        ('[\n{"instruction": "a", "output": "b"}\n{"x": 1}]', 3, "a comma"),
        ('[{"instruction": "a", "output": "b"},\n', 2, "not JSON"),
        ('[{"instruction": "a", "output": "b"}', 1, "the file ends"),
        ('[{"instruction": "a", "output": "b"}]\n\n{"x": 1}', 3, "after the end"),
        ('[{"instruction": "a",\n "output": NaN}]', 1, "NaN is not JSON"),
        ("[]", None, "no rows"),
    ],
)
def test_a_broken_array_is_refused_with_its_line(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / "rows.json", SETTINGS)
    assert (caught.value.line, words in str(caught.value)) == (line, True), str(caught.value)


NAMED = DataSettings(examples="x", input="text", reference="label")


def labelled() -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    return datasets.Dataset.from_dict({"text": ["one", "two", "three"], "label": [1, 0, 1]}, features=features)


def test_a_saved_dataset_and_its_parquet_file_are_read_with_the_names_of_classes(tmp_path: Path) -> None:
    labelled().save_to_disk(tmp_path / "saved")
    labelled().to_parquet(tmp_path / "saved.parquet")
    for name in ("saved", "saved.parquet"):
        result = read_file(tmp_path / name, NAMED)
        assert [example.reference.content for example in result.examples] == ["good", "bad", "good"]
        assert any("class numbers" in note for note in result.notes)
        assert result.examples[2].line == 3


def test_datasets_itself_loads_what_was_written(tmp_path: Path) -> None:
    result = read(tmp_path, [{"prompt": f"Q{n}", "completion": f"A{n}"} for n in range(3)])
    write_examples(tmp_path / "back", result.examples, result.shape)
    loaded = datasets.load_from_disk(tmp_path / "back")
    assert loaded["prompt"][:] == ["Q0", "Q1", "Q2"]
    assert [example.input.text for example in read_file(tmp_path / "back", SETTINGS).examples] == ["Q0", "Q1", "Q2"]


def test_a_folder_of_several_splits_is_read_split_by_split(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": labelled(), "test": labelled()}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"several splits: train, test\. Name one, such as both/train"):
        read_file(tmp_path / "both", NAMED)
    assert len(read_file(tmp_path / "both" / "test", NAMED).examples) == 3
    datasets.DatasetDict({"train": labelled()}).save_to_disk(tmp_path / "one")
    assert len(read_file(tmp_path / "one", NAMED).examples) == 3


def test_parquet_values_that_json_cannot_hold_are_refused_by_column_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for column, words in (([b"\x00\x01"], "'x' holds bytes"), ([float("inf")], "infinite"), (["a\0"], "NUL")):
        pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"], "x": column}), path)
        with pytest.raises(DataError) as caught:
            read_file(path, SETTINGS)
        assert caught.value.line == 1
        assert words in str(caught.value)


def test_missing_numbers_in_parquet_are_read_as_missing_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"], "completion": ["c", "d"], "x": [1.5, float("nan")]}), path)
    result = read_file(path, SETTINGS)
    assert [example.metadata for example in result.examples] == [{"x": "1.5"}, {}]
    assert any("NaN" in note for note in result.notes)


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1 and then nothing PAR1"])
def test_a_broken_parquet_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet: cannot be read"):
        read_file(tmp_path / "rows.parquet", SETTINGS)


def test_a_broken_saved_dataset_is_refused_by_name(tmp_path: Path) -> None:
    labelled().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read"):
        read_file(tmp_path / "saved", NAMED)
    (tmp_path / "saved" / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="names no data files"):
        read_file(tmp_path / "saved", NAMED)


def test_without_pyarrow_the_extra_is_named_and_other_files_are_read_all_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "rows.parquet")
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    code = f"""
import sys
sys.modules["pyarrow"] = None
from stepladder import read_file
print(len(read_file({str(tmp_path / "rows.jsonl")!r}).examples))
read_file({str(tmp_path / "rows.parquet")!r})
"""
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert asked.stdout.strip() == "1"
    assert "MissingExtra" in asked.stderr
    assert "pip install 'stepladder[data]'" in asked.stderr


def test_an_array_of_alpaca_rows_becomes_chat_rows_with_its_instruction(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(
        json.dumps([{"instruction": "Add.", "input": f"{n}+1", "output": str(n + 1)} for n in range(3)]), encoding="utf-8"
    )
    result = read_file(path)
    write_examples(tmp_path / "chat.jsonl", result.examples, "OpenAI chat", shared_instruction=result.shared_instruction)
    again = read_file(tmp_path / "chat.jsonl")
    assert (again.shape, again.shared_instruction) == ("OpenAI chat", "Add.")
    assert without_lines(again) == without_lines(result)
