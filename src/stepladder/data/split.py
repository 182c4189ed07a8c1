"""Who learns, who chooses, who confirms: rows split by near-duplicate cluster, once and for ever (design §5).

A row keeps its split through every later climb. New rows join their cluster's split; new clusters fill the test split first.
What was ever used for learning or choosing never becomes a test row. Rows whose answer a model alone wrote only ever learn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy.special import betainc

from stepladder.data.fingerprint import content_hash, input_hash
from stepladder.data.split_file import Opening, Place, Split, SplitFile, load_split_file, record_opening, save_split_file
from stepladder.data.stratify import build_groups, deal_folds, strata, take
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example
from stepladder.domain.task import Task

__all__ = ["Opening", "Regime", "Splits", "hold_out", "load_or_make", "record_opening", "rows_for_gain", "split_given"]

FEWEST_ROWS = 10
FEWEST_CROSS = 50
FEWEST_TEST_SPLIT = 120
FEWEST_VALIDATION_SPLIT = 300
FOLDS = 5
SMALLEST_TEST = 40  # below it a test split shows too little, and its rows wait
SMALLEST_VALIDATION = 40
SMALLEST_HELD_OUT = 16

Regime = Literal["large", "medium", "cross", "prompts"]
_STRICTEST: tuple[Split, ...] = ("train", "validation", "test")  # a cluster goes with the first it has ever been in


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows' roles in this climb.

    regime: "large" (train, validation, test), "medium" (choices on the train rows, `held_out` for tuning), "cross" (five
        folds), "prompts" (five folds, nothing tuned).
    split_of: Rows that count. In "cross" and "prompts" all of them are "train" and `fold_of` says where they are tested.
    held_out: Train rows that a fine-tune stops by, in "medium".
    cluster_of: Of all rows.
    aside: Rows that count nowhere: near-duplicates of a row in a stricter split, and test or validation rows that wait for more.
    """

    regime: Regime
    seed: int
    split_of: Mapping[str, Split]
    held_out: frozenset[str]
    fold_of: Mapping[str, int]
    cluster_of: Mapping[str, int]
    aside: frozenset[str] = frozenset()
    openings: tuple[Opening, ...] = ()

    def counted(self, examples: Iterable[Example], split: Split | None = None) -> tuple[Example, ...]:
        """The rows that count, of one split or of all, in the order given."""
        return tuple(row for row in examples if row.id in self.split_of and split in (None, self.split_of[row.id]))


@dataclass(slots=True)
class _Plan:
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


def load_or_make(
    task: Task,
    examples: Sequence[Example],
    clusters: Mapping[str, int],
    *,
    seed: int = 0,
    rows_needed: Callable[[float], int | None] | None = None,
    write: bool = True,
) -> tuple[Splits, tuple[str, ...]]:
    """The split of `splits.json`, made at the first call and grown when rows were added, and what to say about it.

    Args:
        clusters: Near-duplicate cluster of every row.
        seed: Used at the first split; later the file's own counts.
        rows_needed: Test rows that can show a given gain (None = no number of rows can); added clusters fill the test split
            up to it, but never beyond half of all rows.
        write: Leave `splits.json` behind; False only looks.
    Raises:
        DataError: Fewer than ten rows or ten different inputs, or a broken `splits.json`.
    """
    seen, taught = _part_by_teacher(examples)
    _check_enough(task, seen, clusters)
    file = load_split_file(task)
    seed = file.seed if file else seed
    plan = _Plan(task, seen, clusters, seed, file, strata(task, seen), taught)
    _keep_places(plan)
    _join_clusters(plan)
    needed = (rows_needed or rows_for_gain)(task.settings.minimum_gain)
    _place_new_clusters(plan, needed)
    return _finish(plan, write=write)


def split_given(
    parts: Mapping[str, Sequence[Example]], clusters: Mapping[str, int], *, task: Task, seed: int = 0, write: bool = True
) -> tuple[Splits, tuple[str, ...]]:
    """The user's own train, validation and test files, used as they are.

    Raises:
        DataError: Too few rows, near-duplicates in train or validation and in test (the lines are listed), or a row outside
            train that a model alone has answered.
    """
    split_of: dict[str, Split] = {row.id: name for name in _STRICTEST for row in parts.get(name, ())}
    seen, taught = _part_by_teacher([row for name in _STRICTEST for row in parts.get(name, ())])
    _check_enough(task, seen, clusters)
    _check_no_leak(task, parts, clusters)
    _check_seen(task, parts)
    file = load_split_file(task)
    plan = _Plan(task, seen, clusters, file.seed if file else seed, file, strata(task, seen), taught)
    _keep_places(plan)
    moved = [name for name, place in plan.claims.items() if split_of[name] == "test" and place.split != "test"]
    if moved:
        plan.notes.append(f"{_rows(len(moved))} of your test file learned or chose in an earlier climb: {_some(moved)}.")
    plan.split_of = split_of
    return _finish(plan, write=write, regime="large" if parts.get("validation") else "medium")


def hold_out(
    ids: Iterable[str], clusters: Mapping[str, int], stratum_of: Mapping[str, str], *, seed: int, wanted: int | None = None
) -> frozenset[str]:
    """About a fifth of the rows, at least 16 but at most half, by whole clusters and stratified."""
    names = list(ids)
    rows = min(max(SMALLEST_HELD_OUT, round(len(names) / 5)), len(names) // 2) if wanted is None else wanted
    taken, _ = take(build_groups(names, clusters, stratum_of, seed), rows)
    return frozenset(name for group in taken for name in group.ids)


def rows_for_gain(gain: float, loss_rate: float = 0.05) -> int | None:
    """Test rows at which the smallest provable gain is `gain`, when `loss_rate` of the rows get worse; None above 100,000.

    A gain counts as proved when P(Beta(wins + 1, losses + 1) > 1/2) >= .95, as in the verdict.
    """
    rows = FEWEST_ROWS
    while rows <= 100_000:
        losses = round(loss_rate * rows)
        more = int(gain * rows + 1e-9)  # wins beyond losses that are a gain of at most `gain`
        if more and more + 2 * losses <= rows and 1 - betainc(losses + more + 1, losses + 1, 0.5) >= 0.95:
            return rows
        rows += max(1, rows // 100)
    return None


def _check_enough(task: Task, examples: Sequence[Example], clusters: Mapping[str, int]) -> None:
    data = task.settings.data
    path = task.path(data.examples or data.train or "")
    hint = f"{FEWEST_ROWS} are the least, 50 good ones a start; `stepladder label {task.folder}` helps to make them."
    if len(examples) < FEWEST_ROWS:
        raise DataError(path, None, f"there are only {_rows(len(examples))}.", hint)
    different = len({clusters[row.id] for row in examples})
    if different < FEWEST_ROWS:
        problem = f"the {len(examples)} rows hold only {different} different inputs; near-duplicates count once."
        raise DataError(path, None, problem, hint)


def _check_no_leak(task: Task, parts: Mapping[str, Sequence[Example]], clusters: Mapping[str, int]) -> None:
    data = task.settings.data
    others: dict[int, tuple[str | None, Example]] = {}
    for name in ("validation", "train"):  # train last: it is the graver leak
        others.update({clusters[row.id]: (getattr(data, name), row) for row in reversed(parts.get(name, ()))})
    leaks = [(*others[clusters[row.id]], row) for row in parts.get("test", ()) if clusters[row.id] in others]
    if leaks:
        pairs = [f"{data.test}:{row.line} and {file}:{other.line}" for file, other, row in leaks]
        listed = ", ".join(pairs[:10]) + (f" and {len(pairs) - 10} more" if len(pairs) > 10 else "")
        problem = f"{_rows(len(leaks))} almost the same in test and elsewhere: {listed}."
        hint = "Remove one of each pair, or give one `examples` file and let Stepladder split."
        raise DataError(task.path(data.test or ""), leaks[0][2].line, problem, hint)


def _check_seen(task: Task, parts: Mapping[str, Sequence[Example]]) -> None:
    for name in ("test", "validation"):
        row = next((row for row in parts.get(name, ()) if row.by_teacher), None)
        if row is not None:
            path = task.path(getattr(task.settings.data, name))
            hint = "Let a person check it and drop the key, or move the row to the training file."
            raise DataError(path, row.line, f"a model alone wrote this {name} row's answer (source = teacher).", hint)


def _part_by_teacher(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    return [row for row in examples if not row.by_teacher], [row for row in examples if row.by_teacher]


def _keep_places(plan: _Plan) -> None:
    """Find each row's place from before: by what it asks, and by its id unless that id's question now stands elsewhere."""
    if plan.file is None:
        return
    rows = [*plan.examples, *plan.taught]
    hashes = {row.id: _short(input_hash(row)) for row in rows}
    present = set(hashes.values())
    by_input: dict[str, list[Place]] = defaultdict(list)
    for place in plan.file.rows.values():
        by_input[place.input].append(place)
    changed = []
    for row in rows:
        places = list(by_input.get(hashes[row.id], ()))
        named = plan.file.rows.get(row.id)
        if named is not None and (named.input == hashes[row.id] or named.input not in present):
            places.insert(0, named)
        if not places:
            continue
        claim = min(places, key=lambda place: _STRICTEST.index(place.split))
        plan.claims[row.id] = claim
        if claim.split == "test" and all(place.content != _short(content_hash(row)) for place in places):
            changed.append(row.id)
    if changed:
        plan.notes.append(f"{_rows(len(changed))} of the test split changed since the last climb: {_some(changed)}.")


def _join_clusters(plan: _Plan) -> None:
    """Rows with a place keep it, new ones go with their cluster; a cluster in two splits counts in the stricter only."""
    members: dict[int, list[str]] = defaultdict(list)
    for row in (*plan.examples, *(row for row in plan.taught if row.id in plan.claims)):
        members[plan.cluster_of[row.id]].append(row.id)
    joined = []
    for names in members.values():
        splits = {plan.claims[name].split for name in names if name in plan.claims}
        if not splits:
            continue
        strictest = next(split for split in _STRICTEST if split in splits)
        for name in names:
            plan.split_of[name] = plan.claims[name].split if name in plan.claims else strictest
            if plan.split_of[name] != strictest:
                plan.aside.add(name)
        if len(splits) > 1:
            joined += [name for name in names if name not in plan.claims]
    if plan.aside:
        which = _some(name for name in plan.split_of if name in plan.aside)
        plan.notes.append(f"{_rows(len(plan.aside))} set aside as near-duplicates of rows that learn or choose: {which}.")
    if joined:
        plan.notes.append(f"{_rows(len(joined))} added that are near both train and test rows; they learn: {_some(joined)}.")


def _place_new_clusters(plan: _Plan, needed: int | None) -> None:
    """Test first, then validation, then train."""
    new = [row.id for row in plan.examples if row.id not in plan.split_of]
    groups = build_groups(new, plan.cluster_of, plan.stratum_of, plan.seed)
    total = sum(row.id not in plan.aside for row in plan.examples)
    counts = Counter(split for name, split in plan.split_of.items() if name not in plan.aside)
    test_wanted, validation_wanted = _wanted(total)
    if plan.file is not None and test_wanted:
        half = total // 2
        test_wanted = min(half, max(test_wanted, half if needed is None else needed))
    test, rest = take(groups, max(0, test_wanted - counts["test"]))
    validation, train = take(rest, max(0, validation_wanted - counts["validation"]))
    if plan.file is None:  # nothing has been used yet, so a split that came out too small is simply not made
        if sum(group.size for group in test) < SMALLEST_TEST:
            test, validation, train = [], [], groups
        elif sum(group.size for group in validation) < SMALLEST_VALIDATION:
            validation, train = [], rest
    chosen: dict[Split, list[str]] = {
        split: [name for group in taken for name in group.ids]
        for split, taken in zip(_STRICTEST, (train, validation, test), strict=True)
    }
    for split, names in chosen.items():
        plan.split_of.update(dict.fromkeys(names, split))
    _say_growth(plan, chosen)


def _say_growth(plan: _Plan, chosen: Mapping[Split, Sequence[str]]) -> None:
    added = sum(1 for row in plan.examples if row.id not in plan.claims)
    if plan.file is None or not added:
        return
    shares = [f"{len(names)} to {split}" for split, names in reversed(list(chosen.items())) if names]
    followed = added - sum(len(names) for names in chosen.values())
    if followed:
        shares.append(f"{followed} with their near-duplicates")
    plan.notes.append(f"{_rows(added)} added since the last climb: {', '.join(shares)}.")


def _wanted(total: int) -> tuple[int, int]:
    """Rows that test and validation should have."""
    if total < FEWEST_TEST_SPLIT:
        return 0, 0
    if total < FEWEST_VALIDATION_SPLIT:
        return round(0.4 * total), 0
    return min(300, max(100, round(total / 3))), min(100, max(SMALLEST_VALIDATION, round(total / 5)))


def _finish(plan: _Plan, *, write: bool, regime: Regime | None = None) -> tuple[Splits, tuple[str, ...]]:
    given = regime is not None
    regime = regime or _regime(plan)
    if not given:
        _let_wait(plan, regime)
    _place_taught(plan)
    fold_of: dict[str, int] = {}
    held_out: frozenset[str] = frozenset()
    if regime in ("cross", "prompts"):
        folds = {name: place.fold for name, place in plan.claims.items() if place.fold is not None}
        groups = build_groups(plan.ids("train"), plan.cluster_of, plan.stratum_of, plan.seed)
        fold_of = deal_folds(groups, FOLDS, folds)
    elif regime == "medium":
        held_out = _held_out(plan)
    openings = plan.file.openings if plan.file else ()
    if write:
        _save(plan, fold_of, held_out)
    splits = Splits(
        regime=regime,
        seed=plan.seed,
        split_of={name: split for name, split in plan.split_of.items() if name not in plan.aside},
        held_out=held_out,
        fold_of=fold_of,
        cluster_of={row.id: plan.cluster_of[row.id] for row in (*plan.examples, *plan.taught)},
        aside=frozenset(plan.aside),
        openings=openings,
    )
    return splits, tuple(plan.notes)


def _regime(plan: _Plan) -> Regime:
    """What the rows at hand allow. After growth this may lag behind their number, until the new splits have filled."""
    if len(plan.ids("test")) >= SMALLEST_TEST:
        return "large" if len(plan.ids("validation")) >= SMALLEST_VALIDATION else "medium"
    return "cross" if len(plan.ids("train")) >= FEWEST_CROSS else "prompts"


def _let_wait(plan: _Plan, regime: Regime) -> None:
    """Set aside rows of splits that are still too small to be used; using them otherwise would spoil them for ever."""
    unused: dict[Regime, tuple[Split, ...]] = {"large": (), "medium": ("validation",)}
    for split in unused.get(regime, ("validation", "test")):
        waiting = plan.ids(split)
        if waiting:
            least = SMALLEST_TEST if split == "test" else SMALLEST_VALIDATION
            plan.notes.append(f"{_rows(len(waiting))} wait as {split} rows until there are {least}.")
            plan.aside.update(waiting)


def _place_taught(plan: _Plan) -> None:
    """Rows that a teacher alone answered learn, unless that would tell a test or validation row's answer to the learner."""
    kept_apart = {plan.cluster_of[row.id] for row in plan.examples if plan.split_of[row.id] != "train"}
    aside = []
    for row in plan.taught:
        claim = plan.claims.get(row.id)
        plan.split_of[row.id] = "train"
        plan.aside.discard(row.id)
        if plan.cluster_of[row.id] in kept_apart or (claim is not None and claim.split != "train"):
            aside.append(row.id)
    plan.aside.update(aside)
    if plan.taught:
        apart = f"; {len(aside)} set aside, since they ask what a test or validation row asks" if aside else ""
        plan.notes.append(f"{_rows(len(plan.taught))} answered by a teacher alone: they only ever teach{apart}.")


def _held_out(plan: _Plan) -> frozenset[str]:
    """The fixed fifth of train, topped up when train has grown."""
    train = plan.ids("train")
    clusters_before = {plan.cluster_of[name] for name in train if name in plan.claims and plan.claims[name].held_out}
    kept = frozenset(name for name in train if plan.cluster_of[name] in clusters_before)
    wanted = min(max(SMALLEST_HELD_OUT, round(len(train) / 5)), len(train) // 2) - len(kept)
    if wanted <= 0:
        return kept
    rest = [name for name in train if name not in kept]
    return kept | hold_out(rest, plan.cluster_of, plan.stratum_of, seed=plan.seed, wanted=wanted)


def _save(plan: _Plan, fold_of: Mapping[str, int], held_out: frozenset[str]) -> None:
    rows = dict(plan.file.rows) if plan.file else {}
    used = [*plan.examples, *(row for row in plan.taught if row.id not in plan.aside)]
    hashes = {row.id: _short(input_hash(row)) for row in used}
    present = set(hashes.values())
    for name in hashes:
        before = rows.get(name)
        if before and before.input not in present:  # edited: what was asked before has been used and keeps its place too
            rows[f"{name}#{before.input}"] = before
    for row in used:
        claim = plan.claims.get(row.id)
        rows[row.id] = Place(
            split=plan.split_of[row.id],
            fold=fold_of.get(row.id, claim.fold if claim else None),
            held_out=row.id in held_out,
            input=hashes[row.id],
            content=_short(content_hash(row)),
        )
    save_split_file(plan.task, SplitFile(seed=plan.seed, rows=rows, openings=plan.file.openings if plan.file else ()))


def _short(digest: str) -> str:
    """64 bits are plenty to know a row again, and keep the file readable."""
    return digest[:16]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
