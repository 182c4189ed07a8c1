from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.errors import DataError, RunError
from stepladder.domain.messages import Chunk, Example, Input, Message, ToolCall
from stepladder.domain.protocols import Prompt
from stepladder.domain.task import Task
from stepladder.techniques.fake import SCHEMA, Kind, fake_example, fake_task
from stepladder.techniques.forms import BANK, PLAIN, SHORT, Form, bank_of, form_of, own_forms
from stepladder.techniques.shape import grammar_of, list_fields, shape_of, show_shape, sketch


def form(name: str) -> Form:
    return next(one for one in BANK if one.name == name)


def own(tmp_path: Path, text: str, **settings: str) -> tuple[Task, Form]:
    task = fake_task(tmp_path, "text", prompts=[{"file": "ours.txt", **settings}])
    (tmp_path / "ours.txt").write_text(text, encoding="utf-8")
    return task, own_forms(task)[0]


def roles_and_texts(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]


def test_the_plain_form_is_the_instruction_and_the_input(tmp_path: Path) -> None:
    prompt = PLAIN.render(fake_task(tmp_path, "text"), Input.of("what is a fern", id="x"))
    assert prompt.id == "x"
    assert roles_and_texts(prompt) == [("system", "Say what kind of thing it is."), ("user", "what is a fern")]


def test_the_short_form_is_the_input_under_an_empty_system_turn(tmp_path: Path) -> None:
    prompt = SHORT.render(fake_task(tmp_path, "text"), Input.of("what is a fern"))
    assert roles_and_texts(prompt) == [("system", ""), ("user", "what is a fern")]


def test_earlier_turns_tools_and_names_are_kept_and_the_own_system_turn_follows_the_instruction(tmp_path: Path) -> None:
    call = ToolCall("c1", "look", "{}")
    turns = (
        Message("system", "You speak to a child."),
        Message("user", "look", name="ann"),
        Message("assistant", "", tool_calls=(call,), weight=0),
        Message("tool", "green", tool_call_id="c1"),
        Message("user", "what is it"),
    )
    tools = ({"type": "function", "function": {"name": "look"}},)
    prompt = PLAIN.render(fake_task(tmp_path, "text"), Input("x", turns, tools))
    assert prompt.messages[0] == Message("system", "Say what kind of thing it is.\n\nYou speak to a child.")
    assert prompt.messages[1:] == (turns[1], replace(turns[2], weight=None), turns[3], turns[4])
    assert prompt.tools == tools


def test_demonstrations_are_turns_between_the_instruction_and_the_input_in_the_one_json_form(tmp_path: Path) -> None:
    example = fake_example("json", 0, 0)  # written with "note" before "kind"; the schema wants "kind" first
    prompt = PLAIN.render(fake_task(tmp_path, "json"), Input.of("q"), demonstrations=[example])
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.messages[2].content == '{"kind": "animal", "note": "secret-row-0-0."}'


def test_a_demonstrations_own_system_turn_opens_its_user_turn(tmp_path: Path) -> None:
    turns = (Message("system", "Be brief."), Message("user", "hello"))
    example = Example(Input("d", turns), Message("assistant", "hi"))
    prompt = PLAIN.render(fake_task(tmp_path, "text"), Input.of("q"), demonstrations=[example])
    assert prompt.messages[1].content == "Be brief.\n\nhello"
    assert "Be brief." not in prompt.messages[0].content


def test_an_instruction_in_the_user_turn_is_said_once_in_the_first(tmp_path: Path) -> None:
    prompt = form("in-user").render(fake_task(tmp_path, "text"), Input.of("q"), demonstrations=[fake_example("text", 0, 0)])
    assert [message.role for message in prompt.messages] == ["user", "assistant", "user"]
    assert prompt.messages[0].content.startswith("Say what kind of thing it is.\n\n")
    assert prompt.messages[2].content == "q"


@pytest.mark.parametrize("one", [*BANK, SHORT], ids=lambda one: one.name)
def test_what_all_rows_share_stands_before_the_input(one: Form, tmp_path: Path) -> None:
    task, shots = fake_task(tmp_path, "json"), [fake_example("json", 0, 0)]
    first = one.render(task, Input.of("@@@ first"), demonstrations=shots)
    other = one.render(task, Input.of("@@@ other"), demonstrations=shots)
    assert first.messages[:-1] == other.messages[:-1]
    assert first.messages[-1].content.split("@@@")[0] == other.messages[-1].content.split("@@@")[0]


@given(text=st.text())
def test_every_form_carries_the_input_unchanged_in_its_last_user_turn(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    task = fake_task(tmp_path_factory.getbasetemp() / "forms", "labels")
    for one in (*BANK, SHORT):
        assert text in one.render(task, Input.of(text)).messages[-1].content


def test_passages_stand_in_the_last_user_turn_before_the_question(tmp_path: Path) -> None:
    chunks = [Chunk("documents/a.md", 0, 3, "Ferns are green.", "On ferns"), Chunk("documents/b.md", 0, 3, "Flint is hard.")]
    prompt = PLAIN.render(fake_task(tmp_path, "text"), Input.of("what is a fern"), passages=chunks)
    expected = "Passages:\n\n[1] On ferns\nFerns are green.\n\n[2] documents/b.md\nFlint is hard.\n\nQuestion: what is a fern"
    assert prompt.messages[-1].content == expected


@pytest.mark.parametrize("kind", ["labels", "json", "text"])
def test_the_bank_holds_eight_to_twelve_different_forms_the_plain_one_first(kind: Kind, tmp_path: Path) -> None:
    task = fake_task(tmp_path, kind)
    bank = bank_of(task)
    assert 8 <= len(bank) <= 12
    assert bank[0] == PLAIN
    assert len({one.render(task, Input.of("q")) for one in bank}) == len(bank)
    assert bank_of(task, 3) == bank[:3]
    assert bank_of(task, 0) == (PLAIN,)


@pytest.mark.parametrize("name", ["strict", "shown", "tail", "fields", "rules"])
def test_forms_that_show_the_answers_name_every_label(name: str, tmp_path: Path) -> None:
    prompt = form(name).render(fake_task(tmp_path, "labels"), Input.of("q"))
    text = "".join(message.content for message in prompt.messages)
    assert all(label in text for label in ("animal", "plant", "stone"))


def test_a_regex_task_shows_its_pattern(tmp_path: Path) -> None:
    task = fake_task(tmp_path, "text", output={"regex": "[0-9]+"})
    assert shape_of(task) == "regex"
    assert "[0-9]+" in form("strict").render(task, Input.of("q")).messages[0].content
    grammar = grammar_of(task)
    assert grammar is not None
    assert (grammar.kind, grammar.text) == ("regex", "[0-9]+")


def test_an_own_prompt_without_a_slot_is_the_system_turn_word_for_word(tmp_path: Path) -> None:
    task, ours = own(tmp_path, "  Name   it!\n\nNow.\n")
    assert ours.name == "own:ours.txt"
    assert roles_and_texts(ours.render(task, Input.of("q"))) == [("system", "  Name   it!\n\nNow."), ("user", "q")]


def test_an_own_prompt_with_a_slot_is_the_user_turn_word_for_word(tmp_path: Path) -> None:
    task, ours = own(tmp_path, "Thing: {input}\nKind of {input}:", name="mine")
    assert ours.name == "own:mine"
    assert roles_and_texts(ours.render(task, Input.of("fern"))) == [("user", "Thing: fern\nKind of fern:")]


def test_an_input_that_contains_the_slot_is_left_alone(tmp_path: Path) -> None:
    task, ours = own(tmp_path, "Thing: {input}\nKind:")
    assert ours.render(task, Input.of("{input} {input}")).messages[-1].content == "Thing: {input} {input}\nKind:"


def test_an_own_prompt_opens_only_the_first_of_several_user_turns(tmp_path: Path) -> None:
    task, ours = own(tmp_path, "Name the kind.\nThing: {input}\nKind:")
    prompt = ours.render(task, Input.of("fern"), demonstrations=[fake_example("text", 0, 0)])
    assert prompt.messages[0].content.startswith("Name the kind.\nThing: what is the heron")
    assert prompt.messages[2].content == "fern\nKind:"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b" \n"])
def test_an_own_prompt_that_cannot_be_used_is_named(content: bytes | None, tmp_path: Path) -> None:
    task = fake_task(tmp_path, "text", prompts=[{"file": "ours.txt"}])
    if content is not None:
        (tmp_path / "ours.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"ours\.txt"):
        own_forms(task)


def test_every_form_comes_back_from_its_recipe(tmp_path: Path) -> None:
    _, ours = own(tmp_path, "Name it: {input}")
    for one in (*BANK, SHORT, ours):
        assert form_of(json.loads(json.dumps(one.as_recipe()))) == one


def test_an_own_prompt_comes_back_although_its_file_is_gone(tmp_path: Path) -> None:
    _, ours = own(tmp_path, "Name it: {input}")
    recipe = ours.as_recipe()
    (tmp_path / "ours.txt").unlink()
    assert form_of(recipe) == ours


def test_a_form_nobody_knows_is_an_error() -> None:
    with pytest.raises(RunError, match="'baroque'"):
        form_of({"form": "baroque"})


def test_a_schema_is_sketched_like_the_value_it_describes() -> None:
    assert sketch(SCHEMA) == '{"kind": "animal" | "plant" | "stone", "note": string}'
    nested = {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"type": "string"}}, "id": {"type": ["integer", "null"]}},
    }
    assert sketch(nested) == '{"tags": [string, ...], "id": integer | null}'
    assert sketch({"anyOf": [{"const": 1}, {"type": "string", "pattern": "^a$"}]}) == "1 | string like ^a$"


def test_a_schema_that_refers_to_itself_is_sketched_and_ends() -> None:
    node = {"type": "object", "properties": {"again": {"$ref": "#/$defs/node"}}}
    properties = {"left": {"$ref": "#/$defs/node"}, "leaf": {"$ref": "#/$defs/leaf"}}
    text = sketch({"type": "object", "properties": properties, "$defs": {"leaf": {"const": 0}, "node": node}})
    assert text.startswith('{"left": {"again": {"again": ')
    assert text.endswith('"leaf": 0}')
    assert sketch({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}) == "any"


def test_fields_come_one_a_line_with_their_description(tmp_path: Path) -> None:
    lines = list_fields(fake_task(tmp_path, "json")).splitlines()
    assert lines[1:] == ['- kind: "animal" | "plant" | "stone"', "- note: string (a remark in a few words)"]
    assert list_fields(fake_task(tmp_path, "text")) == show_shape(fake_task(tmp_path, "text")) == ""
