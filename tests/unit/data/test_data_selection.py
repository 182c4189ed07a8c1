"""Choosing rows to label: k-centre greedy against a plain calculation, and the readers of unlabelled inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepladder.data.selection import k_centre
from stepladder.data.unlabelled import read_unlabelled
from stepladder.domain.errors import DataError
from stepladder.domain.task import DataSettings

SETTINGS = DataSettings(examples="examples.jsonl")


def unit_vectors(count: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 30), wanted=st.integers(0, 40), labelled=st.integers(0, 6), seed=st.integers(0, 99))
def test_each_row_chosen_is_the_farthest_from_all_before_it(count: int, wanted: int, labelled: int, seed: int) -> None:
    vectors = unit_vectors(count, seed)
    done = list(range(min(labelled, count)))
    chosen = k_centre(vectors, wanted, labelled=done)
    assert len(chosen) == len(set(chosen)) == min(wanted, count - len(done))
    assert not set(chosen) & set(done)
    distances = 1 - vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for place, row in enumerate(chosen):
        before = [*done, *chosen[:place]]
        if before:
            left = [one for one in range(count) if one not in before]
            farthest = max(distances[one][before].min() for one in left)
            assert distances[row][before].min() == pytest.approx(farthest, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(4, 30), seed=st.integers(0, 99), stop=st.integers(1, 10))
def test_going_on_from_what_is_labelled_gives_the_order_of_never_having_stopped(count: int, seed: int, stop: int) -> None:
    vectors = unit_vectors(count, seed)
    whole = k_centre(vectors, count)
    assert whole[:stop] + k_centre(vectors, count, labelled=whole[:stop]) == whole


def test_equal_rows_are_all_chosen_once() -> None:
    assert sorted(k_centre(np.ones((5, 2), dtype=np.float32), 5)) == [0, 1, 2, 3, 4]
    assert k_centre(np.zeros((0, 2), dtype=np.float32), 3) == []


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\n  two \nthree\n", ["one", "two", "three"]),
        ("a.txt", "one\n\ntwo\n\nthree\n", ["one", "two", "three"]),
        ("a.txt", "\none\nstill one\n\n\ntwo\n\nthree", ["one\nstill one", "two", "three"]),
        ("a.md", "one\r\ntwo\r\n", ["one", "two"]),
        ("a.csv", 'text,label\n"one, two",x\nthree,\n', ["one, two", "three"]),
        ("a.tsv", "question\nwhy\n", ["why"]),
        ("a.jsonl", '{"prompt": "one"}\n{"prompt": "two", "completion": "x"}\n', ["one", "two"]),
        ("a.jsonl", '{"text": "one", "ward": 4}\n', ["one"]),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "x"}]}\n', ["one"]),
    ],
)
def test_inputs_are_read_from_every_shape_without_their_answers(
    tmp_path: Path, name: str, content: str, texts: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    rows, notes = read_unlabelled(path, SETTINGS)
    assert [row.input.text for row in rows] == texts
    assert notes[0].startswith(f"{name}: ")


def test_the_same_question_is_asked_once_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Where is it?\nwhere is it\nWho?\n", encoding="utf-8")
    rows, notes = read_unlabelled(path, SETTINGS)
    assert [row.input.text for row in rows] == ["Where is it?", "Who?"]
    assert any("1 ask what another row asks" in note for note in notes)


def test_what_stands_beside_a_question_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "one", "ward": "b", "sources": ["documents/x.md"], "id": 7}) + "\n", encoding="utf-8")
    (row,), _ = read_unlabelled(path, SETTINGS)
    assert (row.input.id, dict(row.metadata), row.sources) == ("7", {"ward": "b"}, ("documents/x.md",))


@pytest.mark.parametrize(
    ("content", "says"), [(b"\n \n", "no text"), ("caf\u00e9".encode("latin-1"), "not UTF-8"), (b"a\x00b", "NUL")]
)
def test_a_text_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_unlabelled(path, SETTINGS)


LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"), min_size=1, max_size=20).filter(
    str.strip
)


@settings(max_examples=80, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=8))
def test_any_lines_of_text_come_back_as_they_are(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("inputs") / "a.txt"
    path.write_bytes("\n".join(texts).encode())
    rows, notes = read_unlabelled(path, SETTINGS)
    found = [row.input.text for row in rows]
    left_out = int(notes[-1].split()[1]) if "left out" in notes[-1] else 0
    assert len(found) + left_out == len(texts)
    assert found == [text for text in dict.fromkeys(text.strip() for text in texts) if text in found]
