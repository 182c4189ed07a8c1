from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepladder.domain.climb import GradedRow, MistakeKind
from stepladder.domain.messages import Chunk, Example, Input, Message, ToolCall
from stepladder.domain.task import Task
from stepladder.evaluation.mistakes import MistakeFinder

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "rooms": {"type": "integer"}},
    "required": ["city", "rooms"],
}
OUTPUTS = {
    "labels": 'labels = ["refund", "order"]',
    "schema": 'schema = "schema.json"',
    "regex": r'regex = "[A-Z]{2}-\\d+"',
    "text": "",
    "style": "style = true",
}


def task_of(folder: Path, output: str) -> Task:
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    toml = f'name = "t"\ninstruction = "Answer."\n[data]\nexamples = "rows.jsonl"\n[output]\n{OUTPUTS[output]}\n'
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    return Task.load(folder)


def example(asked: str, expected: str, *, sources: tuple[str, ...] = (), id: str = "r1") -> Example:
    return Example(Input.of(asked, id), Message("assistant", expected), sources=sources)


def row(answer: str, score: float | None = 0.0, *, id: str = "r1", rung: str = "prompt", **more: object) -> GradedRow:
    return GradedRow(rung, "test", id, answer, score, **more)  # type: ignore[arg-type]


def kind_of(task: Task, asked: Example, answer: GradedRow, chunks: tuple[Chunk, ...] = ()) -> MistakeKind:
    finder = MistakeFinder.of(task, [asked], [], {asked.id: 0}, chunks)
    (found,) = finder.find([answer], {})
    return found.kind


@pytest.mark.parametrize(
    ("output", "asked", "expected", "answer", "kind"),
    [
        ("labels", "I want my money back", "refund", "Refund please!", MistakeKind.FORMAT),
        ("labels", "I want my money back", "refund", " Order ", MistakeKind.REASONING),
        ("schema", "2 rooms in Graz", '{"city":"Graz","rooms":2}', "Graz, 2", MistakeKind.FORMAT),
        ("schema", "2 rooms in Graz", '{"city":"Graz","rooms":2}', '{"city":"Graz","rooms":"two"}', MistakeKind.FORMAT),
        ("schema", "2 rooms in Graz", '{"city":"Graz","rooms":2}', '{"city":"Graz","rooms":3}', MistakeKind.REASONING),
        ("regex", "Order of today", "AB-12", "order AB-12", MistakeKind.FORMAT),
        ("regex", "Order of today is AB-12", "AB-12", "AB-21", MistakeKind.REASONING),
        ("text", "Who wrote it?", "It was Selma Lagerlöf.", "It was a Swede.", MistakeKind.MISSING_FACT),
        ("text", "Who wrote it, Selma Lagerlöf?", "It was Selma Lagerlöf.", "Nobody knows.", MistakeKind.REASONING),
        (
            "text",
            "When does parcel 17 come?",
            "Your parcel 17 arrives tomorrow morning.",
            "Parcel 17: arrives tomorrow.",
            MistakeKind.STYLE,
        ),
        ("style", "Say hello", "Hey there, lovely to see you!", "Good day.", MistakeKind.STYLE),
    ],
)
def test_the_kind_of_a_mistake_is_read_off_the_answer(
    tmp_path: Path, output: str, asked: str, expected: str, answer: str, kind: MistakeKind
) -> None:
    assert kind_of(task_of(tmp_path, output), example(asked, expected), row(answer)) is kind


def test_a_cut_answer_is_cut_whatever_it_says(tmp_path: Path) -> None:
    assert kind_of(task_of(tmp_path, "labels"), example("a", "refund"), row("refu", cut=True)) is MistakeKind.CUT


def test_a_tool_that_was_not_called_is_a_matter_of_form_and_a_wrong_argument_is_not(tmp_path: Path) -> None:
    task = task_of(tmp_path, "text")
    call = Message("assistant", "", tool_calls=(ToolCall("c", "find", '{"city":"Graz"}'),))
    asked = Example(Input.of("Find it in Graz", "r1"), call)
    assert kind_of(task, asked, row("I looked in Graz.")) is MistakeKind.FORMAT
    wrong = '{"tool_calls": [{"name": "find", "arguments": {"city": "Wien"}}]}'
    assert kind_of(task, asked, row(wrong)) is MistakeKind.REASONING


def test_retriever_and_reader_are_told_apart_by_what_was_shown(tmp_path: Path) -> None:
    task = task_of(tmp_path, "text")
    asked = example("Who wrote it?", "It was Selma Lagerlöf.", sources=("documents/books.md",))
    shown = row("Strindberg.", retrieved=("documents/books.md", "documents/plays.md"))
    assert kind_of(task, asked, shown) is MistakeKind.READER
    assert kind_of(task, asked, row("Strindberg.", retrieved=("documents/plays.md",))) is MistakeKind.RETRIEVER
    assert kind_of(task, asked, row("Strindberg.")) is MistakeKind.MISSING_FACT


def test_without_sources_the_documents_that_hold_the_reference_are_the_gold_ones(tmp_path: Path) -> None:
    task, asked = task_of(tmp_path, "text"), example("Who wrote it?", "Selma Lagerlöf")
    text = "Nils Holgersson was written by Selma Lagerlöf."
    chunks = (Chunk("documents/books.md", 0, len(text), text), Chunk("documents/plays.md", 0, 9, "Miss Julie"))
    assert kind_of(task, asked, row("no", retrieved=("documents/plays.md",)), chunks) is MistakeKind.RETRIEVER
    assert kind_of(task, asked, row("no", retrieved=("documents/books.md",)), chunks) is MistakeKind.READER


def test_another_passage_of_the_right_document_is_the_retrievers_fault(tmp_path: Path) -> None:
    task = task_of(tmp_path, "text")
    asked = example("Who wrote it?", "Selma Lagerlöf", sources=("documents/books.md",))
    chunks = (
        Chunk("documents/books.md", 0, 47, "Nils Holgersson was written by Selma Lagerlöf."),
        Chunk("documents/books.md", 40, 80, "Miss Julie was written by Strindberg."),
    )
    right, wrong = (row("Strindberg.", retrieved=("documents/books.md",), passages=(chunk.id,)) for chunk in chunks)
    assert kind_of(task, asked, wrong, chunks) is MistakeKind.RETRIEVER
    assert kind_of(task, asked, right, chunks) is MistakeKind.READER
    older = row("Strindberg.", retrieved=("documents/books.md",))  # recorded before passages were
    assert kind_of(task, asked, older, chunks) is MistakeKind.READER


def test_a_value_that_training_rows_teach_is_no_missing_fact(tmp_path: Path) -> None:
    task = task_of(tmp_path, "text")
    asked = example("Who wrote it?", "It was Selma Lagerlöf.")
    train = [example(f"Another question, {number}?", "It was Selma Lagerlöf.", id=f"t{number}") for number in range(2)]
    finder = MistakeFinder.of(task, [asked], train, {"r1": 0, "t0": 1, "t1": 2}, ())
    assert finder.kind(row("It was a Swede.")) is MistakeKind.REASONING


def test_mistakes_are_counted_by_kind_with_who_has_them_right(tmp_path: Path) -> None:
    task = task_of(tmp_path, "labels")
    asked = [example(f"question {number}", "refund", id=f"r{number}") for number in range(6)]
    answers = ["Refund!", "order", "order", "order", "refund", "refund"]
    scores = [0.0, 0.0, 0.0, 0.0, 1.0, None]
    rows = [row(answer, score, id=f"r{number}") for number, (answer, score) in enumerate(zip(answers, scores, strict=True))]
    tuned = [row("refund", float(number in (1, 2, 4)), id=f"r{number}", rung="lora") for number in range(6)]
    found = MistakeFinder.of(task, asked, [], {one.id: 0 for one in asked}, ()).find(rows, {"lora": tuned})
    assert [(one.kind, one.rows) for one in found] == [
        (MistakeKind.REASONING, ("r1", "r2", "r3")),
        (MistakeKind.FORMAT, ("r0",)),
    ]
    assert found[0].right_elsewhere == {"lora": 2}
    assert found[1].right_elsewhere == {}
    assert (found[0].wrong, found[0].asked) == (4, 5)
    assert "larger model" in found[0].remedy
    assert "constrained" in found[1].remedy


@pytest.mark.parametrize("output", ["labels", "text"])
def test_of_several_seeds_the_mean_score_says_which_rows_are_wrong(tmp_path: Path, output: str) -> None:
    task = task_of(tmp_path, output)
    asked = [example(f"question {number}", "refund", id=f"r{number}") for number in range(3)]
    first, second = [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]
    rows = [
        row("refund" if score else "order", score, id=f"r{number}", rung="lora", seed=seed)
        for seed, scores in enumerate((first, second))
        for number, score in enumerate(scores)
    ]
    (found,) = MistakeFinder.of(task, asked, [], {one.id: 0 for one in asked}, ()).find(rows, {"again": rows})
    assert (found.rows, found.wrong, found.asked, found.right_elsewhere) == (("r1", "r2"), 2, 3, {})


def test_graded_free_text_counts_as_wrong_only_below_half(tmp_path: Path) -> None:
    task, asked = task_of(tmp_path, "text"), [example("a", "b c", id="r0"), example("d", "e f", id="r1")]
    found = MistakeFinder.of(task, asked, [], {"r0": 0, "r1": 1}, ()).find([row("x", 0.7, id="r0"), row("y", 0.2, id="r1")], {})
    assert [one.rows for one in found] == [("r1",)]
