from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.messages import Input
from stepladder.domain.prediction import Prediction, Score, Ungraded
from stepladder.engines.fake import FakeEngine
from stepladder.techniques.fake import fake_context
from stepladder.techniques.racing import Answers, best, mean_score, race, shuffled


def test_half_of_the_variants_go_on_to_twice_the_rows() -> None:
    asked: list[tuple[str, int]] = []

    def value(name: str, count: int) -> float:
        asked.append((name, count))
        return int(name) / 10

    winner, tried = race([str(n) for n in range(8)], value, 100)
    assert winner == "7"
    assert [(count, sum(1 for _, rows in asked if rows == count)) for count in (12, 24, 100)] == [(12, 8), (24, 4), (100, 2)]
    assert [one.rows for one in tried] == [12, 12, 12, 12, 24, 24, 100, 100]
    assert [one.name for one in tried] == [str(n) for n in range(8)]


def test_finalists_reach_all_rows_however_badly_they_do() -> None:
    _, tried = race(["plain", "a", "b", "c", "d"], lambda name, count: 0.0 if name == "plain" else 0.5, 60, finalists=["plain"])
    assert tried[0].rows == 60


def test_the_earlier_variant_wins_a_tie() -> None:
    assert race(["a", "b", "c"], lambda name, count: 0.5, 5)[0] == "a"


def test_a_single_variant_is_scored_on_all_rows() -> None:
    winner, tried = race(["only"], lambda name, count: 0.25, 40)
    assert (winner, tried[0].rows, tried[0].score) == ("only", 40, 0.25)


def test_what_could_not_be_graded_never_wins_against_what_could() -> None:
    assert race(["broken", "poor"], lambda name, count: None if name == "broken" else 0.0, 5)[0] == "poor"
    assert best({"broken": None, "poor": 0.0}) == "poor"
    assert best({"broken": None}) == "broken"


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=20), rows=st.integers(1, 200), always=st.integers(0, 3))
def test_the_winner_has_the_best_score_of_all_that_saw_every_row(scores: list[float], rows: int, always: int) -> None:
    names = [str(n) for n in range(len(scores))]
    winner, tried = race(names, lambda name, count: scores[int(name)], rows, finalists=names[:always])
    final = [one for one in tried if one.rows == rows]
    assert len(tried) == len(names)
    assert scores[int(winner)] == max(one.score for one in final if one.score is not None)
    assert scores[int(winner)] == max(scores)  # steady scores: halving never drops the best


def test_no_row_is_asked_twice_of_a_variant(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text")
    asked: list[str] = []

    def answer(name: str, inputs: Sequence[Input]) -> list[Prediction]:
        asked.extend(input.id for input in inputs)
        return [Prediction(input.id, "") for input in inputs]

    answers = Answers(context, shuffled(context.validation, 0), answer)
    for count in (12, 24, 48, 20):
        assert len(answers.first("a", count)) == count
    assert len(asked) == len(set(asked)) == 48


def test_rows_are_shuffled_the_same_way_for_a_seed(tmp_path: Path) -> None:
    rows = fake_context(tmp_path, FakeEngine(), "text").validation
    assert shuffled(rows, 1) == shuffled(rows, 1) != shuffled(rows, 2)
    assert sorted(row.id for row in shuffled(rows, 1)) == sorted(row.id for row in rows)


def test_an_ungraded_answer_counts_for_nothing() -> None:
    assert mean_score([Score(1.0), Ungraded("broken"), Score(0.0)]) == 0.5
    assert mean_score([Ungraded("broken")]) is None
