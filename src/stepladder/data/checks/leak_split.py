"""Test rows that training or choosing has seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

SHINGLE = 8  # words
INSIDE = 0.8  # share of a text's shingles that stand in one other text
LEARNS = ("train", "validation", "test")  # a leaked row stays in the last of its parts


def find(context: CheckContext) -> list[Finding]:
    if not context.part_of:
        return []
    sure = {*_same(context), *(_near(context) if context.given else ())}
    likely = {*context.variant_rows, *context.near_rows, *_contained(context)} - sure
    return [*_report(context, sure, Severity.BLOCK), *_report(context, likely, Severity.WARN if context.given else Severity.NOTE)]


def _report(context: CheckContext, pairs: set[tuple[int, int]], severity: Severity) -> list[Finding]:
    marks: dict[int, Mark] = {}
    repairs: list[Repair] = []
    for pair in sorted(pairs):
        parts = [context.part_of.get(context.rows[place].id) for place in pair]
        if None in parts or parts[0] == parts[1]:
            continue
        learned, held = sorted(pair, key=lambda place: LEARNS.index(context.part_of[context.rows[place].id]))
        row, other = context.rows[held], context.rows[learned]
        marks.setdefault(
            held, row.mark(f"{context.part_of[row.id]} row, stands in {context.part_of[other.id]} too: {other.file}:{other.line}")
        )
        marks.setdefault(
            learned,
            other.mark(f"{context.part_of[other.id]} row, stands in {context.part_of[row.id]} too: {row.file}:{row.line}"),
        )
        if severity is Severity.BLOCK:
            repairs.append(Repair(other.file, other.line, f"the same as {row.file}:{row.line}, which measures"))
    how = "the same or almost the same" if severity is Severity.BLOCK else "alike"
    return finding(
        "leak-split",
        severity,
        (marks[place] for place in sorted(marks)),
        f"{{rows}} are {how} in two splits: a model that learned one by heart scores on the other.",
        "Remove one of each pair, or give one `examples` file and let Stepladder split.",
        {(repair.file, repair.line): repair for repair in repairs}.values(),
    )


def _same(context: CheckContext) -> Iterator[tuple[int, int]]:
    for group in context.same_input:
        yield from _across(context, group)


def _near(context: CheckContext) -> Iterator[tuple[int, int]]:
    """Rows of one near-duplicate cluster, as the split of a climb sees them."""
    members: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(context.rows):
        members[context.clusters[row.id]].append(place)
    for group in members.values():
        if len(group) > 1:
            yield from _across(context, group)


def _across(context: CheckContext, group: tuple[int, ...] | list[int]) -> Iterator[tuple[int, int]]:
    """Every row with the first row of each other part."""
    first: dict[str, int] = {}
    for place in group:
        part = context.part_of.get(context.rows[place].id)
        if part is None:
            continue
        first.setdefault(part, place)
    for place in group:
        part = context.part_of.get(context.rows[place].id)
        for other, head in first.items():
            if part is not None and other != part:
                yield (min(place, head), max(place, head))


def _contained(context: CheckContext) -> Iterator[tuple[int, int]]:
    """Texts of another part that hold most of a row's runs of eight words."""
    holding: dict[tuple[str, ...], list[int]] = defaultdict(list)
    runs = [_shingles(context.near.texts[text]) for text in context.near.text_of]
    for place, own in enumerate(runs):
        for run in own:
            holding[run].append(place)
    for place, own in enumerate(runs):
        if not own:
            continue
        part = context.part_of.get(context.rows[place].id)
        others = Counter(
            other for run in own for other in holding[run][:50] if context.part_of.get(context.rows[other].id) != part
        )
        for other, count in others.items():
            if count >= INSIDE * len(own):
                yield (min(place, other), max(place, other))


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)}


CHECK = Check(
    "leak-split",
    "Inputs that stand in two of train, validation and test: the same, near-duplicates, the same but for fillers and "
    "misspellings, "
    "or one inside the other. The same and near-duplicates block.",
    find,
)
