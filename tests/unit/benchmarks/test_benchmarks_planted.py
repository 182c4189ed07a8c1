"""Faults of every kind, planted into the bundled tasks, are found; the tasks as they are stay quiet."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from measure_checks import (
    BUNDLED,
    KINDS,
    PLANTINGS,
    Bench,
    build_base,
    is_found,
    is_noisy,
    is_short,
    load_sets,
    merged,
    precision_row,
    recall_rows,
)
from planted_copy import Kind, Row, load_copy, plain, rewriting, shaped
from planted_private import iban, luhn
from planted_variants import add_variants
from scipy.stats import binom

from stepladder.service import wiring

pytestmark = [pytest.mark.starter, pytest.mark.timeout(1500)]  # the first test plants and checks hundreds of copies


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    sets = add_variants(load_sets(None, tmp_path_factory.mktemp("work")))
    return Bench(sets, tmp_path_factory.mktemp("copies"), wiring.build_embedder(), build_base())


@pytest.fixture(scope="module")
def recall(bench):
    return {row["kind"]: row for row in recall_rows(list(bench.outcomes(KINDS, seed=0)))}


def by_luck(row):
    """Whether a kind that is found as often as it must be is found so seldom once in a hundred times; never of exact ones."""
    return row["planted"] >= 10 and binom.cdf(row["found"], row["planted"], row["bound"]) > 0.01


def test_luck_excuses_a_miss_or_two_of_a_dozen_and_none_of_an_exact_kind():
    assert by_luck({"planted": 12, "found": 10, "bound": 0.95})
    assert not by_luck({"planted": 12, "found": 8, "bound": 0.95})
    assert not by_luck({"planted": 12, "found": 11, "bound": 1.0})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_planted_faults_are_found(kind, recall):
    row = recall[kind.name]
    assert not is_short(row) or by_luck(row), f"{row['found']} of {row['planted']}"


def test_there_are_more_than_25_kinds_each_planted_at_least_ten_times(recall):
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 25
    assert min(row["planted"] for row in recall.values()) >= 10
    assert sum(row["bound"] is None for row in recall.values()) <= 3


@pytest.mark.parametrize("name", BUNDLED)
def test_a_clean_task_gets_no_block_and_at_most_two_warnings(name, bench):
    row = precision_row(name, bench.check(plain(bench.copies, name), ask=("likeness",)))
    assert not is_noisy(row), row


def test_a_fault_that_no_check_looks_for_counts_as_missed(bench):
    """The measurement itself: a harmless change with a code that means something else is not found."""

    def harmless(row: Row, chance: Random) -> Row:
        return {**row, "prompt": row["prompt"] + " Thank you."}

    kind = Kind("harmless", frozenset({"mojibake"}), rewriting(harmless), ("repairs",))
    outcomes = list(bench.outcomes([kind], seed=0))
    assert Counter(one.found for one in outcomes) == {False: PLANTINGS}


def test_what_the_clean_set_was_told_already_does_not_count():
    kind = Kind("any", frozenset({"empty"}), rewriting(lambda row, chance: row), ())
    spot = frozenset({("examples.jsonl", 3)})
    marks = {("empty", "examples.jsonl", 3)}
    assert is_found(kind, spot, marks, set())
    assert not is_found(kind, spot, marks, marks)
    assert not is_found(kind, frozenset({("examples.jsonl", 4)}), marks, set())


def test_kinds_that_are_measured_again_take_their_places_among_the_recorded_ones():
    known = {"rounds": 3, "recall": [{"kind": KINDS[0].name, "found": 1}, {"kind": KINDS[1].name, "found": 1}], "machine": "old"}
    again = {
        "recall": [{"kind": KINDS[2].name, "found": 2}, {"kind": KINDS[0].name, "found": 2}],
        "precision": [],
        "machine": "new",
    }
    found = merged(known, again)
    assert [(row["kind"], row["found"]) for row in found["recall"]] == [
        (KINDS[0].name, 2),
        (KINDS[1].name, 1),
        (KINDS[2].name, 2),
    ]
    assert (found["machine"], found["again"]["machine"]) == ("old", "new")


def test_a_copy_can_be_written_read_and_split(tmp_path, bench):
    copy = shaped(plain(bench.copies, "repairs"), "split")
    again = load_copy(copy.write(tmp_path / "copy"), "repairs", "labels")
    assert again.files == copy.files
    assert len(again.files["train.jsonl"]) > len(again.files["test.jsonl"]) > 50


def test_made_up_cards_and_accounts_carry_valid_checksums():
    assert luhn("7992739871") == "79927398713"  # Luhn's own example in ISO/IEC 7812-1
    assert iban("GB", "WEST12345698765432") == "GB82WEST12345698765432"  # the example of ISO 13616
