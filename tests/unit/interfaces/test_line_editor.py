"""The editable line: whatever is pressed, the text is what a plain model of an editor says, and the screen is wide enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from stepladder.interfaces.cli.dialogue import CHOICE_KEYS, match_beginning
from stepladder.interfaces.cli.keyboard import Key
from stepladder.interfaces.cli.line_editor import Line

TEXT = st.text(st.sampled_from("ab c日é\n"), max_size=30)
KEYS = st.lists(
    st.sampled_from(
        ["left", "right", "home", "end", "backspace", "delete", "kill-left", "kill-right", "kill-word", "up", "newline"]
    ).map(Key)
    | st.builds(Key, st.just("char"), st.sampled_from("xyz日")),
    max_size=30,
)


@given(text=TEXT, keys=KEYS, width=st.integers(5, 60))
def test_the_cursor_stays_in_the_text_and_what_is_shown_fits(text: str, keys: list[Key], width: int) -> None:
    line = Line(text, len(text))
    for key in keys:
        line = line.press(key)
        assert 0 <= line.cursor <= len(line.text)
        shown, before = line.shown(width)
        assert cell_len(shown) <= width
        assert before <= cell_len(shown)
        assert "\n" not in shown


@given(before=TEXT, after=TEXT, added=TEXT)
def test_typing_inserts_where_the_cursor_stands_and_backspace_takes_it_back(before: str, after: str, added: str) -> None:
    start = Line(before + after, len(before))
    line = start.press(Key("paste", added))
    assert line == Line(before + added + after, len(before + added))
    for _ in added:
        line = line.press(Key("backspace"))
    assert line == start


@pytest.mark.parametrize(
    ("key", "text", "cursor"),
    [
        ("home", "one two three", 0),
        ("end", "one two three", 13),
        ("left", "one two three", 6),
        ("right", "one two three", 8),
        ("backspace", "one tw three", 6),
        ("delete", "one twothree", 7),
        ("kill-left", " three", 0),
        ("kill-right", "one two", 7),
        ("kill-word", "one  three", 4),
        ("newline", "one two\n three", 8),
        ("tab", "one two three", 7),
    ],
)
def test_each_key_does_what_editors_do(key: str, text: str, cursor: int) -> None:
    assert Line("one two three", 7).press(Key(key)) == Line(text, cursor)


def test_a_long_line_shows_the_part_around_the_cursor() -> None:
    line = Line("0123456789" * 5, 25)
    shown, before = line.shown(20)
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert shown[:before].endswith("234")
    assert Line("short", 5).shown(20) == ("short", 5)


def test_a_choice_is_found_by_its_beginning_and_a_whole_name_beats_longer_ones() -> None:
    options = ("card", "card lost", "cash")
    assert match_beginning("CARD", options) == [0]
    assert match_beginning("card l", options) == [1]
    assert match_beginning("ca", options) == [0, 1, 2]
    assert match_beginning("", options) == []


def test_no_choice_key_is_a_command() -> None:
    assert not set(CHOICE_KEYS) & set("suq")
