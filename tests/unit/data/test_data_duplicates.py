"""Near-duplicates: found with and without boilerplate, never chained, numbered the same way each time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepladder.data.duplicates import NEAR_COSINE, NEAR_JACCARD, cluster, grams, jaccard
from stepladder.data.fingerprint import content_hash, fingerprint, input_hash
from stepladder.data.normalise import own_texts, plain_form
from stepladder.domain.messages import Example, Input, Message


def example(text: str, name: str | None = None, answer: str = "A", line: int = 1) -> Example:
    return Example(Input.of(text, name or text), Message("assistant", answer), line=line)


def rows(texts: Sequence[str]) -> list[Example]:
    return [example(text, str(number)) for number, text in enumerate(texts)]


class TableEmbedder:
    """Vectors by hand; a text it does not know gets one of its own."""

    name = "table"

    def __init__(self, vectors: dict[str, list[float]], size: int) -> None:
        self.vectors = vectors
        self.size = size

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.vectors.get(text, [0.0] * self.size) for text in texts], dtype=np.float32)


DISTINCT = [
    "Where is parcel number four?",
    "The lamp arrived broken and wet",
    "Please cancel my newsletter today",
    "How do I reset a password",
    "My invoice shows the wrong street",
]


def test_case_punctuation_and_white_space_do_not_make_a_row_new() -> None:
    found = cluster(rows([*DISTINCT, "where is  parcel number FOUR", "the lamp arrived... broken, and wet!"]))
    assert [found[str(number)] for number in range(7)] == [0, 1, 2, 3, 4, 0, 1]


def test_a_small_change_in_a_long_text_is_a_near_duplicate_and_another_text_is_not() -> None:
    long = "The ferry to Ostle leaves at half past nine on Saturdays, but only when somebody has asked for it before."
    found = cluster(rows([*DISTINCT, long, long.replace("half past nine", "half past ten")]))
    assert found["5"] == found["6"]
    assert len(set(found.values())) == 6


def test_what_over_half_of_the_inputs_share_does_not_count() -> None:
    frame = (
        "You are given a message from a customer of our shop, read it with care.\nMessage: {}\nNow answer in one word, please."
    )
    found = cluster(rows([frame.format(text) for text in DISTINCT]))
    assert len(set(found.values())) == len(DISTINCT)
    assert own_texts([frame.format(text) for text in DISTINCT]) == [plain_form(text) for text in DISTINCT]


def test_a_shared_run_of_eight_words_in_the_middle_is_taken_out_and_a_shorter_one_is_not() -> None:
    eight, seven = "one two three four five six seven eight", "one two three four five six seven"
    assert own_texts([f"{word} {eight} {word}" for word in ("red", "blue", "green")]) == ["red red", "blue blue", "green green"]
    assert own_texts([f"{word} {seven} {word}" for word in ("red", "blue", "green")])[0] == f"red {seven} red"


def test_inputs_that_are_all_equal_keep_their_text_and_are_one_cluster() -> None:
    assert own_texts(["Same!", "same", "SAME"]) == ["same"] * 3
    assert set(cluster(rows(["Same!", "same", "SAME"])).values()) == {0}


def test_texts_of_signs_only_are_told_apart() -> None:
    assert len(set(cluster(rows(["???", "!!!", ":-)"])).values())) == 3


def test_equal_meaning_by_the_embedder_joins_what_letters_do_not() -> None:
    texts = ["reset password", "forgot login", "broken lamp"]
    vectors = {"reset password": [1.0, 0.0], "forgot login": [0.96, 0.28], "broken lamp": [0.0, 1.0]}
    assert len(set(cluster(rows(texts)).values())) == 3
    found = cluster(rows(texts), TableEmbedder(vectors, 2))
    assert [found[str(number)] for number in range(3)] == [0, 0, 1]


def test_a_chain_of_near_neighbours_is_not_one_cluster() -> None:
    angles = [0.0, 0.25, 0.5]  # cos(.25) = .969 is near, cos(.5) = .878 is not
    texts = ["alpha", "beta", "gamma"]
    vectors = {text: [float(np.cos(angle)), float(np.sin(angle))] for text, angle in zip(texts, angles, strict=True)}
    found = cluster(rows(texts), TableEmbedder(vectors, 2))
    assert found["0"] != found["2"]
    assert len(set(found.values())) == 2


WORDS = st.sampled_from(["boat", "boats", "leaves", "leaves at", "nine", "ten", "pier", "fuel", "the dog", "the dogs"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=12).map(" ".join), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, numbers=st.lists(st.floats(0, 1.5), min_size=25, max_size=25))
def test_clusters_are_cliques_that_cannot_be_joined_further(texts: list[str], numbers: list[float]) -> None:
    own = own_texts(texts)
    vectors = {text: [float(np.cos(angle)), float(np.sin(angle))] for text, angle in zip(own, numbers, strict=False)}
    embedder = TableEmbedder(vectors, 2)
    found = cluster(rows(texts), embedder)
    table = dict(zip(own, embedder.embed(own), strict=True))

    def near(first: str, second: str) -> bool:
        cosine = float(table[first] @ table[second])
        return first == second or jaccard(grams(first), grams(second)) >= NEAR_JACCARD or cosine >= NEAR_COSINE - 1e-6

    members: dict[int, list[str]] = defaultdict(list)
    for number, text in enumerate(own):
        members[found[str(number)]].append(text)
    for inside in members.values():
        assert all(near(first, second) for first, second in combinations(inside, 2))
    for one, other in combinations(members.values(), 2):
        assert any(
            first != second
            and jaccard(grams(first), grams(second)) < NEAR_JACCARD
            and float(table[first] @ table[second]) < NEAR_COSINE + 1e-6
            for first in one
            for second in other
        )


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS)
def test_clusters_are_numbered_by_first_row_and_the_same_each_time(texts: list[str]) -> None:
    found = cluster(rows(texts))
    numbers = [found[str(number)] for number in range(len(texts))]
    assert list(dict.fromkeys(numbers)) == list(range(len(set(numbers))))
    assert cluster(rows(texts)) == found


def test_no_rows_make_no_clusters() -> None:
    assert cluster([]) == {}


def test_the_fingerprint_is_about_content_not_about_order_or_lines() -> None:
    one, two = example("Q1", "1", line=1), example("Q2", "2", line=2)
    moved = [example("Q2", "2", line=7), example("Q1", "1", line=9)]
    assert fingerprint([one, two]) == fingerprint(moved)
    assert len(fingerprint([one])) == 64


@pytest.mark.parametrize("other", [example("Q!", "1"), example("Q", "2"), example("Q", "1", "B")])
def test_the_fingerprint_sees_every_change(other: Example) -> None:
    assert fingerprint([example("Q", "1")]) != fingerprint([other])
    assert fingerprint([example("Q", "1")]) != fingerprint([example("Q", "1"), example("Q", "1")])


def test_row_hashes_see_what_they_are_for() -> None:
    assert input_hash(example("Where, now?", "1", "A")) == input_hash(example("where now", "2", "B"))
    assert content_hash(example("Q", "1", "A")) != content_hash(example("Q", "1", "B"))
    assert content_hash(example("Q", "1")) == content_hash(example("Q", "2"))
