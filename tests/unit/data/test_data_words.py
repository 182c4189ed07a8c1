"""Words of every script, and what language a text is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.data.language import foreign_evidence
from stepladder.data.words import pieces, words

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "languages"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The LAMP, again!", ["the", "lamp", "again"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("水", ["水"]),
        ("休みは9時、from東京", ["休み", "みは", "9", "時", "from", "東京"]),
        ("น้ำดื่ม", ["น้", "้ำ", "ำด", "ดื", "ื่", "่ม"]),
        ("ខ្មែរ", ["ខ្", "្ម", "មែ", "ែរ"]),
        ("မြန်မာ", ["မြ", "ြန", "န်", "်မ", "မာ"]),
        ("ພາສາ", ["ພາ", "າສ", "ສາ"]),
        ("كِتَابٌ جديد", ["كِتَابٌ", "جديد"]),  # vowel marks do not break a word
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("한국어 문장", ["한국어", "문장"]),  # Korean puts spaces
        ("…!?", []),
    ],
)
def test_words_are_cut_at_spaces_or_into_character_pairs(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_pieces_leave_spaced_words_alone_and_drop_the_punctuation_of_unspaced_ones() -> None:
    assert pieces("don't—stop") == ["don't—stop"]
    assert pieces("…") == ["…"]
    assert pieces("月曜日です。") == ["月曜", "曜日", "日で", "です"]
    assert pieces("第12回") == ["第", "12", "回"]


@given(st.text())
def test_every_letter_of_a_text_stands_in_one_of_its_words(text: str) -> None:
    joined = "".join(words(text))
    assert all(sign in joined for sign in text.lower() if sign.isalnum())


@given(st.text(st.characters(max_codepoint=0x24F), min_size=1).filter(lambda text: not text.isspace()))
def test_words_of_spaced_scripts_stay_whole_for_scoring(text: str) -> None:
    assert [piece for word in text.split() for piece in pieces(word)] == text.split()


ENGLISH = [f"Where is the parcel that I ordered for my sister on day {number}?" for number in range(9)]


def rows_of(name: str) -> list[str]:
    lines = (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [next(iter(json.loads(line).values())) for line in lines]


@pytest.mark.parametrize(
    ("name", "told"), [("japanese", "script"), ("arabic", "Arabic script"), ("german", "German words such as")]
)
def test_other_languages_are_told_by_script_or_common_words(name: str, told: str) -> None:
    texts = rows_of(name)
    assert len(texts) >= 20
    found = foreign_evidence(texts)
    assert found.share == 1.0
    assert told in found.told_by


def test_english_is_not_foreign_and_a_few_foreign_rows_are_a_small_share() -> None:
    assert foreign_evidence(ENGLISH).share == 0.0
    assert foreign_evidence([*ENGLISH, "月曜日です"]).share == pytest.approx(0.1)
    assert foreign_evidence(["12 34", "", "?"]).share == 0.0
    assert foreign_evidence(["lamp broken", "parcel late"]).share == 0.0  # too little to tell by
