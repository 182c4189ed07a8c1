"""Readers: what a row says arrives, or the row is refused by name."""

from __future__ import annotations

import csv
import io
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepladder.data.readers import ReadResult, read_examples, read_file, read_inputs
from stepladder.data.readers.draft import Draft, Row
from stepladder.data.readers.nothing_lost import check_nothing_lost
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Message
from stepladder.domain.task import DataSettings, Task

SETTINGS = DataSettings(examples="examples.jsonl")
IN_PLACE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(folder: Path, rows: list[Any], given: DataSettings = SETTINGS) -> ReadResult:
    return read_file(write_rows(folder / "examples.jsonl", rows), given)


def chat(*turns: tuple[str, str], **rest: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **rest}


def make_task(folder: Path, rows: list[Any], toml: str = "", data: str = "") -> Task:
    write_rows(folder / "examples.jsonl", rows)
    text = f'name = "t"\ninstruction = "Answer."\n[data]\nexamples = "examples.jsonl"\n{data}\n{toml}\n'
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return Task.load(folder)


def strings_of(example: Example) -> Iterator[str]:
    for message in (*example.input.messages, example.reference):
        yield from (text for text in (message.content, message.name, message.tool_call_id) if text is not None)
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    yield json.dumps(list(example.input.tools), ensure_ascii=False)
    yield from example.metadata.values()
    yield from example.sources
    yield from (example.id, example.recorded or "")


# --- OpenAI chat -----------------------------------------------------------------------------------------------------


def test_the_last_assistant_turn_is_the_reference_and_the_turns_before_are_the_input(tmp_path: Path) -> None:
    row = chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Take care"), id="a")
    example = read_rows(tmp_path, [row]).examples[0]
    assert [(turn.role, turn.content) for turn in example.input.messages] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Bye"),
    ]
    assert (example.reference.content, example.id, example.line) == ("Take care", "a", 1)


def test_weights_of_assistant_turns_are_kept_and_default_to_one(tmp_path: Path) -> None:
    row = chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Take care"))
    row["messages"][1]["weight"] = 0
    example = read_rows(tmp_path, [row]).examples[0]
    assert [turn.weight for turn in (*example.input.messages, example.reference)] == [None, 0.0, None, 1.0]


def test_tools_and_tool_calls_arrive_with_null_content(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "x"}'}}
    row = {
        "messages": [
            {"role": "user", "content": "Find x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": [{**call, "id": "c2"}]},
        ],
        "tools": [tool],
    }
    example = read_rows(tmp_path, [row]).examples[0]
    assert example.input.tools == (tool,)
    assert example.input.messages[1].tool_calls[0].arguments == '{"q": "x"}'
    assert example.input.messages[2].tool_call_id == "c1"
    assert (example.reference.content, example.reference.tool_calls[0].id) == ("", "c2")


def test_text_parts_are_joined_and_that_is_said(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]
    result = read_rows(tmp_path, [{"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Three"}]}])
    assert result.examples[0].input.text == "One\nTwo"
    assert any("text parts" in note for note in result.notes)


def test_developer_is_read_as_system_and_that_is_said(tmp_path: Path) -> None:
    rows = [chat(("developer", f"Rule {n}"), ("user", "Q"), ("assistant", "A")) for n in range(2)]
    result = read_rows(tmp_path, rows)
    assert [row.input.messages[0].role for row in result.examples] == ["system", "system"]
    assert any("developer" in note for note in result.notes)


def test_a_system_message_equal_in_all_rows_is_the_instruction_and_not_input(tmp_path: Path) -> None:
    result = read_rows(tmp_path, [chat(("system", "Be kind."), ("user", f"Q{n}"), ("assistant", "A")) for n in range(3)])
    assert result.shared_instruction == "Be kind."
    assert all([turn.role for turn in row.input.messages] == ["user"] for row in result.examples)


@pytest.mark.parametrize(
    "other", [chat(("system", "Be rude."), ("user", "Q"), ("assistant", "A")), chat(("user", "Q"), ("assistant", "A"))]
)
def test_a_system_message_that_differs_or_is_missing_somewhere_is_input(tmp_path: Path, other: dict[str, Any]) -> None:
    result = read_rows(tmp_path, [chat(("system", "Be kind."), ("user", "Q1"), ("assistant", "A")), other])
    assert result.shared_instruction is None
    assert result.examples[0].input.messages[0] == Message("system", "Be kind.")


# --- prompt/completion, tables ----------------------------------------------------------------------------------------


def test_prompt_completion_rows_keep_sources_recorded_and_everything_else(tmp_path: Path) -> None:
    row = {"prompt": "Q", "completion": "A", "id": 7, "sources": ["d/x.md"], "recorded": "B", "team": {"lead": "Ada"}, "n": 3}
    example = read_rows(tmp_path, [row]).examples[0]
    assert (example.id, example.sources, example.recorded) == ("7", ("d/x.md",), "B")
    assert example.metadata == {"team": '{"lead": "Ada"}', "n": "3"}


def test_a_completion_that_is_an_object_becomes_its_json_text_and_that_is_said(tmp_path: Path) -> None:
    result = read_rows(tmp_path, [{"prompt": "Q", "completion": {"kind": "ä"}}])
    assert result.examples[0].reference.content == '{"kind": "ä"}'
    assert any("JSON text" in note for note in result.notes)


def test_keys_of_other_names_can_be_given_in_the_settings(tmp_path: Path) -> None:
    named = DataSettings(examples="examples.jsonl", input="question", reference="reply")
    example = read_rows(tmp_path, [{"question": "Q", "reply": "A"}], named).examples[0]
    assert (example.input.text, example.reference.content) == ("Q", "A")


def test_the_guessed_shape_and_the_metadata_are_said(tmp_path: Path) -> None:
    result = read_rows(tmp_path, [chat(("user", "Q"), ("assistant", "A"), topic="x") for _ in range(2)])
    assert result.notes[0] == "examples.jsonl: OpenAI chat, 2 rows."
    assert any("kept as metadata" in note and "topic" in note for note in result.notes)


def test_a_table_guesses_obvious_columns_and_says_so_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('Question,Label,team\n"Where,\nnow?",here,blue\nWhen?,soon,\n', encoding="utf-8")
    result = read_file(path, SETTINGS)
    first, second = result.examples
    assert (first.input.text, first.reference.content, first.line) == ("Where,\nnow?", "here", 2)
    assert (second.line, second.metadata, first.metadata) == (4, {}, {"team": "blue"})
    assert "rows.csv: the column 'Question' is the input." in result.notes
    assert any("metadata" in note and "team" in note for note in result.notes)


@pytest.mark.parametrize(("name", "separator"), [("rows.tsv", "\t"), ("rows.csv", ";"), ("rows.csv", ","), ("rows.csv", "|")])
def test_a_table_is_read_with_its_own_separator_and_mapped_columns(tmp_path: Path, name: str, separator: str) -> None:
    path = tmp_path / name
    rows = [["key", "said", "wanted", "old"], ["r1", "Q1", "A1", "B1"], ["r2", "Q2", "A2", "B2"]]
    path.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    mapped = DataSettings(examples=name, input="said", reference="wanted", id="key", recorded="old")
    found = [(row.id, row.input.text, row.reference.content, row.recorded) for row in read_file(path, mapped).examples]
    assert found == [("r1", "Q1", "A1", "B1"), ("r2", "Q2", "A2", "B2")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("prompt,label\na,b\nc\n", 3, "1 cells, the header 2"),
        ('prompt,label\na,b\n"c,d\n', 3, "cannot be read"),
        ("prompt,prompt\na,b\n", 1, "stands twice"),
        ("foo,label\na,b\n", 1, "[data] input"),
        ("prompt,foo\na,b\n", 1, "[data] reference"),
        ("prompt,label\n,b\n", 2, "the input is empty"),
        ("prompt,label\na,\n", 2, "the answer is empty"),
        (",\na,b\n", 1, "no header"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_file(path, SETTINGS)
    assert (caught.value.line, words in str(caught.value)) == (line, True), str(caught.value)


def test_a_misspelt_column_is_answered_with_the_closest(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("message,label\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="Did you mean 'message'"):
        read_file(path, DataSettings(examples="rows.csv", input="mesage"))


# --- ids --------------------------------------------------------------------------------------------------------------


def test_ids_from_content_stay_when_rows_are_moved_added_or_their_answer_is_corrected(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}", "completion": "A"} for n in range(4)]
    before = {row.input.text: row.id for row in read_rows(tmp_path, rows).examples}
    moved = [{"prompt": "New", "completion": "A"}, *reversed(rows)]
    moved[1] = {**moved[1], "completion": "corrected"}
    after = {row.input.text: row.id for row in read_rows(tmp_path, moved).examples}
    assert {text: after[text] for text in before} == before


def test_equal_rows_without_an_id_are_numbered(tmp_path: Path) -> None:
    ids = [row.id for row in read_rows(tmp_path, [{"prompt": "Q", "completion": "A"}] * 3).examples]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]


def test_an_id_used_twice_names_both_lines(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": f"Q{at}", "completion": "A"} for at, name in enumerate("aba")]
    with pytest.raises(DataError, match=r"examples\.jsonl:3: the id 'a' stands on line 1 too"):
        read_rows(tmp_path, rows)


# --- nothing is lost --------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FULL_TEXTS = TEXTS.filter(lambda text: text.strip())
JSON = st.recursive(
    st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
EXTRAS = st.dictionaries(st.sampled_from(["topic", "metadata", "history", "x"]), JSON, max_size=3)
PARTS = st.lists(FULL_TEXTS.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3)
TURNS = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "tool"]), "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.one_of(FULL_TEXTS, PARTS)}, optional={"name": FULL_TEXTS}),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": st.one_of(st.none(), FULL_TEXTS),
            "tool_calls": st.lists(
                st.fixed_dictionaries(
                    {
                        "id": TEXTS,
                        "type": st.just("function"),
                        "function": st.fixed_dictionaries({"name": FULL_TEXTS, "arguments": TEXTS}),
                    }
                ),
                min_size=1,
                max_size=2,
            ),
        }
    ),
)
CHATS = st.builds(
    lambda turns, answer, extras: {
        **extras,
        "messages": [{"role": "user", "content": "first"}, *turns, {"role": "assistant", "content": answer}],
    },
    st.lists(TURNS, max_size=4),
    FULL_TEXTS,
    EXTRAS,
)
PAIRS = st.builds(
    lambda prompt, answer, extras: {**extras, "prompt": prompt, "completion": answer}, FULL_TEXTS, FULL_TEXTS, EXTRAS
)


def row_strings(value: Any, key: str = "") -> Iterator[str]:
    """Strings of a row that say something; roles and types are words of the format."""
    if isinstance(value, str) and key not in ("role", "type"):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from row_strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from row_strings(item)


@IN_PLACE
@given(row=st.one_of(CHATS, PAIRS))
def test_every_string_of_a_row_can_be_found_in_its_example(tmp_path: Path, row: dict[str, Any]) -> None:
    example = read_rows(tmp_path, [row]).examples[0]
    carried = "\n".join(strings_of(example))
    escaped = "\n".join(json.dumps(text, ensure_ascii=False)[1:-1] for text in strings_of(example))
    for text in row_strings(row):
        assert text in carried or json.dumps(text, ensure_ascii=False)[1:-1] in carried + escaped


def test_a_reader_that_drops_a_field_is_caught_with_its_name() -> None:
    row = Row(Path("x.jsonl"), 4, {"prompt": "Q", "completion": "A", "a": {"b": ["kept", "dropped"]}})
    lossy = Draft(row, (Message("user", "Q"),), Message("assistant", "A"), metadata={"a": '["kept"]'})
    with pytest.raises(DataError, match=r"x\.jsonl:4: 'a\.b\[1\]' would be lost"):
        check_nothing_lost(lossy)


def test_a_reader_that_drops_one_of_two_equal_texts_is_caught() -> None:
    row = Row(Path("x.jsonl"), 1, {"prompt": "same", "completion": "same"})
    with pytest.raises(DataError, match="'note' would be lost"):
        check_nothing_lost(
            Draft(Row(row.path, 1, {**row.values, "note": "same"}), (Message("user", "same"),), Message("assistant", "same"))
        )


@IN_PLACE
@given(cells=st.lists(st.tuples(FULL_TEXTS, FULL_TEXTS, TEXTS), min_size=1, max_size=5))
def test_tables_written_by_csv_are_read_back(tmp_path: Path, cells: list[tuple[str, str, str]]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("input", "reference", "extra"), *cells])
    path = tmp_path / "rows.csv"
    path.write_bytes(buffer.getvalue().encode())
    found = [(row.input.text, row.reference.content, row.metadata.get("extra", "")) for row in read_file(path, SETTINGS).examples]
    assert found == cells


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD = b'{"prompt": "Q", "completion": "A"}\n'


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (GOOD + b"{'prompt': 'Q'}\n", 2, "not JSON"),
        (GOOD + b'{"prompt": "Q", "completion": }\n', 2, "column 31"),
        (GOOD + b"[1, 2]\n", 2, "a list, not an object"),
        (b'[\n{"prompt": "Q"}\n]\n', 1, "one JSON array"),
        (GOOD + b'{"question": "Q", "answer": "A"}\n', 2, "'question', 'answer'"),
        (GOOD + b'{"prompt": "Q"}\n', 2, "'completion' is missing"),
        (GOOD + b'{"prompt": "Q", "completion": "  "}\n', 2, "the answer is empty"),
        (GOOD + b'{"prompt": "Q", "completion": null}\n', 2, "the answer is empty"),
        (GOOD + b'{"prompt": " ", "completion": "A"}\n', 2, "the input is empty"),
        (GOOD + b'{"prompt": "Q", "completion": "A", "sources": 3}\n', 2, "'sources'"),
        (GOOD + b'{"prompt": "Q", "completion": "A", "id": true}\n', 2, "'id'"),
        (GOOD + b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n', 2, "began as"),
        (GOOD + b'{"prompt": "Q", "completion": NaN}\n', 2, "NaN is not JSON"),
        (GOOD + b'{"prompt": "Q", "completion": "A", "x": -Infinity}\n', 2, "-Infinity is not JSON"),
        (GOOD + b'{"prompt": "Q", "completion": "A", "prompt": "R"}\n', 2, "'prompt' stands twice"),
        (GOOD + b'{"prompt": "\\ud800", "completion": "A"}\n', 2, "half of a surrogate pair"),
        (GOOD + b'{"prompt": "a\\u0000", "completion": "A"}\n', 2, "a NUL character"),
        (GOOD + b'{"prompt": "a\0", "completion": "A"}\n', 2, "NUL byte (byte 48"),
        (GOOD + '{"prompt": "é", "completion": "A"}\n'.encode("latin-1"), 2, "byte 0xe9 at byte 47"),
        (GOOD + b'{"prompt": "Q", "completion": "A", "x": ' + b"[" * 70 + b"]" * 70 + b"}\n", 2, "deeper than 64"),
        (GOOD + b"[" * 100_000 + b"\n", 2, "deeper than 64"),
        (GOOD + b'{"prompt": "Q", "completion": "A", "x": ' + b"9" * 5000 + b"}\n", 2, "too long"),
        (GOOD.decode().encode("utf-16"), 1, "UTF-16"),
        (GOOD.decode().encode("utf-32"), 1, "UTF-32"),
        (b"", None, "no rows"),
        (b"\n\n", None, "stepladder label"),
    ],
)
def test_bad_files_are_refused_with_line_and_reason(tmp_path: Path, content: bytes, line: int | None, words: str) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(path, SETTINGS)
    assert caught.value.line == line
    assert words in str(caught.value)
    assert caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["examples.jsonl"]


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([{"role": "human", "content": "Q"}, {"role": "assistant", "content": "A"}], "messages[0].role' is 'human'"),
        ([{"role": "user", "content": "Q"}], "not of the assistant"),
        ([], "not empty"),
        ("Q", "list of messages"),
        (["Q"], "'messages[0]' must be an object"),
        ([{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}], "the answer is empty"),
        ([{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}], "the input is empty"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "A"}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "not a text part"),
        ([{"role": "user", "content": "Q", "weight": 1}, {"role": "assistant", "content": "A"}], "user turn"),
        ([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0.5}], "weight' is 0.5"),
        ([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "thinking": "hm"}], "'thinking'"),
        (
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None, "function_call": {"name": "f"}}],
            "'function_call'",
        ),
        (
            [{"role": "user", "content": "Q"}, {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}],
            "tool_calls[0]",
        ),
        (
            [{"role": "user", "content": "Q", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]}],
            "assistant turns",
        ),
    ],
)
def test_bad_messages_are_refused_by_their_place(tmp_path: Path, turns: Any, words: str) -> None:
    rows = [chat(("user", "Q"), ("assistant", "A")), {"messages": turns}]
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path, rows)
    assert caught.value.line == 2
    assert words in str(caught.value)


@pytest.mark.parametrize("rest", [{"tools": {}}, {"tools": [{"name": "f"}]}, {"functions": [{"name": "f"}]}])
def test_tools_in_another_form_are_refused(tmp_path: Path, rest: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"function|tools"):
        read_rows(tmp_path, [chat(("user", "Q"), ("assistant", "A"), **rest)])


@pytest.mark.parametrize(
    ("line", "to_do"),
    [
        (b"{not json", "one JSON object on each line"),
        (b"17", "one JSON object on each line"),
        (b"[", "call the file NAME.json"),
        (b'[{"prompt": "Q"}]', "call the file NAME.json"),
        (b'{"prompt": "Q", "completion": NaN}', "Correct the line"),
        (b'{"prompt": "Q", "prompt": "A"}', "Correct the line"),
    ],
)
def test_a_line_that_is_no_row_says_what_to_do(tmp_path: Path, line: bytes, to_do: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + b"\n")
    with pytest.raises(DataError, match=to_do) as caught:
        read_file(path, SETTINGS)
    assert caught.value.line == 2


def test_a_row_without_the_key_that_the_settings_name_says_which(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    settings = DataSettings(examples="a.jsonl", input="message")
    with pytest.raises(DataError, match=r"no 'message', which `\[data\] input` names; its keys are: 'prompt', 'completion'"):
        read_inputs(tmp_path / "a.jsonl", settings)


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", GOOD), ("a.json", b"[" + GOOD + b"]"), ("a.txt", GOOD)])
def test_json_behind_a_byte_order_mark_is_refused_on_line_1(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert len(read_file(path, SETTINGS).examples) == 1
    path.write_bytes(b"\xef\xbb\xbf" + content)
    with pytest.raises(DataError, match="byte order mark.*without it") as caught:
        read_file(path, SETTINGS)
    assert caught.value.line == 1


@pytest.mark.parametrize(("name", "cell"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_behind_a_byte_order_mark_is_read_and_that_is_said(tmp_path: Path, name: str, cell: str) -> None:
    path = tmp_path / name
    path.write_text(f"prompt{cell}completion\nQ{cell}A\n", encoding="utf-8-sig")
    result = read_file(path, SETTINGS)
    assert result.examples[0].input.text == "Q"
    assert any("byte order mark" in note for note in result.notes)


def test_a_table_with_the_line_ends_of_old_macs_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"input,reference\ra,b\rc,d\r")
    with pytest.raises(DataError, match="carriage return alone"):
        read_file(tmp_path / "rows.csv", SETTINGS)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_file(tmp_path, SETTINGS)
    with pytest.raises(DataError, match="no such file"):
        read_file(tmp_path / "none.jsonl", SETTINGS)


def test_a_line_of_200_megabytes_is_refused_quickly_and_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"a" * 1024**2)
    try:
        started = time.process_time()
        tracemalloc.start()
        with pytest.raises(DataError, match=r"examples\.jsonl:1: the line is longer than 64 MB"):
            read_file(path, SETTINGS)
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        path.unlink()
    assert seconds < 1.0
    assert peak < 200 * 1024**2


# --- a task's examples ------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "required": ["b", "a"], "properties": {"b": {"enum": ["x", "y"]}, "a": {"type": "integer"}}}


def schema_task(folder: Path, answer: str) -> Task:
    (folder / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    return make_task(folder, [{"prompt": "Q", "completion": answer}], '[output]\nschema = "s.json"')


def test_references_are_written_in_the_schemas_key_order(tmp_path: Path) -> None:
    task = schema_task(tmp_path, ' {"a":1,\n"b":"x"} ')
    assert read_examples(task).examples[0].reference.content == '{"b": "x", "a": 1}'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("yes", "the answer is not JSON"),
        ('{"b": "z", "a": 1}', 'b: "z" is not one of'),
        ('{"b": "x"}', '"a" is a required property'),
        ('{"b": "x", "a": 1, "a": 2}', "the key 'a' stands twice"),
    ],
)
def test_a_reference_outside_the_schema_is_refused_with_its_line(tmp_path: Path, answer: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_examples(schema_task(tmp_path, answer))
    assert caught.value.line == 1
    assert words in str(caught.value)


def test_a_schema_that_points_outside_is_refused_and_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"$ref": "https://example.invalid/x.json"}', encoding="utf-8")
    task = make_task(tmp_path, [{"prompt": "Q", "completion": "1"}], '[output]\nschema = "s.json"')
    with pytest.raises(DataError, match=r"s\.json: not a JSON Schema.*nothing is fetched"):
        read_examples(task)


def test_a_reference_outside_the_labels_is_answered_with_the_closest_label(tmp_path: Path) -> None:
    task = make_task(tmp_path, [{"prompt": "Q", "completion": "Refnud"}], '[output]\nlabels = ["refund", "other"]')
    with pytest.raises(DataError, match=r"'Refnud' is not one of the labels\. Did you mean 'refund'"):
        read_examples(task)


def test_a_reference_must_match_the_whole_pattern(tmp_path: Path) -> None:
    task = make_task(tmp_path, [{"prompt": "Q", "completion": "12a"}], "[output]\nregex = '[0-9]+'")
    with pytest.raises(DataError, match="does not match"):
        read_examples(task)
    with pytest.raises(DataError, match="not a regular expression"):
        read_examples(make_task(tmp_path, [{"prompt": "Q", "completion": "1"}], "[output]\nregex = '('"))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("(a+)+b", "does not match"), ("(?=a)(a+)+b", r"examples\.jsonl:1: .* cannot be held against .*: the pattern ran over 2 s")],
)
def test_a_runaway_pattern_is_told_by_its_row_and_does_not_run_for_ever(tmp_path: Path, pattern: str, said: str) -> None:
    task = make_task(tmp_path, [{"prompt": "Q", "completion": "a" * 60}], f"[output]\nregex = '{pattern}'")
    start = time.monotonic()
    with pytest.raises(DataError, match=said):
        read_examples(task)
    assert time.monotonic() - start < 20  # `re` would need years


def test_recorded_answers_come_from_a_file_by_id(tmp_path: Path) -> None:
    write_rows(tmp_path / "old.jsonl", [{"id": "b", "answer": "two"}, {"id": 1, "answer": {"x": 1}}])
    rows = [{"id": "1", "prompt": "Q1", "completion": "A"}, {"id": "b", "prompt": "Q2", "completion": "A"}]
    task = make_task(tmp_path, rows, data='recorded = "old.jsonl"')
    assert [row.recorded for row in read_examples(task).examples] == ['{"x": 1}', "two"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"id": "a", "answer": "x"}, {"id": "c", "answer": "y"}], "old.jsonl:2: no row has the id 'c'"),
        ([{"id": "a", "answer": "x"}], "no answer for the row 'b'"),
        ([{"id": "a", "answer": "x"}, {"id": "a", "answer": "y"}], "stands on line 1 too"),
        ([{"id": "a"}], "needs 'id' and 'answer'"),
    ],
)
def test_recorded_answers_that_do_not_fit_are_refused(tmp_path: Path, answers: list[Any], words: str) -> None:
    write_rows(tmp_path / "old.jsonl", answers)
    rows = [{"id": name, "prompt": name, "completion": "A"} for name in "ab"]
    with pytest.raises(DataError) as caught:
        read_examples(make_task(tmp_path, rows, data='recorded = "old.jsonl"'))
    assert words in str(caught.value)


def test_a_recorded_key_that_no_row_or_not_every_row_has_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "Q1", "completion": "A"}, {"prompt": "Q2", "completion": "A"}]
    with pytest.raises(DataError, match="no row has 'now'"):
        read_examples(make_task(tmp_path, rows, data='recorded = "now"'))
    with pytest.raises(DataError, match=r"examples\.jsonl:2: 'now' is missing"):
        read_examples(make_task(tmp_path, [{**rows[0], "now": "B"}, rows[1]], data='recorded = "now"'))


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completion": "A", "sources": ["documents/no.md"]}]
    with pytest.raises(DataError, match=r"source 'documents/no\.md' does not exist"):
        read_examples(make_task(tmp_path, rows, data='documents = "documents"'))


def given_task(folder: Path, parts: dict[str, list[Any]]) -> Task:
    lines = ['name = "t"', 'instruction = "Answer."', "[data]"]
    for name, rows in parts.items():
        write_rows(folder / f"{name}.jsonl", rows)
        lines.append(f'{name} = "{name}.jsonl"')
    (folder / "task.toml").write_text("\n".join(lines), encoding="utf-8")
    return Task.load(folder)


def test_own_files_share_one_instruction_and_one_set_of_ids(tmp_path: Path) -> None:
    row = chat(("system", "S"), ("user", "Q"), ("assistant", "A"))
    task = given_task(tmp_path, {"train": [row, row], "test": [row]})
    whole = read_examples(task)
    assert sorted(whole.given.values()) == ["test", "train", "train"]
    assert len({example.id for example in whole.examples}) == 3
    test = read_examples(task, "test")
    assert [example.id for example in test.examples] == [whole.examples[2].id]
    assert test.shared_instruction == "S"


def test_a_system_message_of_one_file_only_stays_input(tmp_path: Path) -> None:
    train = [chat(("system", "S"), ("user", "Q"), ("assistant", "A"))]
    task = given_task(tmp_path, {"train": train, "test": [chat(("user", "R"), ("assistant", "A"))]})
    assert read_examples(task, "train").shared_instruction is None
    with pytest.raises(DataError, match="names no validation file"):
        read_examples(task, "validation")


# --- questions only ---------------------------------------------------------------------------------------------------


def test_questions_are_read_without_answers_and_keep_their_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "Q1", "id": "a", "extra": 1}, {"prompt": "Q2", "completion": "ignored"}]
    found = read_inputs(write_rows(tmp_path / "new.jsonl", rows), SETTINGS)
    assert [(item.text, row) for item, row in found] == [("Q1", rows[0]), ("Q2", rows[1])]
    assert found[0].input.id == "a"


def test_chats_are_questions_with_or_without_a_last_answer_and_lose_only_the_shared_instruction(tmp_path: Path) -> None:
    rows = [chat(("system", "S"), ("user", "Q1")), chat(("system", "T"), ("user", "Q2"), ("assistant", "A"))]
    found = read_inputs(write_rows(tmp_path / "new.jsonl", rows), SETTINGS, shared_instruction="S")
    assert [[turn.content for turn in item.messages] for item, _ in found] == [["Q1"], ["T", "Q2"]]


def test_a_table_of_questions_needs_no_answer_column(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("text,extra\nQ1,x\n", encoding="utf-8")
    (found,) = read_inputs(path, DataSettings(examples="e.csv", reference="wanted"))
    assert (found.input.text, found.row) == ("Q1", {"text": "Q1", "extra": "x"})


def test_questions_that_are_empty_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"new\.jsonl:1: the input is empty"):
        read_inputs(write_rows(tmp_path / "new.jsonl", [{"prompt": ""}]), SETTINGS)
