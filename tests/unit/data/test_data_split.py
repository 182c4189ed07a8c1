"""Splits: their sizes, and that rows keep their place whatever happens to the file."""

from __future__ import annotations

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from stepladder.data.split import Splits, hold_out, load_or_make, record_opening, rows_for_gain, split_given
from stepladder.data.split_file import load_split_file, save_split_file
from stepladder.data.stratify import build_groups, strata, take
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.task import Task

SCHEMA = {
    "properties": {"kind": {"enum": ["a", "b", "c"]}, "speed": {"enum": ["slow", "fast"]}, "one": {"enum": ["x"]}, "free": {}}
}


def make_task(folder: Path, toml: str = "", data: str = 'examples = "examples.jsonl"') -> Task:
    text = f'name = "t"\ninstruction = "Answer."\nminimum_gain = 0.05\n[data]\n{data}\n{toml}\n'
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return Task.load(folder)


def example(number: int, text: str | None = None, answer: str | None = None, name: str | None = None) -> Example:
    reference = Message("assistant", answer or "x" * (number % 40 + 1))
    return Example(Input.of(text or f"question {number}", name or f"r{number}"), reference, line=number + 1)


def rows(numbers: Iterable[int]) -> list[Example]:
    return [example(number) for number in numbers]


def alone(examples: Sequence[Example]) -> dict[str, int]:
    return {row.id: number for number, row in enumerate(examples)}


def make(folder: Path, examples: Sequence[Example], clusters: dict[str, int] | None = None, **rest: Any) -> tuple[Splits, str]:
    splits, notes = load_or_make(make_task(folder), examples, clusters or alone(examples), **rest)
    return splits, "\n".join(notes)


def sizes(splits: Splits) -> Counter[str]:
    return Counter(splits.split_of.values())


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "regime", "test", "validation"),
    [
        (10, "prompts", 0, 0),
        (49, "prompts", 0, 0),
        (50, "cross", 0, 0),
        (119, "cross", 0, 0),
        (120, "medium", 48, 0),
        (299, "medium", 120, 0),
        (300, "large", 100, 60),
        (600, "large", 200, 100),
        (1500, "large", 300, 100),
    ],
)
def test_each_size_of_data_has_its_regime(tmp_path: Path, count: int, regime: str, test: int, validation: int) -> None:
    splits, notes = make(tmp_path, rows(range(count)))
    assert splits.regime == regime
    assert sizes(splits) == Counter(train=count - test - validation, test=test, validation=validation) - Counter()
    assert notes == ""


def test_folds_are_five_of_equal_size_and_hold_every_row(tmp_path: Path) -> None:
    splits, _ = make(tmp_path, rows(range(83)))
    assert set(splits.fold_of) == set(splits.split_of)
    counts = Counter(splits.fold_of.values())
    assert sorted(counts.values()) == [16, 16, 17, 17, 17]


def test_the_middle_regime_holds_out_a_fixed_fifth_of_train(tmp_path: Path) -> None:
    splits, _ = make(tmp_path, rows(range(250)))
    assert len(splits.held_out) == 30
    assert all(splits.split_of[name] == "train" for name in splits.held_out)
    small, _ = make(tmp_path, rows(range(1000, 1120)), seed=3)  # other rows: the first ones have left the data
    assert len(small.held_out) >= 16


@pytest.mark.parametrize("count", [1, 9])
def test_fewer_than_ten_rows_are_refused_and_nothing_is_written(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=r"10 are the least.*stepladder label"):
        make(tmp_path, rows(range(count)))
    assert not (tmp_path / "splits.json").exists()


def test_many_copies_of_few_inputs_are_refused(tmp_path: Path) -> None:
    examples = rows(range(60))
    with pytest.raises(DataError, match="only 6 different inputs"):
        make(tmp_path, examples, {row.id: number % 6 for number, row in enumerate(examples)})


def test_only_looking_writes_nothing(tmp_path: Path) -> None:
    make(tmp_path, rows(range(20)), write=False)
    assert not (tmp_path / "splits.json").exists()


# --- strata -----------------------------------------------------------------------------------------------------------


def test_labels_keep_their_share_in_every_part(tmp_path: Path) -> None:
    task = make_task(tmp_path, '[output]\nlabels = ["rare", "often"]')
    examples = [example(number, answer="rare" if number % 10 == 0 else "often") for number in range(300)]
    splits, _ = load_or_make(task, examples, alone(examples))
    rare = Counter(splits.split_of[row.id] for row in examples if row.reference.content == "rare")
    assert rare == Counter(test=10, validation=6, train=14)


def test_json_answers_are_stratified_by_the_enum_with_the_fewest_classes(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    task = make_task(tmp_path, '[output]\nschema = "s.json"')
    values = [{"kind": "abc"[n % 3], "speed": ("slow", "fast")[n % 2], "one": "x", "free": "q"} for n in range(12)]
    examples = [example(number, answer=json.dumps(value)) for number, value in enumerate(values)]
    assert list(strata(task, examples).values()) == [value["speed"] for value in values]


def test_free_answers_are_stratified_by_length(tmp_path: Path) -> None:
    examples = [example(number, answer="x" * (number + 1)) for number in range(9)]
    assert Counter(strata(make_task(tmp_path), examples).values()) == {"length 0": 3, "length 1": 3, "length 2": 3}


@settings(max_examples=80, deadline=None)
@given(
    clusters=st.lists(st.tuples(st.integers(1, 6), st.sampled_from("abc")), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_taking_never_exceeds_the_size_and_never_tears_a_cluster(
    clusters: list[tuple[int, str]], share: float, seed: int
) -> None:
    cluster_of = {f"{number}-{k}": number for number, (size, _) in enumerate(clusters) for k in range(size)}
    stratum_of = {name: clusters[number][1] for name, number in cluster_of.items()}
    groups = build_groups(cluster_of, cluster_of, stratum_of, seed)
    wanted = int(share * len(cluster_of))
    taken, left = take(groups, wanted)
    got = sum(group.size for group in taken)
    assert wanted - 6 < got <= wanted or not left or got == wanted
    assert sorted(name for group in (*taken, *left) for name in group.ids) == sorted(cluster_of)
    if all(size == 1 for size, _ in clusters):
        assert got == wanted


def test_a_held_out_part_is_made_of_whole_clusters_and_of_at_most_half(tmp_path: Path) -> None:
    clusters = {f"r{n}": n // 2 for n in range(40)}
    held = hold_out(clusters, clusters, dict.fromkeys(clusters, "a"), seed=1)
    assert len(held) == 16
    assert all(f"r{n ^ 1}" in held for n in range(40) if f"r{n}" in held)
    few = {f"r{n}": n for n in range(12)}
    assert len(hold_out(few, few, dict.fromkeys(few, "a"), seed=1)) == 6


# --- for ever ---------------------------------------------------------------------------------------------------------


def test_a_second_look_gives_the_same_split_whatever_the_order_and_the_seed(tmp_path: Path) -> None:
    first, _ = make(tmp_path, rows(range(150)), seed=1)
    text = (tmp_path / "splits.json").read_text(encoding="utf-8")
    again, notes = make(tmp_path, rows(reversed(range(150))), seed=2)
    assert (again.split_of, again.held_out, again.seed, notes) == (first.split_of, first.held_out, 1, "")
    assert (tmp_path / "splits.json").read_text(encoding="utf-8") == text


def test_the_seed_and_not_the_order_of_rows_decides_the_first_split(tmp_path: Path) -> None:
    examples = rows(range(150))
    found = [make(tmp_path, examples[::step], seed=seed, write=False)[0].split_of for step, seed in ((1, 0), (-1, 0), (1, 1))]
    assert found[0] == found[1] != found[2]


def test_new_rows_fill_test_first_until_it_shows_the_minimum_gain(tmp_path: Path) -> None:
    make(tmp_path, rows(range(150)))  # 60 test rows
    splits, notes = make(tmp_path, rows(range(200)), rows_needed=lambda gain: 80)
    assert sizes(splits) == Counter(test=80, train=120)
    assert "50 rows added since the last climb: 20 to test, 30 to train." in notes


def test_the_minimum_gain_of_the_task_is_what_test_has_to_show(tmp_path: Path) -> None:
    asked = []

    def rows_needed(gain: float) -> None:
        asked.append(gain)

    make(tmp_path, rows(range(150)))
    splits, _ = make(tmp_path, rows(range(200)), rows_needed=rows_needed)
    assert asked == [0.05]
    assert sizes(splits)["test"] == 100  # no number of rows is enough: up to half of all


def test_with_a_target_only_half_of_all_rows_limits_the_test_split(tmp_path: Path) -> None:
    make_task(tmp_path)
    toml = tmp_path / "task.toml"
    toml.write_text("target = 0.8\n" + toml.read_text(encoding="utf-8"), encoding="utf-8")
    for count, test in ((150, 60), (200, 100)):
        examples = rows(range(count))
        splits, _ = load_or_make(Task.load(tmp_path), examples, alone(examples), rows_needed=lambda gain: 80)
        assert sizes(splits)["test"] == test


@pytest.mark.parametrize("enough", [None, 80, 500])
@pytest.mark.parametrize("total", [60, 110, 125, 200, 320])
def test_the_rows_to_add_are_the_fewest_after_which_so_many_rows_are_tested(
    tmp_path: Path, total: int, enough: int | None
) -> None:
    def tested(count: int, *, write: bool = False) -> int:
        splits, _ = make(tmp_path, rows(range(count)), rows_needed=lambda gain: enough, write=write)
        return sizes(splits)["test"] if splits.regime in ("medium", "large") else len(splits.split_of)

    before = tested(total, write=True)
    growth = make(tmp_path, rows(range(total)), rows_needed=lambda gain: enough)[0].growth
    assert growth is not None
    assert growth.enough == enough
    for wanted in (before + 1, before + 20, before + 150):
        added = growth.rows_to_add(wanted)
        assert added is not None
        assert tested(total + added - 1) < wanted <= tested(total + added)
    assert (growth.rows_to_add(600) is None) is (enough is not None)


def test_a_grown_set_fills_validation_after_test_and_waits_until_it_is_big_enough(tmp_path: Path) -> None:
    make(tmp_path, rows(range(290)))  # 116 test rows
    splits, notes = make(tmp_path, rows(range(320)), rows_needed=lambda gain: 120)
    assert splits.regime == "medium"
    assert "26 rows wait as validation rows until there are 40." in notes
    assert len(splits.aside) == 26
    splits, _ = make(tmp_path, rows(range(360)), rows_needed=lambda gain: 120)
    assert splits.regime == "large"
    assert sizes(splits) == Counter(test=120, validation=66, train=174)


def test_rows_that_were_cross_fitted_learn_and_new_ones_wait_until_they_make_a_test_split(tmp_path: Path) -> None:
    first, _ = make(tmp_path, rows(range(100)))
    splits, notes = make(tmp_path, rows(range(125)))
    assert (splits.regime, sizes(splits)) == ("cross", Counter(train=100))
    assert splits.fold_of == first.fold_of
    assert splits.aside == {f"r{number}" for number in range(100, 125)}
    assert "25 rows wait as test rows until there are 40." in notes
    splits, _ = make(tmp_path, rows(range(145)))
    assert (splits.regime, sizes(splits)) == ("medium", Counter(train=100, test=45))


def test_new_rows_of_a_small_set_join_the_folds_and_the_old_ones_keep_theirs(tmp_path: Path) -> None:
    first, _ = make(tmp_path, rows(range(40)))
    splits, _ = make(tmp_path, rows(range(90)))
    assert splits.regime == "cross"
    assert {name: splits.fold_of[name] for name in first.fold_of} == first.fold_of
    assert max(Counter(splits.fold_of.values()).values()) == 18


def test_new_rows_join_the_split_of_their_near_duplicates(tmp_path: Path) -> None:
    before, _ = make(tmp_path, rows(range(150)))
    examples = rows(range(300))
    clusters = {row.id: number % 150 for number, row in enumerate(examples)}
    splits, notes = make(tmp_path, examples, clusters)
    assert all(splits.split_of[f"r{number + 150}"] == before.split_of[f"r{number}"] for number in range(150))
    assert "150 rows added since the last climb: 150 with their near-duplicates." in notes


def test_a_row_near_both_train_and_test_learns_and_its_test_neighbour_is_set_aside(tmp_path: Path) -> None:
    before, _ = make(tmp_path, rows(range(150)))
    train = next(name for name, split in before.split_of.items() if split == "train")
    test = next(name for name, split in before.split_of.items() if split == "test")
    examples = [*rows(range(150)), example(150)]
    clusters = alone(examples)
    clusters[test] = clusters["r150"] = clusters[train]
    splits, notes = make(tmp_path, examples, clusters)
    assert splits.split_of["r150"] == "train"
    assert test in splits.aside
    assert test not in splits.split_of
    assert "near both train and test rows; they learn: r150" in notes
    assert f"set aside as near-duplicates of rows that learn or choose: {test}" in notes


def test_removed_rows_find_their_place_again(tmp_path: Path) -> None:
    before, _ = make(tmp_path, rows(range(150)))
    make(tmp_path, rows(range(20, 150)))
    after, _ = make(tmp_path, rows(range(150)))
    assert after.split_of == before.split_of


def test_rows_are_known_by_their_question_when_their_ids_change(tmp_path: Path) -> None:
    before, _ = make(tmp_path, rows(range(150)))
    shifted = [example(number, name=f"r{number + 1}") for number in range(150)]
    after, notes = make(tmp_path, shifted)
    assert all(after.split_of[f"r{number + 1}"] == before.split_of[f"r{number}"] for number in range(150))
    assert notes == ""


def test_a_changed_test_row_keeps_its_place_and_is_named(tmp_path: Path) -> None:
    before, _ = make(tmp_path, rows(range(150)))
    name = next(name for name, split in before.split_of.items() if split == "test")
    number = int(name[1:])
    for changed in (example(number, answer="corrected"), example(number, text="a new question")):
        examples = [changed if row.id == name else row for row in rows(range(150))]
        after, notes = make(tmp_path, examples)
        assert after.split_of == before.split_of
        assert f"1 row of the test split changed since the last climb: {name}." in notes


def test_an_edited_train_question_is_still_known_when_it_comes_back_under_another_id(tmp_path: Path) -> None:
    before, _ = make(tmp_path, rows(range(150)))
    name = next(name for name, split in before.split_of.items() if split == "train")
    edited = [example(999, text="edited", name=name) if row.id == name else row for row in rows(range(150))]
    make(tmp_path, edited)
    after, _ = make(tmp_path, [*edited, example(int(name[1:]), name="back")])
    assert after.split_of["back"] == "train"


def used(splits: Splits, split: str) -> set[str]:
    return {name for name, found in splits.split_of.items() if found == split}


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(10, 330), st.integers(0, 40), st.integers(1, 400), st.integers(0, 9)), min_size=2, max_size=5
    )
)
def test_train_never_becomes_test_and_clusters_never_straddle(steps: list[tuple[int, int, int, int]]) -> None:
    """Each step shows some range of all rows under another clustering, as growing, shrinking and regrouping data would."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        ever: defaultdict[str, set[str]] = defaultdict(set)
        for count, skipped, grouping, offset in steps:
            examples = rows(range(skipped, skipped + count))
            clusters = {
                row.id: (number + offset) // 2 if number % grouping == 0 else number * 1000 for number, row in enumerate(examples)
            }
            if len(set(clusters.values())) < 10:
                continue
            splits, _ = make(folder, examples, clusters)
            for split in ("train", "validation", "test"):
                ever[split] |= used(splits, split)
            assert not ever["train"] & ever["test"]
            assert not ever["validation"] & ever["test"]
            where: defaultdict[int, set[object]] = defaultdict(set)
            for row in splits.counted(examples):
                where[clusters[row.id]].add((splits.split_of[row.id], splits.fold_of.get(row.id), row.id in splits.held_out))
            assert all(len(places) == 1 for places in where.values())
            assert set(splits.split_of) | splits.aside == {row.id for row in examples}
            assert not set(splits.split_of) & splits.aside
            if splits.regime in ("cross", "prompts"):
                assert set(splits.fold_of) == set(splits.split_of) == used(splits, "train")


def test_counted_gives_the_rows_of_a_split_in_order(tmp_path: Path) -> None:
    examples = rows(range(150))
    splits, _ = make(tmp_path, examples)
    assert splits.counted(examples) == tuple(examples)
    assert [row.id for row in splits.counted(examples, "test")] == [
        row.id for row in examples if splits.split_of[row.id] == "test"
    ]


# --- own files --------------------------------------------------------------------------------------------------------

OWN = 'train = "train.jsonl"\ntest = "test.jsonl"\nvalidation = "validation.jsonl"'


def test_own_files_are_used_as_given(tmp_path: Path) -> None:
    task = make_task(tmp_path, data=OWN)
    parts = {"train": rows(range(30)), "validation": rows(range(30, 40)), "test": rows(range(40, 60))}
    examples = [row for part in parts.values() for row in part]
    splits, notes = split_given(parts, alone(examples), task=task)
    assert (splits.regime, sizes(splits), notes) == ("large", Counter(train=30, validation=10, test=20), ())
    assert splits.split_of["r45"] == "test"
    again, _ = split_given({name: parts[name] for name in ("train", "test")}, alone(examples), task=task)
    assert again.regime == "medium"
    assert len(again.held_out) == 15


def test_near_duplicates_across_own_files_are_refused_with_their_lines(tmp_path: Path) -> None:
    task = make_task(tmp_path, data=OWN)
    parts = {"train": rows(range(30)), "test": rows(range(40, 60))}
    clusters = alone([*parts["train"], *parts["test"]])
    clusters["r41"], clusters["r50"] = clusters["r7"], clusters["r8"]
    with pytest.raises(DataError, match=r"2 rows .* test\.jsonl:42 and train\.jsonl:8, test\.jsonl:51 and train\.jsonl:9\."):
        split_given(parts, clusters, task=task)
    assert not (tmp_path / "splits.json").exists()


def test_moving_a_train_row_into_an_own_test_file_is_said(tmp_path: Path) -> None:
    task = make_task(tmp_path, data=OWN)
    examples = rows(range(60))
    split_given({"train": examples[:30], "test": examples[30:]}, alone(examples), task=task)
    for _ in range(3):  # also in the climbs after the first that tests it
        splits, notes = split_given({"train": examples[1:30], "test": [examples[0], *examples[30:]]}, alone(examples), task=task)
        assert "1 row of your test file learned or chose in an earlier climb: r0." in notes
        assert splits.learned_before == ("r0",)
    splits, _ = make(tmp_path, rows(range(150)))
    assert splits.split_of["r0"] == "train"
    assert {splits.split_of[f"r{number}"] for number in range(30, 60)} == {"test"}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_openings_are_entered_once_a_run_and_survive_the_next_split(tmp_path: Path) -> None:
    make(tmp_path, rows(range(150)))
    task = make_task(tmp_path)
    day = datetime.date(2026, 11, 22)
    for run in ("one", "one", "two"):
        record_opening(task, run, today=day)
    splits, _ = make(tmp_path, rows(range(160)))
    assert [(opening.run, opening.date, opening.test_rows) for opening in splits.openings] == [
        ("one", "2026-11-22", 60),
        ("two", "2026-11-22", 60),
    ]


def test_only_openings_that_saw_half_of_the_test_rows_count(tmp_path: Path) -> None:
    """Of up to 120 rows, 60 that were opened are half; of 121 they are not."""
    make(tmp_path, rows(range(150)))
    task = make_task(tmp_path)
    file = load_split_file(task)
    assert file is not None
    old = [name for name, place in file.rows.items() if place.split == "test"]
    new = [name for name in file.rows if name not in old]
    assert (len(old), len(new)) == (60, 90)
    assert [len(record_opening(task, run)) for run in ("one", "two")] == [1, 2]
    file = load_split_file(task)
    assert file is not None
    assert [len(file.openings_of([*old, *new[:more]])) for more in (0, 1, 59, 60, 61)] == [2, 2, 2, 2, 0]
    assert [len(file.openings_of(old[:kept])) for kept in (60, 2, 1, 0)] == [2, 2, 2, 0]
    assert [one.run for one in record_opening(task, "three", [*old, *new[:61]])] == ["three"]
    assert [one.run for one in record_opening(task, "four", old)] == ["one", "two", "three", "four"]
    assert len(record_opening(task, "four", old)) == 4


def test_rows_stay_opened_through_later_splits_and_an_edit(tmp_path: Path) -> None:
    examples = rows(range(150))
    first, _ = make(tmp_path, examples)
    task = make_task(tmp_path)
    record_opening(task, "one")
    tested = next(row for row in examples if first.split_of[row.id] == "test")
    make(tmp_path, [example(tested.line - 1, "a question about the river") if row is tested else row for row in examples])
    make(tmp_path, rows(range(160)))
    file = load_split_file(task)
    assert file is not None
    opened = {name.partition("#")[0] for name, place in file.rows.items() if place.opened == 1}
    assert opened == {row.id for row in examples if first.split_of[row.id] == "test"}
    assert f"{tested.id}#" in " ".join(file.rows)


def test_openings_of_older_versions_count_whatever_they_saw(tmp_path: Path) -> None:
    make(tmp_path, rows(range(150)))
    task = make_task(tmp_path)
    record_opening(task, "one")
    file = load_split_file(task)
    assert file is not None
    before = {name: place.model_copy(update={"opened": None}) for name, place in file.rows.items()}
    save_split_file(task, file.model_copy(update={"rows": before, "aside": None}))
    assert '"aside"' not in (tmp_path / "splits.json").read_text(encoding="utf-8")
    new = [name for name, place in before.items() if place.split != "test"]
    assert [one.run for one in record_opening(task, "two")] == ["one", "two"]
    assert [one.run for one in record_opening(task, "three", new)] == ["one", "three"]


def test_an_opening_without_a_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no split yet"):
        record_opening(make_task(tmp_path), "one")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"split": "test"', '"split": "train"', "changed by hand"),
        ('"rows": {', '"rows": {,', "not JSON"),
        ('"format": 1', '"format": 2', "format 1"),
        ('"checksum"', '"sum"', "changed by hand"),
        ("{", "<<<<<<< HEAD\n{", "not JSON"),
    ],
)
def test_a_split_file_that_was_touched_is_refused_and_left_alone(tmp_path: Path, old: str, new: str, words: str) -> None:
    make(tmp_path, rows(range(150)))
    path = tmp_path / "splits.json"
    touched = path.read_text(encoding="utf-8").replace(old, new, 1)
    path.write_text(touched, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        make(tmp_path, rows(range(160)))
    assert "delete it to split anew" in caught.value.hint
    assert path.read_text(encoding="utf-8") == touched


def test_the_file_reads_row_by_row_and_loads_back(tmp_path: Path) -> None:
    make(tmp_path, [*rows(range(149)), example(149, name='ünï "quoted"')])
    text = (tmp_path / "splits.json").read_text(encoding="utf-8")
    assert sum(line.startswith("    ") for line in text.splitlines()) == 150
    file = load_split_file(make_task(tmp_path))
    assert file is not None
    assert 'ünï "quoted"' in file.rows


# --- how many rows a gain needs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.02, 0.03, 0.05, 0.1])
def test_the_smallest_provable_gain_at_the_returned_size_is_small_enough(gain: float) -> None:
    def provable(n: int) -> float:
        losses = round(0.05 * n)
        wins = next(wins for wins in range(losses, n) if beta(wins + 1, losses + 1).sf(0.5) >= 0.95)
        return (wins - losses) / n

    size = rows_for_gain(gain)
    assert size is not None
    assert provable(size) <= gain + 1e-9
    assert provable(size // 2) > gain


def test_a_gain_that_no_test_can_show_has_no_size() -> None:
    assert rows_for_gain(0.0001) is None
