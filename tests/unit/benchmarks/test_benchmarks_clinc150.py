"""CLINC150's file form → a task folder. The questions are made up here."""

import json

import clinc150
import pytest

from stepladder.domain.errors import DataError
from stepladder.domain.task import Task

WORDS = "amber birch cobalt drift ember fjord granite harbour indigo juniper kelp lagoon".split()
DOMAINS = {"boats": ["launch", "moor", "paint"], "tea": ["steep", "pour", "weigh"]}


def questions(part, intent):
    return [[f"{word} {word[::-1]} {intent} {part} {word * 2}", intent] for word in WORDS]


@pytest.fixture
def datasets(tmp_path):
    folder = tmp_path / "datasets" / "clinc150"
    folder.mkdir(parents=True)
    intents = [name for names in DOMAINS.values() for name in names]
    parts = {part: [row for intent in intents for row in questions(part, intent)] for part in ("train", "val", "test")}
    (folder / "domains.json").write_text(json.dumps(DOMAINS), encoding="utf-8")
    (folder / "data_small.json").write_text(json.dumps(parts), encoding="utf-8")
    return tmp_path / "datasets"


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_two_intents_a_domain_become_labels_with_as_many_rows_each(datasets, tmp_path):
    folder = clinc150.build(datasets, tmp_path / "task", train_rows=16, test_rows=8)
    assert Task.load(folder).settings.output.labels == ("launch", "moor", "pour", "steep")
    for name, each in (("train.jsonl", 4), ("test.jsonl", 2)):
        answers = [row["completion"] for row in rows_of(folder, name)]
        assert {answer: answers.count(answer) for answer in answers} == dict.fromkeys(("launch", "moor", "steep", "pour"), each)


def test_no_question_stands_on_both_sides(datasets, tmp_path):
    folder = clinc150.build(datasets, tmp_path / "task", train_rows=16, test_rows=8)
    assert not {row["prompt"] for row in rows_of(folder, "train.jsonl")} & {
        row["prompt"] for row in rows_of(folder, "test.jsonl")
    }


def test_too_few_questions_are_an_error(datasets, tmp_path):
    with pytest.raises(DataError, match="too few different questions of 'launch'"):
        clinc150.build(datasets, tmp_path / "task", train_rows=400, test_rows=8)


def test_a_file_in_another_form_is_an_error_that_names_the_source(datasets, tmp_path):
    (datasets / "clinc150" / "data_small.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="clinc/oos-eval"):
        clinc150.build(datasets, tmp_path / "task")
