"""What the labelling has come to: whose answers they are, how far a person agrees with themselves, and whether more would pay."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepladder.data.unlabelled import Unlabelled
from stepladder.domain.verdict import Interval
from stepladder.evaluation.graders import build_graders
from stepladder.evaluation.planning import more_rows_for
from stepladder.evaluation.statistics import mean_interval, wilson
from stepladder.service.check import brief_lines, run_on
from stepladder.service.figures import counted, interval_text, rate_text, seconds_text
from stepladder.service.label import Labelling
from stepladder.service.label_drafts import agreement
from stepladder.service.label_store import LabelStore
from stepladder.service.plan import power_lines
from stepladder.service.task_data import load_task_data
from stepladder.service.worlds import build_worlds

FEWEST_ROWS = 10  # for a climb


@dataclass(frozen=True)
class Agreement:
    """A person against themselves: the label ceiling. No model can be shown to be better than its labels.

    `exact`: share of rows answered the same both times, with its Wilson interval. `graded`: mean score by the task's own
    grader (field F1 for JSON, chrF for text); None for labels, where it is the same as `exact`.
    """

    exact: Interval
    graded: Interval | None
    grader: str
    differing: tuple[str, ...]  # ids answered differently


@dataclass(frozen=True)
class LabelSummary:
    """The state of a labelling, for people (`lines`) and as JSON."""

    file: str
    labelled: int  # rows that a person has answered or accepted
    wanted: int
    sources: dict[str, int]  # rows by `source`; "given" = rows that stood in the file without one
    skipped: int
    left: int  # questions without an answer
    agreement: Agreement | None
    test_rows: int | None  # None below ten rows
    lines: tuple[str, ...] = field(default=())


def summarise(labelling: Labelling) -> LabelSummary:
    """Read the task as a climb would, and say what its rows are good for.

    Raises:
        DataError: The examples cannot be used as they stand.
    """
    store, task = labelling.store, labelling.task
    sources: dict[str, int] = {}
    for example in store.examples.values():
        source = example.metadata.get("source", "given")
        sources[source] = sources.get(source, 0) + 1
    labelled = len(store.seen)
    agreed = self_agreement(store)
    data = load_task_data(task, labelling.embedder, write=False) if labelled >= FEWEST_ROWS else None
    test_rows = cross_fit = None
    if data is not None:
        worlds = build_worlds(data.task, data.examples, data.splits, folds=5)
        test_rows, cross_fit = sum(len(world.test) for world in worlds), len(worlds) > 1
    lines = [
        _count_line(labelled, labelling.count, sources),
        *(data.notes if data is not None else ()),
        *(brief_lines(run_on(task, labelling.embedder)) if data is not None else ()),
        *_agreement_lines(agreed, task.settings.target),
        *_worth_lines(labelling, test_rows, bool(cross_fit)),
    ]
    return LabelSummary(
        file=str(store.path),
        labelled=labelled,
        wanted=labelling.count,
        sources=sources,
        skipped=len(store.skipped),
        left=len(labelling.waiting.keys() - store.skipped),
        agreement=agreed,
        test_rows=test_rows,
        lines=tuple(lines),
    )


def self_agreement(store: LabelStore) -> Agreement | None:
    """First answers against blind second ones; None before any second answer."""
    pairs = [(store.examples[name], second) for name, second in store.again.items()]
    if not pairs:
        return None
    grader = build_graders(store.task)[0]
    same = [example.reference.content == second for example, second in pairs]
    low, high = wilson(sum(same), len(same))
    exact = Interval(sum(same) / len(same), low, high, method="wilson", items=len(same))
    graded = None
    if grader.name != "labels":
        scores = [agreement(grader, Unlabelled(example.input), example.reference.content, second) for example, second in pairs]
        graded = mean_interval(scores)
    differing = tuple(example.id for (example, _), equal in zip(pairs, same, strict=True) if not equal)
    return Agreement(exact, graded, grader.name, differing)


def _count_line(labelled: int, wanted: int, sources: dict[str, int]) -> str:
    words = {
        "human": "answered by you",
        "accepted": "accepted drafts",
        "teacher": "by the teacher alone (they only teach)",
        "given": "were there before",
    }
    kinds = ", ".join(f"{count} {words.get(source, source)}" for source, count in sources.items())
    return f"{labelled} of {wanted} rows are labelled{f': {kinds}' if kinds else ''}."


def _agreement_lines(agreed: Agreement | None, target: float | None) -> Iterator[str]:
    if agreed is None:
        return
    rows = agreed.exact.items
    same = rows - len(agreed.differing)
    yield f"Label ceiling: you gave the same answer twice on {same} of {rows} rows, {interval_text(agreed.exact)}."
    if agreed.graded is not None:
        yield f"By {agreed.grader}, your two answers agree to {interval_text(agreed.graded)}."
    best = agreed.graded or agreed.exact
    if target is not None and target > best.high:
        yield f"The target of {rate_text(target)} lies above what you agree with yourself on: no model can be shown to reach it."
    if agreed.differing:
        shown = ", ".join(agreed.differing[:5]) + (" …" if len(agreed.differing) > 5 else "")
        yield f"Answered differently: {shown}. A clearer instruction may help more than more rows."


def _worth_lines(labelling: Labelling, test_rows: int | None, cross_fit: bool) -> Iterator[str]:
    """Whether more labels would pay, from what the test rows of a climb could show."""
    task, labelled = labelling.task, len(labelling.store.seen)
    if test_rows is None:
        yield f"A climb needs {FEWEST_ROWS} rows; {counted(FEWEST_ROWS - labelled, 'more row')} to go."
        return
    yield from power_lines(task.settings, test_rows, cross_fit=cross_fit)
    spent = [entry.seconds for entry in labelling.store.entries if entry.did == "label"]
    more = more_rows_for(test_rows, cross_fit=cross_fit)
    if spent and more:
        pace = statistics.median(spent)
        yield f"At your pace, {seconds_text(pace)} a row, so many take about {seconds_text(pace * more)}."
    yield f"Next: stepladder climb {task.folder}"
