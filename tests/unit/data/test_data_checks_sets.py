"""Faults that only several rows show together: copies, leaks, contradictions, balance, drift, coverage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from planted import Folder, Row, appended, bundled_folder, context_of, field, lines_of, plant, report_of
from stepladder.data.checks import CheckReport, Severity, run_checks
from stepladder.data.checks.contradiction import label_ceiling
from stepladder.data.checks.variants import same_meaning, same_words, variant_pairs
from stepladder.domain.protocols import CompletionScore
from stepladder.service.check import brief_lines


@pytest.fixture
def handbook(tmp_path: Path) -> Folder:
    return bundled_folder(tmp_path / "handbook", "handbook")


@pytest.fixture
def tickets(tmp_path: Path) -> Folder:
    return bundled_folder(tmp_path / "tickets", "tickets")


@pytest.fixture
def kinds(tmp_path: Path) -> Folder:
    return bundled_folder(tmp_path / "kinds", "kinds")


def copies(folder: Folder, **changes: str) -> list[Row]:
    """Ten rows again, under new ids, `{}` in a change standing for the old text."""
    rows = next(iter(folder.rows.values()))[:100:10]
    made = []
    for number, row in enumerate(rows):
        changed = {key: form.replace("{}", row[key]).replace("{n}", str(number)) for key, form in changes.items()}
        made.append({**row, "id": f"copy{number}", **changed})
    return made


def severities(report: CheckReport, code: str) -> list[Severity]:
    return [one.severity for one in report.findings if one.code == code]


def blocked_lines(report: CheckReport, code: str) -> set[tuple[str, int]]:
    blocks = [one for one in report.findings if one.code == code and one.severity is Severity.BLOCK]
    return {(mark.file, mark.line) for one in blocks for mark in one.rows}


def test_copies_are_found_and_the_later_one_would_be_dropped(handbook: Folder) -> None:
    planted = appended(handbook, copies(handbook, prompt="{}  "))
    report = report_of(handbook)
    assert lines_of(report, "duplicate") == planted
    (finding,) = [one for one in report.findings if one.code == "duplicate"]
    assert {repair.line for repair in finding.repairs} == {line for _, line in planted}
    assert all(repair.rewrite is None for repair in finding.repairs)


@pytest.mark.parametrize("form", ["{} please", "Hi, {}", "Thanks. {}"])
def test_near_copies_are_noted(handbook: Folder, form: str) -> None:
    planted = appended(handbook, copies(handbook, prompt=form))
    assert planted <= lines_of(report_of(handbook), "near-duplicate")


@pytest.mark.parametrize(("form", "same"), [("{}", True), ("{}!!", True), ("please {}", False)])
def test_another_answer_contradicts_and_lowers_the_ceiling_where_the_question_is_the_same(
    handbook: Folder, form: str, same: bool
) -> None:
    planted = appended(handbook, copies(handbook, prompt=form, completion="quite another thing {n}"))
    context = context_of(handbook.write())
    report = run_checks(context)
    assert planted <= lines_of(report, "contradiction")
    assert any("may contradict" in one.evidence for one in report.findings) is not same
    assert label_ceiling(context).rate == pytest.approx(1 - 10 / 160 if same else 1.0)
    assert label_ceiling(context).if_alike == (pytest.approx(0.5) if same else None)


ALIKE = [
    ("Could you ship the copper lantern again", "could you ship the coper lantern"),
    ("please log in the harbour pilot", "please login the harbour pilot"),
    ("is it possible to return the meadow basket", "possible to return the meadow baskets please"),
    ("where is my order from yesterday", "hello, where is my order from yestreday"),
]
OTHER_QUESTIONS = [
    ("Book a flight from Paris to Rome for two", "Book a flight from Rome to Paris for two"),
    ("The dog bit the man yesterday", "The man bit the dog yesterday"),
    ("Is John taller than Mary or not", "Is Mary taller than John or not"),
    ("convert 5 miles to kilometres", "convert 5 kilometres to miles"),
    ("Can you untie the package for me", "Can you tie the package for me"),
    ("the path was possible for the van", "the path was impossible for the van"),
    ("is this usually the price of it", "is this unusually the price of it"),
    ("an agreeable offer for the winter", "a disagreeable offer for the winter"),
    ("the loan was approved by the bank", "the loan was improved by the bank"),
    ("which internal drive is in the box", "which external drive is in the box"),
    ("I would like to deposit money", "I would not like to deposit money"),
    ("What is the warranty on model AX-50", "What is the warranty on model AX-60"),
]


@pytest.mark.parametrize(
    ("one", "other", "alike"), [*((*pair, True) for pair in ALIKE), *((*pair, False) for pair in OTHER_QUESTIONS)]
)
def test_word_order_and_beginnings_of_words_ask_something_else(handbook: Folder, one: str, other: str, alike: bool) -> None:
    asked = [{"id": "p0", "prompt": one, "completion": "alpha"}, {"id": "p1", "prompt": other, "completion": "beta"}]
    planted = appended(handbook, asked)
    context = context_of(handbook.write())
    assert lines_of(run_checks(context), "contradiction") == (planted if alike else set())
    assert label_ceiling(context).rate == 1.0


def test_variants_are_compared_pair_by_pair(handbook: Folder) -> None:
    """The first and the last are two slips apart, and no variants of each other."""
    texts = ("the crane in the hall", "the cranee in the hall", "the craneee in the hall")
    assert same_meaning(texts[0], texts[1])
    assert same_meaning(texts[1], texts[2])
    asked = [
        {"id": f"p{n}", "prompt": text, "completion": answer} for n, (text, answer) in enumerate(zip(texts, "xxy", strict=True))
    ]
    planted = sorted(appended(handbook, asked))
    assert planted[1:] == sorted(lines_of(report_of(handbook), "contradiction"))


def test_another_wording_of_a_long_answer_is_no_contradiction(handbook: Folder) -> None:
    long = "you may take the late ferry from the north pier when the weather allows it"
    for number, row in enumerate(handbook.rows["examples"][:10]):
        row["completion"] = f"{long} on day {number}"
    appended(
        handbook,
        [
            {**row, "id": f"c{n}", "completion": f"{row['completion']} only"}
            for n, row in enumerate(handbook.rows["examples"][:10])
        ],
    )
    assert severities(report_of(handbook), "contradiction") == [Severity.NOTE]


def test_values_copied_from_inputs_that_nearly_agree_are_no_contradiction(tickets: Folder) -> None:
    one = {
        "id": "a",
        "prompt": "My Fennicke lamp from spring is broken again",
        "completion": tickets.rows["examples"][0]["completion"],
    }
    other = {**one, "id": "b", "prompt": one["prompt"].replace("Fennicke", "Fennick")}
    field(product="Fennicke lamp")(one, 0)
    field(product="Fennick lamp")(other, 0)
    planted = appended(tickets, [one, other])
    assert planted & lines_of(report_of(tickets), "near-duplicate")
    assert not lines_of(report_of(tickets), "contradiction")


def test_test_rows_in_the_training_file_block_and_the_training_copy_would_be_dropped(handbook: Folder) -> None:
    handbook.split_in_two()
    leaked = appended(handbook, [{**row, "id": f"leak{n}"} for n, row in enumerate(handbook.rows["test"][:10])], "train")
    report = report_of(handbook)
    assert leaked | {("test.jsonl", line) for line in range(1, 11)} <= lines_of(report, "leak-split")
    assert Severity.BLOCK in severities(report, "leak-split")
    assert {(repair.file, repair.line) for one in report.findings if one.code == "leak-split" for repair in one.repairs} == leaked


def test_two_files_of_different_questions_do_not_leak(handbook: Folder) -> None:
    handbook.split_in_two()
    assert severities(report_of(handbook), "leak-split") == []


def test_a_test_question_inside_a_longer_training_row_is_said(tickets: Folder) -> None:
    tickets.split_in_two()
    long = [row for row in tickets.rows["test"] if len(row["prompt"].split()) > 25][:10]
    inside = [
        {**row, "id": f"in{n}", "prompt": f"Some weeks ago I wrote from another address. {row['prompt']} " + f"word{n} " * 20}
        for n, row in enumerate(long)
    ]
    assert appended(tickets, inside, "train") <= lines_of(report_of(tickets), "leak-split")


def test_demonstrations_in_an_own_prompt_that_are_test_rows_block(handbook: Folder) -> None:
    shown = [row for row in handbook.rows["examples"] if len(row["prompt"]) > 30][:10]
    text = "\n".join(f"{row['prompt']} -> {row['completion']}" for row in shown)
    (handbook.path / "ours.txt").write_text(text, encoding="utf-8")
    handbook.toml += '\n[[prompts]]\nfile = "ours.txt"\n'
    report = report_of(handbook)
    lines = {("examples.jsonl", handbook.rows["examples"].index(row) + 1) for row in shown}
    assert lines == lines_of(report, "leak-prompt")
    assert Severity.BLOCK in severities(report, "leak-prompt")


def test_test_questions_beside_their_answers_in_a_document_block(handbook: Folder) -> None:
    asked = [row for row in handbook.rows["examples"] if len(row["prompt"]) > 30][:10]
    text = "\n\n".join(f"Q: {row['prompt']} A: {row['completion']}" for row in asked)
    (handbook.path / "documents" / "faq.md").write_text(text, encoding="utf-8")
    report = report_of(handbook)
    lines = {("examples.jsonl", handbook.rows["examples"].index(row) + 1) for row in asked}
    assert lines <= lines_of(report, "leak-documents")
    assert Severity.BLOCK in severities(report, "leak-documents")


def test_questions_listed_above_their_answers_block_like_those_that_stand_there_once(handbook: Folder) -> None:
    asked = [row for row in handbook.rows["examples"] if len(row["prompt"]) > 30][:16]
    pairs = "\n\n".join(
        f"## {row['prompt']}\n\n{row['completion']}\n\n{'More of this is told at the counter. ' * 20}" for row in asked
    )
    (handbook.path / "documents" / "faq.md").write_text(pairs, encoding="utf-8")
    once = blocked_lines(report_of(handbook), "leak-documents")
    listed = "\n".join(f"- {row['prompt']}" for row in asked)
    text = f"# Contents\n\n{listed}\n\n{'Ask at the counter. ' * 60}\n\n{pairs}"
    (handbook.path / "documents" / "faq.md").write_text(text, encoding="utf-8")
    assert len(once) > 3
    assert blocked_lines(report_of(handbook), "leak-documents") == once


def json_rows(count: int = 60) -> list[Row]:
    things = "heron lark finch wren tern plover robin swift crane stork magpie rook raven osprey kestrel".split()
    rows = []
    for number in range(count):
        thing = things[number % 15]
        value = {"name": thing, "seen": number * 7 % 31, "day": f"2024-03-{number % 28 + 1:02}", "sure": number % 3 == 0}
        rows.append({"prompt": f"note {number * 37}: a {thing} by the gate, page {number}", "completion": json.dumps(value)})
    return rows


@pytest.fixture
def notes(tmp_path: Path) -> Folder:
    (tmp_path / "notes").mkdir()
    return Folder(
        tmp_path / "notes", {"examples": json_rows()}, 'name = "n"\ninstruction = "Read."\n[data]\nexamples = "examples.jsonl"\n'
    )


def drop_day(row: Row, n: int) -> None:
    value = json.loads(row["completion"])
    del value["day"]
    row["completion"] = json.dumps(value)


def test_regular_json_answers_have_nothing_to_say_about_their_format(notes: Folder) -> None:
    report = report_of(notes)
    assert not [one for one in report.findings if one.code.startswith("format") or one.code == "label-spelling"], report.findings


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("format-keys", drop_day),
        ("format-keys", field(extra=1)),
        ("format-types", field(seen="12")),
        ("format-types", field(sure="yes")),
        ("format-types", field(seen=None)),
        ("format-json", lambda row, n: row.update(completion="a heron, I think")),
        ("format-json", lambda row, n: row.update(completion=row["completion"][:-1])),
        ("format-values", field(day="03/01/2024")),
        ("format-values", field(day="1 March 2024")),
        ("label-spelling", lambda row, n: field(name=json.loads(row["completion"])["name"].capitalize())(row, n)),
    ],
)
def test_drift_of_json_answers_is_found(notes: Folder, code: str, change: object) -> None:
    planted = plant(notes, change, every=7, count=6)  # type: ignore[arg-type]
    assert planted <= lines_of(report_of(notes), code)


def test_labels_that_train_has_not_are_named(kinds: Folder) -> None:
    kinds.split_in_two()
    planted = plant(kinds, lambda row, n: row.update(completion="praise"), file="test", every=3, count=10)
    report = report_of(kinds)
    assert planted <= lines_of(report, "label-balance")


def test_a_label_in_nine_of_ten_rows_and_a_label_without_rows_are_said(kinds: Folder) -> None:
    for row in kinds.rows["examples"][:150]:
        row["completion"] = "delivery"
    kinds.toml += (
        '[output]\nlabels = ["delivery", "damage", "warranty", "cancel_return", "billing", "account", "general", "spam"]\n'
    )
    said = " ".join(one.evidence for one in report_of(kinds).findings if one.code == "label-balance")
    assert "'spam'" in said
    assert "'delivery' in 9" in said


def test_refusals_that_only_training_has_are_said(handbook: Folder) -> None:
    handbook.split_in_two()
    for row in handbook.rows["train"]:
        row["completion"] = "I cannot help with that." if len(row["prompt"]) % 2 else row["completion"]
    for row in handbook.rows["test"]:
        row["completion"] = row["completion"].replace("not in the handbook", "at the pier")
    assert Severity.WARN in severities(report_of(handbook), "refusal-balance")


def test_the_handbooks_own_share_of_unanswerable_questions_is_no_fault(handbook: Folder) -> None:
    handbook.split_in_two()
    assert severities(report_of(handbook), "refusal-balance") == []


class Topics:
    """Plants here, stones there."""

    name = "topics"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.random.default_rng(0).normal(size=(len(texts), 16)).astype(np.float32)
        for row, text in enumerate(texts):
            vectors[row, 0 if "xylem" in text else 1] += 8
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class TwoTopics:
    """Everything is about one thing, more or less, but texts about plants, each of which is about its own."""

    name = "two-topics"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.random.default_rng(0).normal(size=(len(texts), 64)).astype(np.float32)
        vectors[:, 0] += [0 if "xylem" in text else 20 for text in texts]
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_test_inputs_that_resemble_no_training_row_are_named(tickets: Folder) -> None:
    tickets.split_in_two()
    planted = plant(tickets, lambda row, n: row.update(prompt=f"xylem phloem {n}"), file="test", every=7, count=10)
    report = report_of(tickets, embedder=TwoTopics())
    assert planted == lines_of(report, "coverage")
    assert severities(report, "coverage") == [Severity.WARN]


def test_a_label_that_all_similar_rows_contradict_is_to_be_read(kinds: Folder) -> None:
    for number, row in enumerate(kinds.rows["examples"]):
        row.update(prompt=f"tell me of {('xylem', 'coal')[number % 2]} {number}", completion=("plant", "stone")[number % 2])
    planted = plant(kinds, lambda row, n: row.update(completion="stone"), count=1)
    assert lines_of(report_of(kinds, embedder=Topics()), "label-doubt") == planted


class Blurred:
    """Plants here, stones there, but no two texts alike."""

    name = "blurred"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.random.default_rng(0).normal(size=(len(texts), 256)).astype(np.float32)
        for row, text in enumerate(texts):
            vectors[row, 0 if "xylem" in text else 1] += 10
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_a_label_that_another_labels_rows_contradict_together_is_to_be_read(kinds: Folder) -> None:
    for number, row in enumerate(kinds.rows["examples"]):
        row.update(prompt=f"tell me of {('xylem', 'coal')[number % 2]} {number}", completion=("plant", "stone")[number % 2])
    swap = {"plant": "stone", "stone": "plant"}
    planted = plant(kinds, lambda row, n: row.update(completion=swap[row["completion"]]), count=8)
    report = report_of(kinds, embedder=Blurred())
    assert lines_of(report, "label-doubt") == planted
    assert {(row.file, row.line) for row in report.repair_first if "label-doubt" in row.codes} == planted
    assert any(line.startswith("Data check warn label-doubt: 8 rows have another label") for line in brief_lines(report))


def test_what_needs_a_model_is_not_run_and_never_passes_silently(handbook: Folder) -> None:
    report = report_of(handbook)
    assert {"loss-outlier", "unknown-fact", "template", "too-long"} <= {one.code for one in report.not_run}
    assert all(one.needs for one in report.not_run)


def test_coverage_without_the_model_is_said_to_have_run_in_part(handbook: Folder) -> None:
    context = context_of(handbook.write())
    (part,) = run_checks(context).in_part
    assert part.code == "coverage"
    assert "--with-model" in part.needs
    assert not run_checks(replace(context, likeness={})).in_part


def test_answers_with_a_strange_loss_are_to_be_read_and_never_dropped(handbook: Folder) -> None:
    context = context_of(handbook.write())
    losses = {row.id: CompletionScore(-2.0 - 0.1 * (n % 7), 4) for n, row in enumerate(context.rows)}
    strange = {row.id for row in context.rows[::15]}
    losses |= {id: CompletionScore(-40.0, 4) for id in strange}
    report = report_of(handbook, losses=losses)
    (found,) = [one for one in report.findings if one.code == "loss-outlier"]
    assert {mark.id for mark in found.rows} == strange
    assert not found.repairs
    assert found.severity is Severity.NOTE


def test_rows_are_ranked_by_what_speaks_against_them(handbook: Folder) -> None:
    row = handbook.rows["examples"][41]
    row.update(prompt=row["prompt"] + " <|im_end|> AKIAIOSFODNN7EXAMPLE ")
    assert report_of(handbook).repair_first[0].line == 42


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("where is my parcel", "hi where is my parcel please", True),
        ("where is my parcel", "where is my parcle", True),
        ("cannot log in", "cannot login", True),
        ("could you help", "cuold you help", True),
        ("a table for 2", "a table for 3", False),
        ("adult ticket price", "child ticket price", False),
        ("i can swim", "i can not swim", False),
        ("send it to bern", "send it to bonn", False),
    ],
)
def test_the_same_words_but_for_fillers_and_slips(one: str, other: str, same: bool) -> None:
    assert same_words(one, other) is same
    assert variant_pairs([one, other]) == ([(0, 1)] if same else [])
