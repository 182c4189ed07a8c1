"""Disfluent questions with their documents → a task folder. Texts are made up here."""

import json

import disfluent_qa
import pytest
from disfluent_qa import is_sound, locate, tidy, trim
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.errors import DataError
from stepladder.domain.task import Task

TEXT = (
    "In 1962 . 14 boats left the harbour ( the old one ) of Tarn - on - Sea , worth $ 8 . 7 million ; the town ' s "
    '" Red Fleet " had 32 , 463 nets . \ufeff'
)
TIDY = (
    "In 1962. 14 boats left the harbour (the old one) of Tarn-on-Sea, worth $8.7 million; the town's "
    '"Red Fleet" had 32,463 nets.'
)


def without_space(text):
    return "".join(text.split())


@given(st.lists(st.sampled_from([*"ab1 3.,;:'’\"()[]-–/%$° ?!", "123", " . ", " , ", " 's ", "U"]), max_size=40).map("".join))
def test_tidying_moves_nothing_but_white_space(text):
    assert without_space(tidy(text)) == without_space(text)


@given(st.text())
def test_tidying_never_fails_and_keeps_every_character(text):
    assert without_space(tidy(text)) == without_space(text)


@pytest.mark.parametrize(
    ("published", "wanted"),
    [
        (TEXT.replace("\ufeff", ""), TIDY),
        ("the farmers ' own land , 17 % of it", "the farmers' own land, 17% of it"),
        ("in 1954 , 1957 , 1960 and 12 , 345 , 678", "in 1954, 1957, 1960 and 12,345,678"),
        ("the U . S . coast , 9 / 11 , 2011 – 2012", "the U.S. coast, 9/11, 2011–2012"),
        ('one " alone', 'one " alone'),
        ("at 17 ° F ( cold . . . )", "at 17 °F (cold...)"),
    ],
)
def test_published_spacing_becomes_ordinary(published, wanted):
    assert tidy(published) == wanted


def test_an_answer_is_found_as_whole_words_whatever_its_spacing():
    assert locate("$ 8.7 million", TIDY) == "$8.7 million"
    assert locate("14 boats", TIDY) == "14 boats"
    assert locate("Tarn - on", TIDY) == "Tarn-on"
    assert locate("arn", TIDY) is None
    assert locate("", TIDY) is None


def test_a_hit_inside_a_word_does_not_hide_a_later_whole_one():
    assert locate("men", "women and men") == "men"


@given(st.text(alphabet="ab c.", min_size=1), st.integers(0, 20), st.integers(1, 20))
def test_what_is_located_is_a_span_of_the_document(document, start, length):
    found = locate(document[start : start + length], document)
    assert found is None or (found in document and without_space(found) == without_space(document[start : start + length]))


def test_the_mark_that_ended_the_sentence_is_not_part_of_an_answer():
    assert [trim(answer) for answer in ("oxygen. ", "the test,", "the U.S.", "$5.11")] == [
        "oxygen",
        "the test",
        "the U.S.",
        "$5.11",
    ]


def test_broken_questions_are_known():
    assert is_sound("Who no what left the harbour ?")
    assert not any(map(is_sound, ["# VALUE !", "# VALUE no no ! Was it", "Where is \\ u007f the harbour ?", "Who ?", ""]))


@pytest.fixture
def datasets(tmp_path):
    folder = tmp_path / "datasets" / "rag_disflqa"
    folder.mkdir(parents=True)
    answers = ["32,463", "Tarn-on-Sea,", "unknown", "Red Fleet"]
    documents = [{"doc_id": f"d{number}", "text": TEXT} for number in range(5)]
    questions = [
        {"id": f"q{number}{index}", "question": f"Who no what is number {index} ?", "answer": answer, "doc_id": f"d{number}"}
        for number in range(5)
        for index, answer in enumerate(answers)
    ]
    broken = [
        {"id": "q91", "question": "# VALUE !", "answer": "Red Fleet", "doc_id": "d0"},
        {"id": "q92", "question": "What no which one was it ?", "answer": "leet", "doc_id": "d0"},
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in broken + questions), encoding="utf-8")
    return tmp_path / "datasets"


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_answer_stands_in_its_gold_document_and_unknown_has_none(datasets, tmp_path):
    task = Task.load(disfluent_qa.build(datasets, tmp_path / "task", documents=3, questions_each=4))
    rows = read(task.folder / "examples.jsonl")
    assert len(rows) == 12
    for row in rows:
        if row["completion"] == "unknown":
            assert row["sources"] == []
        else:
            (source,) = row["sources"]
            assert row["completion"] in (task.folder / source).read_text(encoding="utf-8")
    assert sum(row["completion"] == "unknown" for row in rows) == 3
    assert {row["completion"] for row in rows} == {"32,463", "Tarn-on-Sea", "unknown", "Red Fleet"}


def test_documents_are_the_tidied_texts_of_the_rows(datasets, tmp_path):
    folder = disfluent_qa.build(datasets, tmp_path / "task", documents=3, questions_each=4)
    documents = {f"documents/{path.name}": path.read_text(encoding="utf-8") for path in (folder / "documents").iterdir()}
    assert len(documents) == 3
    assert set(documents.values()) == {TIDY + "\n"}
    assert {source for row in read(folder / "examples.jsonl") for source in row["sources"]} == documents.keys()


def test_the_graders_are_token_f1_then_normalised_match(datasets, tmp_path):
    task = Task.load(disfluent_qa.build(datasets, tmp_path / "task", documents=3, questions_each=4))
    assert [grader.type for grader in task.settings.graders] == ["token_f1", "normalised_match"]


def test_too_few_documents_are_said(datasets, tmp_path):
    with pytest.raises(DataError, match="only 5 of 65 documents have 4 questions"):
        disfluent_qa.build(datasets, tmp_path / "task")


def test_absent_data_say_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"rag_disflqa: this public data set is not here\. Get it from .*bigbench"):
        disfluent_qa.build(tmp_path, tmp_path / "task")


def test_a_line_that_is_not_json_is_named(datasets, tmp_path):
    (datasets / "rag_disflqa" / "qa.jsonl").write_text("{}\n{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"qa\.jsonl:2: not JSON"):
        disfluent_qa.build(datasets, tmp_path / "task")


def test_rows_of_another_form_are_an_error(datasets, tmp_path):
    (datasets / "rag_disflqa" / "qa.jsonl").write_text('{"question": "Who ?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"not in the expected form \(KeyError\('doc_id'\)\)"):
        disfluent_qa.build(datasets, tmp_path / "task")
