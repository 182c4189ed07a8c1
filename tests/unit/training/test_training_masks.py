from __future__ import annotations

from collections.abc import Sequence

import pytest

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.masks import check_rows, colour, learned_shares, masked_examples


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def row(prompt: str, answer: str, id: str = "row-1") -> EncodedRow:
    return EncodedRow(id, tuple(map(ord, prompt + answer)), (0.0,) * len(prompt) + (1.0,) * len(answer))


def test_what_is_learned_stands_between_brackets() -> None:
    assert masked_examples([row("Where? ", "Here.")], decode) == ["Where? ⟦Here.⟧"]


def test_several_learned_turns_are_each_marked() -> None:
    tokens = tuple(map(ord, "aXbY"))
    assert masked_examples([EncodedRow("r", tokens, (0, 1, 0, 1))], decode) == ["a⟦X⟧b⟦Y⟧"]


def test_three_rows_are_shown_and_long_prompts_say_what_they_leave_out() -> None:
    shown = masked_examples([row("q" * 1500, "a" * 900, id=str(number)) for number in range(5)], decode)
    assert len(shown) == 3
    assert " … 1,100 characters … " in shown[0]
    assert f"⟦{'a' * 900}⟧" in shown[0]


def test_colour_marks_the_learned_part_only() -> None:
    text = colour("ask ⟦answer⟧ rest")
    assert text.plain == "ask ⟦answer⟧ rest"
    green = "".join(text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style))
    assert green == "⟦answer⟧"


def test_the_learned_share_is_given_per_row() -> None:
    rows = [row("abcd", "e"), row("ab", "cd"), row("a", "bcd")]
    assert learned_shares(rows) == (0.2, 0.5)


def test_a_row_that_is_too_long_is_named_and_never_cut() -> None:
    with pytest.raises(ModelError, match="training row long has 12 tokens, more than 11.*never cut"):
        check_rows([row("abc", "def"), row("abcdef", "ghijkl", id="long")], what="training", max_tokens=11)
    check_rows([row("abcdef", "ghijkl")], what="training", max_tokens=12)
    check_rows([row("abcdef", "ghijkl")], what="training", max_tokens=0)


def test_a_row_with_nothing_to_learn_is_named() -> None:
    with pytest.raises(ModelError, match="held-out row mute has nothing to learn"):
        check_rows([row("abc", "d"), row("abc", "", id="mute")], what="held-out", max_tokens=0)


def test_a_row_that_never_learns_to_stop_is_named() -> None:
    rows = [row("abc", "d!"), row("ab!", "d", id="endless")]
    with pytest.raises(ModelError, match="row endless never learns to stop"):
        check_rows(rows, what="training", max_tokens=0, stop_ids={ord("!")})


def test_rows_without_any_prompt_are_refused_when_all_are_so() -> None:
    whole = EncodedRow("whole", (1, 2, 3), (0.0, 1.0, 1.0))
    with pytest.raises(ModelError, match="every token of all 2 training rows"):
        check_rows([whole, whole], what="training", max_tokens=0)
    check_rows([whole, row("ab", "c")], what="training", max_tokens=0)
