import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.domain.verdict import Cost, Interval
from stepladder.service.figures import (
    cache_line,
    cost_text,
    counted,
    gain_text,
    interval_text,
    number_text,
    one_line,
    points_text,
    probability_text,
    rate_text,
    seconds_text,
    setting_text,
    tokens_text,
    usd_text,
    visible,
)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0"), (0.0001, "<0.1"), (0.042, "4.2"), (0.0994, "9.9"), (0.0996, "10"), (0.864, "86"), (0.997, "99"), (1, "100")],
)
def test_points_are_whole_with_a_decimal_only_under_ten(rate: float, text: str) -> None:
    assert points_text(rate) == text


def test_a_score_is_shown_with_its_interval() -> None:
    assert interval_text(Interval(0.86, 0.78, 0.91)) == "86 % (78–91)"
    assert interval_text(Interval(0.997, 0.97, 0.999)) == "99 % (97–100)"
    assert interval_text(None) == "–"


def test_what_is_not_a_number_is_a_dash() -> None:
    texts = [rate_text(math.nan), seconds_text(math.inf), usd_text(math.nan), number_text(math.nan), probability_text(math.nan)]
    assert [*texts, interval_text(Interval(math.nan, 0, 1)), points_text(math.inf)] == ["–"] * 7


def test_gains_are_always_signed() -> None:
    assert gain_text(Interval(0.12, -0.04, 0.2)) == "+12 points (−4.0 to +20)"
    assert gain_text(Interval(0.0, 0.0, 0.0)) == "0 points (0 to 0)"


@pytest.mark.parametrize(("probability", "text"), [(1.0, ">99 %"), (0.995, ">99 %"), (0.953, "95 %"), (0.0, "<1 %"), (None, "–")])
def test_no_probability_is_certain(probability: float | None, text: str) -> None:
    assert probability_text(probability) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "<1 ms"),
        (0.34, "340 ms"),
        (0.9999, "1.0 s"),
        (5.24, "5.2 s"),
        (52, "52 s"),
        (840, "14 min"),
        (11_160, "3.1 h"),
        (216_000, "2.5 days"),
    ],
)
def test_durations_take_the_unit_that_keeps_them_short(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0"), (0.00001, "<$0.0001"), (0.0042, "$0.0042"), (0.4249, "$0.42"), (42, "$42.00"), (1240.4, "$1,240")],
)
def test_money_has_as_many_decimals_as_it_takes(usd: float, text: str) -> None:
    assert usd_text(usd) == text


def test_cost_is_money_when_a_price_is_known_else_machine_time() -> None:
    assert cost_text(Cost(seconds_per_call=0.3, usd_per_call=0.00042)) == "$0.42"
    assert cost_text(Cost(seconds_per_call=0.3)) == "5 min"


def test_tokens_of_a_call_count_prompt_and_answer() -> None:
    assert tokens_text(Cost(prompt_tokens_per_call=1200, completion_tokens_per_call=38)) == "1,238 tokens"
    assert tokens_text(Cost()) == "no tokens"


def test_a_setting_is_shown_as_it_was_chosen() -> None:
    assert [setting_text(rate) for rate in (0.8, 0.025, 0.855)] == ["80 %", "2.5 %", "85.5 %"]


def test_counted_things_agree_in_number() -> None:
    assert [counted(1, "row"), counted(1200, "row")] == ["1 row", "1,200 rows"]


def test_what_was_read_back_does_not_deny_what_was_computed() -> None:
    assert (
        cache_line(read_back=1200, asked=0, broken=0, used=True)
        == "Answers: all 1,200 were read back from earlier climbs; none was asked anew."
    )
    assert "Computed anew: trainings." in cache_line(read_back=2, asked=0, broken=0, used=True, anew=["trainings"])


def test_control_characters_are_shown_as_pictures() -> None:
    assert visible("a\x1b[31m\x00\x7f\x9b\ud800\r\nb\tc") == "a␛[31m␀␡��\nb\tc"
    assert one_line(" a\n b\u202e ") == "a b"


@given(st.text(st.characters()))
def test_visible_text_can_be_encoded_and_holds_no_control_character(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not any(ord(sign) < 32 and sign not in "\t\n" for sign in shown)
    assert one_line(text).isprintable() or not one_line(text).isascii()


@given(st.floats(-1e15, 1e15) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_every_number_has_a_short_text(value: float) -> None:
    for text in (points_text(value), rate_text(value), seconds_text(value), usd_text(value), number_text(value)):
        assert 0 < len(text) < 30
        assert "nan" not in text
        assert "inf" not in text
