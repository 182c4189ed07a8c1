"""The bundled tasks: their rows are valid, far apart and of a useful length, and their references keep every number."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

import stepladder.data.bundled
from stepladder.data.bundled import NAMES
from stepladder.data.duplicates import cluster, grams, jaccard
from stepladder.data.normalise import plain_form
from stepladder.data.readers import read_examples
from stepladder.domain.messages import Example
from stepladder.domain.task import Task

LONGEST_CHARACTERS = 1_000
REWRITES = ("voice", "clinic")  # free text that says again what the input says
CLOSEST_REWRITES = 0.3  # Jaccard of character 5-grams; a near-duplicate begins at 0.8
NUMBER = re.compile(r"(?<![A-Za-z\d])\d+(?:[.,:]\d+)*")  # not the 4 of "L4": part of a name
ANY_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
SHORTHAND_UNIT = re.compile(r"(?<=\d)/(?:7|52|12|40)\b")  # 2/7 = 2 days, 2/52 = 2 weeks, 2/12 = 2 months, 28/40 = week 28
SENTENCE_END = re.compile(r"(?<=[.?:])\s+")
VOICE_WORDS = 16  # longest sentence of the invented brand


@cache
def task(name: str) -> Task:
    return Task.load(Path(stepladder.data.bundled.__file__).parent / name)


@cache
def rows(name: str) -> tuple[Example, ...]:
    """Reading checks JSON, ids, labels and schema."""
    return read_examples(task(name)).examples


@pytest.mark.parametrize("name", NAMES)
def test_every_bundled_task_loads_with_120_to_200_rows_under_its_own_name(name: str) -> None:
    assert task(name).settings.name == name
    assert 120 <= len(rows(name)) <= 200


@pytest.mark.parametrize("name", NAMES)
def test_no_row_of_a_bundled_task_is_over_a_thousand_characters(name: str) -> None:
    assert all(0 < len(row.input.text) <= LONGEST_CHARACTERS for row in rows(name))
    assert all(0 < len(row.reference.content) <= LONGEST_CHARACTERS for row in rows(name))


@pytest.mark.parametrize("name", NAMES)
def test_no_two_rows_of_a_bundled_task_are_near_duplicates(name: str) -> None:
    assert len(set(cluster(rows(name)).values())) == len(rows(name))


@pytest.mark.parametrize("name", REWRITES)
def test_no_two_rewrites_come_from_one_template(name: str) -> None:
    for texts in ([row.input.text for row in rows(name)], [row.reference.content for row in rows(name)]):
        closest = max(jaccard(*pair) for pair in combinations([grams(plain_form(text)) for text in texts], 2))
        assert closest < CLOSEST_REWRITES


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_keeps_every_number_and_brings_no_new_one(name: str) -> None:
    for row in rows(name):
        said, again = SHORTHAND_UNIT.sub(" ", row.input.text), row.reference.content
        assert set(NUMBER.findall(said)) <= set(ANY_NUMBER.findall(again)), row.id
        assert set(NUMBER.findall(again)) <= set(ANY_NUMBER.findall(said)), row.id


def test_the_voice_speaks_to_the_reader_in_short_calm_sentences() -> None:
    for row in rows("voice"):
        reference = row.reference.content
        assert "!" not in reference
        assert "please" not in reference.casefold()
        assert re.search(r"\byou", reference.casefold()), row.id
        assert max(len(sentence.split()) for sentence in SENTENCE_END.split(reference)) <= VOICE_WORDS, row.id


def test_the_desks_of_repairs_are_balanced_but_not_uniform() -> None:
    counts = Counter(row.reference.content for row in rows("repairs"))
    assert set(counts) == set(task("repairs").settings.output.labels)
    assert min(counts.values()) >= 20
    assert max(counts.values()) <= 2 * min(counts.values())
    assert len(set(counts.values())) > 1
