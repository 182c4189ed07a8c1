"""Who learns, who chooses, who confirms: rows split by near-duplicate cluster, once and for ever (design §5).

A row keeps its split through every later climb. New rows join their cluster's split; new clusters fill the test split first.
What was ever used for learning or choosing never becomes a test row. Rows whose answer a model alone wrote only ever learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import betainc

from stepladder.data.placing import (
    SMALLEST_TEST,
    SMALLEST_VALIDATION,
    STRICTEST,
    Growth,
    Placing,
    growth_of,
    join_clusters,
    keep_places,
    place_new_clusters,
    place_taught,
    rows_in_words,
    save,
    some_of,
)
from stepladder.data.split_file import Opening, Split, load_split_file, record_opening
from stepladder.data.stratify import build_groups, deal_folds, strata, take
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example
from stepladder.domain.task import Task

__all__ = ["Opening", "Regime", "Splits", "hold_out", "load_or_make", "record_opening", "rows_for_gain", "split_given"]

FEWEST_ROWS = 10
FEWEST_CROSS = 50
FOLDS = 5
SMALLEST_HELD_OUT = 16

Regime = Literal["large", "medium", "cross", "prompts"]


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows' roles in this climb.

    regime: "large" (train, validation, test), "medium" (choices on the train rows, `held_out` for tuning), "cross" (five
        folds), "prompts" (five folds, nothing tuned).
    split_of: Rows that count. In "cross" and "prompts" all of them are "train" and `fold_of` says where they are tested.
    held_out: Train rows that a fine-tune stops by, in "medium".
    cluster_of: Of all rows.
    aside: Rows that count nowhere: near-duplicates of a row in a stricter split, and test or validation rows that wait for more.
    growth: How the test split grows when rows are added; None where the user's own files say which rows are tested.
    learned_before: Rows of the user's own test file that learned or chose in an earlier climb.
    """

    regime: Regime
    seed: int
    split_of: Mapping[str, Split]
    held_out: frozenset[str]
    fold_of: Mapping[str, int]
    cluster_of: Mapping[str, int]
    aside: frozenset[str] = frozenset()
    openings: tuple[Opening, ...] = ()
    growth: Growth | None = None
    learned_before: tuple[str, ...] = ()

    def counted(self, examples: Iterable[Example], split: Split | None = None) -> tuple[Example, ...]:
        """The rows that count, of one split or of all, in the order given."""
        return tuple(row for row in examples if row.id in self.split_of and split in (None, self.split_of[row.id]))


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
            up to it, but never beyond half of all rows. With a target, half is the only limit: how many rows decide hangs on
            how near to it the scores lie.
        write: Leave `splits.json` behind; False only looks.
    Raises:
        DataError: Fewer than ten rows or ten different inputs, or a broken `splits.json`.
    """
    seen, taught = _part_by_teacher(examples)
    _check_enough(task, seen, clusters)
    file = load_split_file(task)
    seed = file.seed if file else seed
    placing = Placing(task, seen, clusters, seed, file, strata(task, seen), taught)
    keep_places(placing)
    join_clusters(placing)
    needed = None if task.settings.target is not None else (rows_needed or rows_for_gain)(task.settings.minimum_gain)
    place_new_clusters(placing, needed)
    return _finish(placing, write=write, growth=growth_of(placing, needed))


def split_given(
    parts: Mapping[str, Sequence[Example]], clusters: Mapping[str, int], *, task: Task, seed: int = 0, write: bool = True
) -> tuple[Splits, tuple[str, ...]]:
    """The user's own train, validation and test files, used as they are.

    Raises:
        DataError: Too few rows, near-duplicates in train or validation and in test (the lines are listed), or a row outside
            train that a model alone has answered.
    """
    split_of: dict[str, Split] = {row.id: name for name in STRICTEST for row in parts.get(name, ())}
    seen, taught = _part_by_teacher([row for name in STRICTEST for row in parts.get(name, ())])
    _check_enough(task, seen, clusters)
    _check_no_leak(task, parts, clusters)
    _check_seen(task, parts)
    file = load_split_file(task)
    placing = Placing(task, seen, clusters, file.seed if file else seed, file, strata(task, seen), taught)
    keep_places(placing)
    moved = [name for name, place in placing.claims.items() if split_of[name] == "test" and place.split != "test"]
    if moved:
        placing.notes.append(
            f"{rows_in_words(len(moved))} of your test file learned or chose in an earlier climb: {some_of(moved)}."
        )
    placing.split_of = split_of
    splits, notes = _finish(placing, write=write, regime="large" if parts.get("validation") else "medium")
    return replace(splits, learned_before=tuple(moved)), notes


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
        raise DataError(path, None, f"there are only {rows_in_words(len(examples))}.", hint)
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
        problem = f"{rows_in_words(len(leaks))} almost the same in test and elsewhere: {listed}."
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


def _finish(
    placing: Placing, *, write: bool, regime: Regime | None = None, growth: Growth | None = None
) -> tuple[Splits, tuple[str, ...]]:
    given = regime is not None
    regime = regime or _regime(placing)
    if not given:
        _let_wait(placing, regime)
    place_taught(placing)
    fold_of: dict[str, int] = {}
    held_out: frozenset[str] = frozenset()
    if regime in ("cross", "prompts"):
        folds = {name: place.fold for name, place in placing.claims.items() if place.fold is not None}
        groups = build_groups(placing.ids("train"), placing.cluster_of, placing.stratum_of, placing.seed)
        fold_of = deal_folds(groups, FOLDS, folds)
    elif regime == "medium":
        held_out = _held_out(placing)
    openings = placing.file.openings if placing.file else ()
    if write:
        save(placing, fold_of, held_out)
    splits = Splits(
        regime=regime,
        seed=placing.seed,
        split_of={name: split for name, split in placing.split_of.items() if name not in placing.aside},
        held_out=held_out,
        fold_of=fold_of,
        cluster_of={row.id: placing.cluster_of[row.id] for row in (*placing.examples, *placing.taught)},
        aside=frozenset(placing.aside),
        openings=openings,
        growth=growth,
    )
    return splits, tuple(placing.notes)


def _regime(placing: Placing) -> Regime:
    """What the rows at hand allow. After growth this may lag behind their number, until the new splits have filled."""
    if len(placing.ids("test")) >= SMALLEST_TEST:
        return "large" if len(placing.ids("validation")) >= SMALLEST_VALIDATION else "medium"
    return "cross" if len(placing.ids("train")) >= FEWEST_CROSS else "prompts"


def _let_wait(placing: Placing, regime: Regime) -> None:
    """Set aside rows of splits that are still too small to be used; using them otherwise would spoil them for ever."""
    unused: dict[Regime, tuple[Split, ...]] = {"large": (), "medium": ("validation",)}
    for split in unused.get(regime, ("validation", "test")):
        waiting = placing.ids(split)
        if waiting:
            least = SMALLEST_TEST if split == "test" else SMALLEST_VALIDATION
            placing.notes.append(f"{rows_in_words(len(waiting))} wait as {split} rows until there are {least}.")
            placing.aside.update(waiting)


def _held_out(placing: Placing) -> frozenset[str]:
    """The fixed fifth of train, topped up when train has grown."""
    train = placing.ids("train")
    clusters_before = {placing.cluster_of[name] for name in train if name in placing.claims and placing.claims[name].held_out}
    kept = frozenset(name for name in train if placing.cluster_of[name] in clusters_before)
    wanted = min(max(SMALLEST_HELD_OUT, round(len(train) / 5)), len(train) // 2) - len(kept)
    if wanted <= 0:
        return kept
    rest = [name for name in train if name not in kept]
    return kept | hold_out(rest, placing.cluster_of, placing.stratum_of, seed=placing.seed, wanted=wanted)
