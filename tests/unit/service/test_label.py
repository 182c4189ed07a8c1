"""Labelling without a terminal: which row comes next, whose answer it is, what it has come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from chat_server import chat_server
from small_tasks import LABELS, write_task
from stepladder.domain.errors import DataError, PrivacyError, UsageError
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.domain.task import Task
from stepladder.engines.fake import FakeEngine
from stepladder.evaluation.planning import more_rows_for
from stepladder.service.label import Labelling, labelling
from stepladder.service.label_summary import summarise
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder


def make(folder: Path, inputs: int = 30, output: str = f"labels = {json.dumps(LABELS)}") -> tuple[Task, Path]:
    """A task without examples, and inputs that are all different."""
    folder.mkdir()
    toml = f'name = "t"\ninstruction = "Say what it is."\n[data]\nexamples = "examples.jsonl"\n[output]\n{output}\n'
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    file = folder.parent / "inputs.txt"
    file.write_text("\n".join(f"thing{number} near place{number * 7 % 30}" for number in range(inputs)), encoding="utf-8")
    return Task.load(folder), file


def tools(engine: FakeEngine | None = None) -> Tools:
    return Tools(engine or FakeEngine(lambda prompt, decoding, adapter: "fish"), None, FakeEmbedder())


def answer_rest(work: Labelling, text: str = "tree") -> int:
    count = 0
    while (question := work.next_question()) is not None:
        assert work.answer(question, text, seconds=2.0) == ""
        count += 1
    return count


def test_rows_the_base_contradicts_itself_on_come_first_in_the_second_half(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    disputed = {f"thing{number} " for number in range(20, 30)}

    def waver(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        text = prompt.messages[-1].content
        if any(thing in text for thing in disputed):
            return LABELS[len(" ".join(message.content for message in prompt.messages)) % 4]  # differs from form to form
        return "fish"

    with labelling(task, file, count=16, tools=tools(FakeEngine(waver))) as work:
        asked = []
        while (question := work.next_question()) is not None:
            asked.append(question.row.input.text)
            work.answer(question, "tree", seconds=1.0)
    first, second = (sum(any(thing in text + " " for thing in disputed) for text in half) for half in (asked[:8], asked[8:]))
    assert len(set(asked)) == 16
    assert second > first


def test_the_source_says_whose_answer_it_is(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    with labelling(task, file, count=3, tools=tools()) as work:
        for text in ("fish", "tree", " fish "):
            question = work.next_question()
            assert question is not None
            assert question.draft.text == "fish"
            assert work.answer(question, "whale", seconds=1.0).startswith("'whale' is not one of the labels")
            assert work.answer(question, text, seconds=1.0) == ""
        assert work.next_question() is None
    rows = [json.loads(line) for line in (task.folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["source"] for row in rows] == ["accepted", "human", "accepted"]


def test_no_draft_is_asked_for_twice_and_the_order_goes_on_after_a_break(tmp_path: Path) -> None:
    whole_task, file = make(tmp_path / "whole")
    with labelling(whole_task, file, count=14, tools=tools()) as work:
        answer_rest(work)
        whole = [example.input.text for example in work.store.seen]
    (tmp_path / "b").mkdir()
    task, file = make(tmp_path / "b" / "broken")
    texts: list[str] = []
    for stop in (3, 9, 14):
        engine = FakeEngine(lambda prompt, decoding, adapter: "fish")
        with labelling(task, file, count=14, tools=tools(engine)) as work:
            while len(work.store.seen) < stop and (question := work.next_question()) is not None:
                work.answer(question, "tree", seconds=1.0)
        texts += [json.dumps([message.as_chat() for message in call.prompt.messages]) for call in engine.calls]
    assert [example.input.text for example in work.store.seen] == whole
    assert len(texts) == len(set(texts))


def test_a_draft_that_cannot_be_accepted_says_why(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t", output='regex = "[0-9]+"')
    with labelling(task, file, count=2, tools=tools(FakeEngine(lambda *_: "about nine"))) as work:
        question = work.next_question()
        assert question is not None
        assert "does not match" in question.draft.problem
        assert "does not match" in work.answer(question, "about nine", seconds=1.0)
    long = FakeEngine(lambda *_: "so " * 400)
    task, file = make(tmp_path / "long", output="")
    with labelling(task, file, count=2, tools=tools(long)) as work:
        question = work.next_question()
        assert question is not None
        assert "cut at 256 tokens" in question.draft.problem


def test_one_input_that_is_too_long_for_the_model_does_not_stop_the_others(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t", 6)
    file.write_text(file.read_text(encoding="utf-8") + "\nlong" + " word" * 900, encoding="utf-8")
    with labelling(task, file, count=7, tools=tools(FakeEngine(lambda *_: "fish", context_tokens=600))) as work:
        problems = []
        while (question := work.next_question()) is not None:
            problems.append(question.draft.problem)
            work.answer(question, "tree", seconds=1.0)
    assert sorted(bool(problem) for problem in problems) == [False] * 6 + [True]


def test_agreement_with_oneself_has_the_wilson_interval_and_names_the_rows(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    with labelling(task, file, count=20, again=10, tools=tools()) as work:
        assert answer_rest(work) == 20
        number = 0
        while (question := work.next_again()) is not None:
            assert question.draft.text == ""
            work.answer_again(question, "bird" if number < 3 else "tree", seconds=1.0)
            number += 1
        summary = summarise(work)
    assert number == 10
    assert summary.agreement is not None
    low, high = proportion_confint(7, 10, method="wilson")
    assert (summary.agreement.exact.low, summary.agreement.exact.high) == pytest.approx((low, high))
    assert len(summary.agreement.differing) == 3
    assert summary.agreement.graded is None
    shown = "\n".join(summary.lines)
    assert "7 of 10 rows, 70 %" in shown
    assert summary.test_rows == 20
    more = more_rows_for(20, cross_fit=True)
    assert f"about {more:,} more test rows" in shown
    assert "At your pace, 2.0 s a row" in shown


def test_json_answers_agree_by_their_fields_and_a_target_above_the_ceiling_is_named(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    toml = (task.folder / "task.toml").read_text(encoding="utf-8").split("labels")[0]
    (task.folder / "task.toml").write_text(f'target = 0.99\n{toml}schema = "s.json"\n', encoding="utf-8")
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    (task.folder / "s.json").write_text(json.dumps(schema), encoding="utf-8")
    with labelling(Task.load(task.folder), file, count=20, again=20, tools=tools(FakeEngine(lambda *_: "{}"))) as work:
        answer_rest(work, '{"b": "2", "a": "1"}')
        while (question := work.next_again()) is not None:
            work.answer_again(question, '{"a": "1", "b": "3"}', seconds=1.0)
        summary = summarise(work)
        assert next(iter(work.store.seen)).reference.content == '{"a": "1", "b": "2"}'
    assert summary.agreement is not None
    assert summary.agreement.exact.value == 0.0
    assert summary.agreement.graded is not None
    assert summary.agreement.graded.value == pytest.approx(0.5)  # one field of two
    assert any("lies above what you agree with yourself on" in line for line in summary.lines)


def test_only_rows_that_were_labelled_here_are_asked_again(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    (task.folder / "examples.jsonl").write_text('{"prompt": "an old question", "completion": "tree"}\n', encoding="utf-8")
    with labelling(task, file, count=4, tools=tools()) as work:
        assert answer_rest(work) == 3
        again = set()
        while (question := work.next_again()) is not None:
            again.add(question.row.input.text)
            work.skip_again(question)
    assert len(again) == 3
    assert "an old question" not in again


def test_under_ten_rows_it_says_how_many_a_climb_still_needs(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    with labelling(task, file, count=4, tools=tools()) as work:
        answer_rest(work)
        assert summarise(work).lines[-1] == "A climb needs 10 rows; 6 more rows to go."


def test_rows_added_to_chat_data_are_chat_rows_with_the_same_system_message(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    rows = [
        {
            "messages": [
                {"role": role, "content": text}
                for role, text in (("system", "Be brief."), ("user", f"q{n}"), ("assistant", "tree"))
            ]
        }
        for n in range(3)
    ]
    path = task.folder / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with labelling(task, file, count=5, tools=tools()) as work:
        answer_rest(work)
    added = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][3:]
    assert [[turn["role"] for turn in row["messages"]] for row in added] == [["system", "user", "assistant"]] * 2
    with labelling(task, count=5, tools=tools()) as work:
        assert work.store.shared_instruction == "Be brief."
        assert len(work.store.seen) == 5


def test_a_line_torn_by_a_power_cut_is_put_aside_and_its_row_asked_again(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t", 12)
    with labelling(task, file, count=3, tools=tools()) as work:
        answer_rest(work)
    path = task.folder / "examples.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with (task.folder / "labelling" / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"did": "lab')
    with labelling(task, count=3, tools=tools()) as work:
        assert len(work.store.seen) == 2
        assert answer_rest(work) == 1
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    assert (task.folder / "labelling" / "torn.txt").read_text(encoding="utf-8").startswith('{"id"')


def test_an_id_that_another_question_has_already_is_not_given_twice(tmp_path: Path) -> None:
    task, _ = make(tmp_path / "t")
    (task.folder / "examples.jsonl").write_text('{"id": "1", "prompt": "old question", "completion": "tree"}\n', encoding="utf-8")
    file = tmp_path / "more.jsonl"
    file.write_text('{"id": "1", "prompt": "new question"}\n{"id": "2", "prompt": "Old question!"}\n', encoding="utf-8")
    with labelling(task, file, count=5, tools=tools()) as work:
        assert answer_rest(work) == 1  # the other asks what is answered already
    rows = [json.loads(line) for line in (task.folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["1", "1-2"]


def test_a_hosted_teacher_sees_nothing_until_the_data_may_leave(tmp_path: Path) -> None:
    task, file = make(tmp_path / "t")
    with pytest.raises(PrivacyError, match="data_may_leave"), labelling(task, file, teacher="openai:big", tools=tools()):
        pass
    with chat_server() as server, labelling(task, file, teacher=f"{server.url} big", count=2, tools=tools()) as work:
        assert work.next_question() is not None  # on this machine: nothing leaves
    assert server.requests


def test_a_task_without_inputs_or_with_its_own_test_file_is_refused_with_a_way_on(tmp_path: Path) -> None:
    task, _ = make(tmp_path / "t")
    with pytest.raises(UsageError, match=r"no inputs to label.*FILE"), labelling(task, tools=tools()):
        pass
    toml = (task.folder / "task.toml").read_text(encoding="utf-8")
    (task.folder / "task.toml").write_text(
        toml.replace('examples = "examples.jsonl"', 'train = "a"\ntest = "b"'), encoding="utf-8"
    )
    with pytest.raises(DataError, match="own train and test files"), labelling(Task.load(task.folder), tools=tools()):
        pass


def test_a_task_toml_that_cannot_be_changed_safely_is_left_alone(tmp_path: Path) -> None:
    task, _ = make(tmp_path / "t")
    path = task.folder / "task.toml"
    toml = path.read_text(encoding="utf-8").replace('[data]\nexamples = "examples.jsonl"\n', "")
    path.write_text('data = { examples = "a.csv" }\n' + toml, encoding="utf-8")
    (task.folder / "a.csv").write_text("text,label\none,tree\ntwo,\n", encoding="utf-8")
    before = path.read_bytes()
    with (
        pytest.raises(DataError, match=r"Set it to \"a.labelled.jsonl\" yourself"),
        labelling(Task.load(task.folder), tools=tools()),
    ):
        pass
    assert path.read_bytes() == before


def test_nothing_is_asked_of_a_climbed_task_that_is_full(tmp_path: Path) -> None:
    world = write_task(tmp_path / "t", 60)
    with labelling(Task.load(tmp_path / "t"), count=50, again=0, tools=world.tools) as work:
        assert not work.wants_person()
        assert work.next_question() is None
    assert world.calls == 0
