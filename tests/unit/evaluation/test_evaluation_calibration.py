from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from judges import fenced, judge
from stepladder.domain.errors import DataError
from stepladder.domain.grader_settings import LabelModelGrader, ScoreModelGrader
from stepladder.domain.messages import Example, Input, Message
from stepladder.evaluation.graders.calibration import HumanGrade, agreement, kappa, lacking, read_human_grades, spearman
from stepladder.evaluation.graders.label_model import LabelModel
from stepladder.evaluation.graders.on_examples import OnExamples
from stepladder.evaluation.graders.score_model import ScoreModel

EXAMPLES = {f"r{number}": Example(Input.of("q", id=f"r{number}"), Message("assistant", "a")) for number in range(60)}
SCORES = ScoreModelGrader(model="m", range=(0, 10))
LABELS = LabelModelGrader(model="m", labels=("good", "bad"), passing_labels=("good",))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return path


def test_kappa_and_rank_correlation_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        people = rng.integers(0, 2, 40).astype(float)
        machine = np.where(rng.random(40) < 0.7, people, 1 - people)
        assert kappa(people, machine) == pytest.approx(cohen_kappa_score(people, machine))
        graded = rng.integers(0, 6, 40).astype(float)
        noisy = graded + rng.normal(0, 2, 40)
        assert spearman(graded, noisy) == pytest.approx(spearmanr(graded, noisy).statistic)


def test_where_one_side_always_says_the_same_nothing_is_measured() -> None:
    ones, mixed = np.ones(30), np.r_[np.ones(15), np.zeros(15)]
    assert kappa(ones, ones) is None
    assert kappa(ones, mixed) == 0
    assert spearman(ones, mixed) is None


def test_a_judge_is_compared_with_people_by_ranks_and_rows_it_cannot_grade_are_counted_apart(tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "answer": str(number % 11), "score": number % 11} for number in range(44)]
    grades = read_human_grades(write(tmp_path / "grades.jsonl", [*rows, {"id": "r50", "answer": "?", "score": 3}]), SCORES)

    def says(prompt: Any) -> object:
        text = fenced(prompt)["sample.output_text"]
        return min(10, int(text) + int(text) % 2) if text.isdecimal() else "RAW no"

    found = agreement(OnExamples(ScoreModel(SCORES, lambda: judge(says))), SCORES, grades, EXAMPLES, tmp_path / "grades.jsonl")
    expected = spearmanr([number % 11 for number in range(44)], [min(10, (n % 11) + (n % 11) % 2) for n in range(44)]).statistic
    assert found.value == pytest.approx(expected)
    assert (found.rows, found.ungraded) == (44, 1)
    assert found.low is not None
    assert found.high is not None
    assert found.low < expected < found.high
    assert str(found).startswith(f"Spearman's correlation with people is {expected:.2f} (95 % interval")
    assert str(found).endswith("on 44 answers, 1 more without a grade from the judge")


def test_a_labelling_judge_is_compared_by_kappa_with_labels_or_with_ones_and_zeros(tmp_path: Path) -> None:
    right = [number % 3 == 0 for number in range(45)]
    rows = [{"id": f"r{number}", "answer": str(number), "label": "good" if ok else "bad"} for number, ok in enumerate(right)]
    rows[1] = {"id": "r1", "answer": "1", "score": 0}
    grades = read_human_grades(write(tmp_path / "grades.jsonl", rows), LABELS)

    def says(prompt: Any) -> object:
        text = fenced(prompt)["sample.output_text"]
        return "good" if text.isdecimal() and int(text) % 6 == 0 else "bad"

    found = agreement(OnExamples(LabelModel(LABELS, lambda: judge(says))), LABELS, grades, EXAMPLES, tmp_path)
    assert found.measure == "Cohen's kappa"
    assert found.value == pytest.approx(cohen_kappa_score(right, [number % 6 == 0 for number in range(45)]))


def test_agreement_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "answer": "x", "score": 10} for number in range(30)]
    grades = read_human_grades(write(tmp_path / "grades.jsonl", rows), SCORES)
    found = agreement(OnExamples(ScoreModel(SCORES, lambda: judge(lambda prompt: 5))), SCORES, grades, EXAMPLES, tmp_path)
    assert found.value is None
    assert "cannot be measured on 30 answers: one side always says the same" in str(found)


def test_a_judge_that_grades_nothing_is_named_with_its_reason(tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "answer": "x", "score": number % 2} for number in range(30)]
    grades = read_human_grades(write(tmp_path / "grades.jsonl", rows), SCORES)
    found = agreement(OnExamples(ScoreModel(SCORES, lambda: judge(lambda prompt: "RAW ?"))), SCORES, grades, EXAMPLES, tmp_path)
    assert not found.above_chance
    assert "the judge graded none of 30 answers (the judge replied '?'" in str(found)


def graded(*shares: float) -> list[HumanGrade]:
    return [HumanGrade(f"r{number}", "x", share) for number, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("grades", "settings", "said"),
    [
        (graded(*[1.0] * 15, *[0.0] * 15), LABELS, ""),
        (graded(*[1.0] * 15, *[0.0] * 14), LABELS, "29 human grades and needs 30"),
        (graded(1.0) * 40, LABELS, "1 human grades (39 more grade the same answers again) and needs 30"),
        (graded(*[1.0] * 15, *[0.0] * 14) * 2, LABELS, "29 human grades (29 more grade the same answers again) and needs 30"),
        (graded(*[1.0] * 40), LABELS, "human grades of 40 right and 0 wrong answers and needs 3 of each"),
        (graded(*[1.0] * 2, *[0.0] * 30), LABELS, "human grades of 2 right and 30 wrong answers and needs 3 of each"),
        (graded(*[0.7, 0.8, 0.9] * 10), SCORES, "human grades of 30 right and 0 wrong answers and needs 3 of each"),
        (graded(*[0.7, 0.8, 0.9] * 10), ScoreModelGrader(model="m", range=(0, 10), pass_threshold=9), ""),
    ],
)
def test_what_human_grades_lack_is_told_by_different_answers_right_and_wrong(
    grades: list[HumanGrade], settings: Any, said: str
) -> None:
    assert lacking(grades, settings) == said


@pytest.mark.parametrize(
    ("line", "settings", "said"),
    [
        ("not json", SCORES, "grades.jsonl:2: not JSON"),
        ('["x"]', SCORES, "'id' and 'answer' are texts"),
        ('{"id": "r1", "score": 1}', SCORES, "'id' and 'answer' are texts"),
        ('{"id": "r1", "answer": "x"}', SCORES, "needs 'score', in the judge's range"),
        ('{"id": "r1", "answer": "x", "score": 11}', SCORES, "needs 'score', in the judge's range"),
        ('{"id": "r1", "answer": "x", "score": true}', SCORES, "needs 'score'"),
        ('{"id": "r1", "answer": "x", "label": "fine"}', LABELS, "needs 'label', one of the judge's labels"),
        ('{"id": "r1", "answer": "x", "score": 0.5}', LABELS, "needs 'label'"),
    ],
)
def test_a_line_that_is_no_human_grade_is_named(line: str, settings: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_human_grades(path, settings)


def test_a_missing_file_and_an_unknown_example_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file of human grades is missing"):
        read_human_grades(tmp_path / "gone.jsonl", SCORES)
    grades = read_human_grades(write(tmp_path / "grades.jsonl", [{"id": "elsewhere", "answer": "x", "score": 1}]), SCORES)
    with pytest.raises(DataError, match="it grades 'elsewhere', which is no example's id"):
        agreement(OnExamples(ScoreModel(SCORES, lambda: judge(lambda prompt: 5))), SCORES, grades, EXAMPLES, tmp_path)
