"""Taking whole clusters so that every kind of row keeps its share: the arithmetic of splitting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.files import hash_text


@dataclass(frozen=True, slots=True)
class Group:
    """A near-duplicate cluster as splitting sees it: its rows, and the kind of most of them."""

    ids: tuple[str, ...]
    stratum: str

    @property
    def size(self) -> int:
        return len(self.ids)


def strata(task: Task, examples: Sequence[Example]) -> dict[str, str]:
    """The kind of each row: the tools called; the label; the enum field with the fewest classes; else short, middling or long."""
    if wants_tool_calls(examples):
        return {example.id: _called(example) for example in examples}
    if task.settings.output.labels:
        return {example.id: example.reference.content for example in examples}
    if (schema := task.output_schema) is not None and (by_field := _enum_values(schema, examples)) is not None:
        return by_field
    ordered = sorted(examples, key=lambda example: (len(example.reference.content), example.id))
    return {example.id: f"length {3 * rank // len(ordered)}" for rank, example in enumerate(ordered)}


def _called(example: Example) -> str:
    return " ".join(sorted(call.name for call in example.reference.tool_calls)) or "no call"


def _enum_values(schema: Mapping[str, Any], examples: Sequence[Example]) -> dict[str, str] | None:
    values = {example.id: _object(example.reference.content) for example in examples}
    best: dict[str, str] | None = None
    for field, rules in schema.get("properties", {}).items():
        if not isinstance(rules, Mapping) or "enum" not in rules:
            continue
        found = {name: str(value.get(field)) for name, value in values.items()}
        classes = len(set(found.values()))
        if classes >= 2 and (best is None or classes < len(set(best.values()))):
            best = found
    return best


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = parse_json(text)
    except JsonFault:
        return {}
    return value if isinstance(value, dict) else {}


def build_groups(ids: Iterable[str], cluster_of: Mapping[str, int], stratum_of: Mapping[str, str], seed: int) -> list[Group]:
    """The clusters of `ids`, in an order that only the seed and the ids decide, not the file's."""
    members: dict[int, list[str]] = defaultdict(list)
    for name in ids:
        members[cluster_of[name]].append(name)
    groups = []
    for own in members.values():
        counts = Counter(stratum_of[name] for name in own)
        stratum = min(counts, key=lambda kind: (-counts[kind], kind))
        groups.append(Group(tuple(sorted(own)), stratum))
    return sorted(groups, key=lambda group: hash_text(f"{seed}:{'|'.join(group.ids)}"))


def take(groups: Sequence[Group], rows: int) -> tuple[list[Group], list[Group]]:
    """Groups with about `rows` rows in all (never more), every stratum with its share, and the groups left over."""
    quota = _shares(groups, rows)
    taken: list[Group] = []
    left: list[Group] = []
    total = 0
    for group in groups:
        if group.size <= quota[group.stratum]:
            quota[group.stratum] -= group.size
            total += group.size
            taken.append(group)
        else:
            left.append(group)
    rest = []
    for group in left:  # what large clusters left open is filled with any that fit
        if total + group.size <= rows:
            total += group.size
            taken.append(group)
        else:
            rest.append(group)
    return taken, rest


def _shares(groups: Sequence[Group], rows: int) -> dict[str, int]:
    """Rows a stratum is due, by largest remainders."""
    sizes: Counter[str] = Counter()
    for group in groups:
        sizes[group.stratum] += group.size
    whole = sum(sizes.values())
    rows = min(rows, whole)
    due = {stratum: divmod(rows * size, whole) for stratum, size in sizes.items()}
    shares = {stratum: quotient for stratum, (quotient, _) in due.items()}
    open_rows = rows - sum(shares.values())
    for stratum in sorted(due, key=lambda kind: (-due[kind][1], kind))[:open_rows]:
        shares[stratum] += 1
    return shares


def deal_folds(groups: Sequence[Group], folds: int, given: Mapping[str, int]) -> dict[str, int]:
    """A fold for every row: rows of `given` stay, whole clusters go where their stratum, then any row, is fewest.

    A cluster whose rows were given different folds is joined in the one that holds most of them.
    """
    fold_of: dict[str, int] = {}
    totals = [0] * folds
    kinds: Counter[tuple[str, int]] = Counter()

    def put(group: Group, fold: int) -> None:
        fold_of.update(dict.fromkeys(group.ids, fold))
        totals[fold] += group.size
        kinds[group.stratum, fold] += group.size

    fresh = []
    for group in groups:
        before = Counter(given[name] for name in group.ids if name in given)
        if before:
            put(group, min(before, key=lambda fold: (-before[fold], fold)))
        else:
            fresh.append(group)
    for group in sorted(fresh, key=lambda group: (group.stratum, -group.size)):
        put(group, min(range(folds), key=lambda fold: (kinds[group.stratum, fold], totals[fold], fold)))
    return fold_of
