from __future__ import annotations

import pytest

from stepladder.domain.climb import GradedRow
from stepladder.evaluation.seeds import averaged


def row(id: str, answer: str, score: float | None, seed: int) -> GradedRow:
    return GradedRow("lora", "test", id, answer, score, seed=seed)


def test_a_row_has_the_mean_score_and_the_answer_of_its_worst_or_best_seed() -> None:
    rows = [row("a", "right", 1.0, 0), row("b", "same", 1.0, 0), row("a", "wrong", 0.0, 1), row("b", "too", 1.0, 1)]
    worst, best = averaged(rows), averaged(rows, best=True)
    assert {name: (one.answer, one.score) for name, one in worst.items()} == {"a": ("wrong", 0.5), "b": ("same", 1.0)}
    assert best["a"].answer == "right"
    assert best["a"].score == pytest.approx(0.5)


def test_a_seed_without_a_score_does_not_count_and_a_row_without_any_keeps_none() -> None:
    rows = [row("a", "?", None, 0), row("a", "half", 0.5, 1), row("b", "?", None, 0), row("b", "!", None, 1)]
    found = averaged(rows)
    assert (found["a"].answer, found["a"].score) == ("half", 0.5)
    assert (found["b"].answer, found["b"].score) == ("?", None)
