"""A split in the making: rows keep the places they had, new ones go with their near-duplicates, new clusters fill test first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stepladder.data.fingerprint import content_hash, input_hash
from stepladder.data.split_file import Place, Split, SplitFile, save_split_file
from stepladder.data.stratify import build_groups, take
from stepladder.domain.messages import Example
from stepladder.domain.task import Task

FEWEST_TEST_SPLIT = 120
FEWEST_VALIDATION_SPLIT = 300
SMALLEST_TEST = 40  # below it a test split shows too little, and its rows wait
SMALLEST_VALIDATION = 40
GROWN_ROWS = 900  # from here on the test split has all the rows it is made with

STRICTEST: tuple[Split, ...] = ("train", "validation", "test")  # a cluster goes with the first it has ever been in


@dataclass(frozen=True, slots=True)
class Growth:
    """How the test split grows when rows are added to a task that has been split.

    Args:
        total: Rows that count, those that wait included.
        tested: Of these, rows of the test split.
        enough: Rows at which the test split stops growing; None = at half of all rows only.
    """

    total: int
    tested: int
    enough: int | None = None

    def test_rows(self, added: int) -> int:
        """Rows of the test split when so many are added, none of them near another."""
        return min(self.tested + added, max(self.tested, grown_test(self.total + added, self.enough)))

    def judged_rows(self, added: int) -> int:
        """Rows that a verdict would then rest on: those of the test split, or all others while it is too small."""
        test = self.test_rows(added)
        return test if test >= SMALLEST_TEST else self.total + added - test

    def rows_to_add(self, wanted: int) -> int | None:
        """Least number of rows to add until a verdict rests on so many; None where the test split stops growing before."""
        most = max(2 * wanted, GROWN_ROWS)
        return next((added for added in range(1, most + 1) if self.judged_rows(added) >= wanted), None)


@dataclass(slots=True)
class Placing:
    """A split in the making."""

    task: Task
    examples: Sequence[Example]  # rows that a person has answered or seen
    cluster_of: Mapping[str, int]
    seed: int
    file: SplitFile | None
    stratum_of: Mapping[str, str]
    taught: Sequence[Example] = ()  # rows that a teacher alone has answered
    claims: dict[str, Place] = field(default_factory=dict)  # rows that have a place from before
    split_of: dict[str, Split] = field(default_factory=dict)
    aside: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def ids(self, split: Split) -> list[str]:
        """Rows of a split that are not set aside, in file order."""
        return [row.id for row in self.examples if self.split_of[row.id] == split and row.id not in self.aside]


def keep_places(placing: Placing) -> None:
    """Find each row's place from before: by what it asks, and by its id unless that id's question now stands elsewhere."""
    if placing.file is None:
        return
    rows = [*placing.examples, *placing.taught]
    hashes = {row.id: _short(input_hash(row)) for row in rows}
    present = set(hashes.values())
    by_input: dict[str, list[Place]] = defaultdict(list)
    for place in placing.file.rows.values():
        by_input[place.input].append(place)
    changed = []
    for row in rows:
        places = list(by_input.get(hashes[row.id], ()))
        named = placing.file.rows.get(row.id)
        if named is not None and (named.input == hashes[row.id] or named.input not in present):
            places.insert(0, named)
        if not places:
            continue
        claim = min(places, key=lambda place: STRICTEST.index("train" if place.learned else place.split))
        opened = [place.opened for place in places if place.opened is not None]
        split = "train" if claim.learned else claim.split
        placing.claims[row.id] = claim.model_copy(update={"split": split, "opened": min(opened, default=None)})
        if claim.split == "test" and all(place.content != _short(content_hash(row)) for place in places):
            changed.append(row.id)
    if changed:
        placing.notes.append(f"{rows_in_words(len(changed))} of the test split changed since the last climb: {some_of(changed)}.")


def join_clusters(placing: Placing) -> None:
    """Rows with a place keep it, new ones go with their cluster; a cluster in two splits counts in the stricter only."""
    members: dict[int, list[str]] = defaultdict(list)
    for row in (*placing.examples, *(row for row in placing.taught if row.id in placing.claims)):
        members[placing.cluster_of[row.id]].append(row.id)
    joined = []
    for names in members.values():
        splits = {placing.claims[name].split for name in names if name in placing.claims}
        if not splits:
            continue
        strictest = next(split for split in STRICTEST if split in splits)
        for name in names:
            placing.split_of[name] = placing.claims[name].split if name in placing.claims else strictest
            if placing.split_of[name] != strictest:
                placing.aside.add(name)
        if len(splits) > 1:
            joined += [name for name in names if name not in placing.claims]
    if placing.aside:
        which = some_of(name for name in placing.split_of if name in placing.aside)
        placing.notes.append(
            f"{rows_in_words(len(placing.aside))} set aside as near-duplicates of rows that learn or choose: {which}."
        )
    if joined:
        placing.notes.append(
            f"{rows_in_words(len(joined))} added that are near both train and test rows; they learn: {some_of(joined)}."
        )


def place_new_clusters(placing: Placing, needed: int | None) -> None:
    """Test first, then validation, then train."""
    new = [row.id for row in placing.examples if row.id not in placing.split_of]
    groups = build_groups(new, placing.cluster_of, placing.stratum_of, placing.seed)
    total = sum(row.id not in placing.aside for row in placing.examples)
    counts = Counter(split for name, split in placing.split_of.items() if name not in placing.aside)
    test_wanted, validation_wanted = _wanted(total)
    if placing.file is not None:
        test_wanted = grown_test(total, needed)
    test, rest = take(groups, max(0, test_wanted - counts["test"]))
    validation, train = take(rest, max(0, validation_wanted - counts["validation"]))
    if placing.file is None:  # nothing has been used yet, so a split that came out too small is simply not made
        if sum(group.size for group in test) < SMALLEST_TEST:
            test, validation, train = [], [], groups
        elif sum(group.size for group in validation) < SMALLEST_VALIDATION:
            validation, train = [], rest
    chosen: dict[Split, list[str]] = {
        split: [name for group in taken for name in group.ids]
        for split, taken in zip(STRICTEST, (train, validation, test), strict=True)
    }
    for split, names in chosen.items():
        placing.split_of.update(dict.fromkeys(names, split))
    _say_growth(placing, chosen)


def _say_growth(placing: Placing, chosen: Mapping[Split, Sequence[str]]) -> None:
    added = sum(1 for row in placing.examples if row.id not in placing.claims)
    if placing.file is None or not added:
        return
    shares = [f"{len(names)} to {split}" for split, names in reversed(list(chosen.items())) if names]
    followed = added - sum(len(names) for names in chosen.values())
    if followed:
        shares.append(f"{followed} with their near-duplicates")
    placing.notes.append(f"{rows_in_words(added)} added since the last climb: {', '.join(shares)}.")


def growth_of(placing: Placing, needed: int | None) -> Growth:
    """How the test split of this placing would grow further."""
    counted = [row.id for row in placing.examples if row.id not in placing.aside]
    return Growth(len(counted), sum(placing.split_of[name] == "test" for name in counted), needed)


def grown_test(total: int, enough: int | None) -> int:
    """Rows that the test split of a task with `total` rows is filled up to when rows are added."""
    wanted, _ = _wanted(total)
    half = total // 2
    return min(half, max(wanted, half if enough is None else enough)) if wanted else 0


def _wanted(total: int) -> tuple[int, int]:
    """Rows that test and validation should have."""
    if total < FEWEST_TEST_SPLIT:
        return 0, 0
    if total < FEWEST_VALIDATION_SPLIT:
        return round(0.4 * total), 0
    return min(300, max(100, round(total / 3))), min(100, max(SMALLEST_VALIDATION, round(total / 5)))


def place_taught(placing: Placing) -> None:
    """Rows that a teacher alone answered learn, unless that would tell a test or validation row's answer to the learner."""
    kept_apart = {placing.cluster_of[row.id] for row in placing.examples if placing.split_of[row.id] != "train"}
    aside = []
    for row in placing.taught:
        claim = placing.claims.get(row.id)
        placing.split_of[row.id] = "train"
        placing.aside.discard(row.id)
        if placing.cluster_of[row.id] in kept_apart or (claim is not None and claim.split != "train"):
            aside.append(row.id)
    placing.aside.update(aside)
    if placing.taught:
        apart = f"; {len(aside)} set aside, since they ask what a test or validation row asks" if aside else ""
        placing.notes.append(f"{rows_in_words(len(placing.taught))} answered by a teacher alone: they only ever teach{apart}.")


def save(placing: Placing, fold_of: Mapping[str, int], held_out: frozenset[str]) -> None:
    """Write `splits.json`: the rows at hand, and those that were there before, since a deleted row may come back."""
    rows = dict(placing.file.rows) if placing.file else {}
    used = [*placing.examples, *(row for row in placing.taught if row.id not in placing.aside)]
    hashes = {row.id: _short(input_hash(row)) for row in used}
    present = set(hashes.values())
    for name in hashes:
        before = rows.get(name)
        if before and before.input not in present:  # edited: what was asked before has been used and keeps its place too
            rows[f"{name}#{before.input}"] = before
    for row in used:
        claim = placing.claims.get(row.id)
        rows[row.id] = Place(
            split=placing.split_of[row.id],
            fold=fold_of.get(row.id, claim.fold if claim else None),
            held_out=row.id in held_out,
            input=hashes[row.id],
            content=_short(content_hash(row)),
            opened=claim.opened if claim else None,
            learned=claim is not None and claim.split != "test" and placing.split_of[row.id] == "test",
        )
    openings = placing.file.openings if placing.file else ()
    file = SplitFile(seed=placing.seed, rows=rows, openings=openings, aside=tuple(sorted(placing.aside)))
    save_split_file(placing.task, file)


def _short(digest: str) -> str:
    """64 bits are plenty to know a row again, and keep the file readable."""
    return digest[:16]


def rows_in_words(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def some_of(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
