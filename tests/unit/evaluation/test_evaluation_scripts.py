"""Token F1 where a script puts no spaces between words."""

from __future__ import annotations

import pytest

from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Score
from stepladder.evaluation.graders.token_f1 import TokenF1


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("月曜日", "月曜日", 1.0),
        ("月曜日です。", "月曜日", 2 * 2 / (4 + 2)),  # 月曜 曜日 日で です against 月曜 曜日
        ("火曜日", "月曜日", 2 * 1 / (2 + 2)),
        ("駅", "京都", 0.0),
        ("午後6時", "午後 6時", 1.0),
        ("วันจันทร์", "วันจันทร์", 1.0),
        ("the red lamp", "a red lamp", 1.0),
        ("شكوى من الطاولة", "شكوى", 2 * 1 / (3 + 1)),
    ],
)
def test_unspaced_scripts_get_credit_for_the_character_pairs_that_are_right(answer: str, reference: str, expected: float) -> None:
    grade = TokenF1().grade(Example(Input.of("?"), Message("assistant", reference)), answer)
    assert isinstance(grade, Score)
    assert grade.value == pytest.approx(expected)
