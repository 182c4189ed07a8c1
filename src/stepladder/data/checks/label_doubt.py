"""Labels that the rows like them contradict: the nearest ones, or all rows of another label taken together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from stepladder.data.checks.answer_fields import WHOLE, answer_fields
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity

NEIGHBOURS = 5
AGREEING = 4  # of them have one other label, and none has the row's own
ALIKE = 0.5  # cosine; less similar rows say nothing
NEARER = 0.1  # cosine by which a row is nearer to the middle of another label's rows than to the middle of its own label's
FEWEST_OF_A_LABEL = 3
FEWEST = 30
BLOCK = 512


def find(context: CheckContext) -> list[Finding]:
    fields = [field for field in answer_fields(context) if field.path == WHOLE]
    if len(context.rows) < FEWEST or not fields or not (context.task.settings.output.labels or fields[0].is_label):
        return []
    labels = [row.reference.strip() for row in context.rows]
    meant = {**_nearer_to_another(context, labels), **_contradicted_by_neighbours(context, labels)}
    marks = [
        context.rows[place].mark(f"{quote(labels[place])}, and the most similar rows are {quote(label)}")
        for place, label in sorted(meant.items())
    ]
    return finding(
        "label-doubt",
        Severity.NOTE,
        marks,
        "{rows} have another label than the rows most like them. Some are wrong, some only hard.",
        "Read them, and correct what is wrong.",
    )


def _contradicted_by_neighbours(context: CheckContext, labels: Sequence[str]) -> dict[int, str]:
    """The label of the nearest rows, by place, where none of them has the row's own; copies are contradictions already."""
    clusters = np.array([context.clusters[row.id] for row in context.rows])
    found = {}
    for start in range(0, len(labels), BLOCK):
        cosines = context.vectors[start : start + BLOCK] @ context.vectors.T
        cosines[clusters[start : start + BLOCK][:, None] == clusters[None, :]] = -1.0
        nearest = np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        for at, others in enumerate(nearest):
            alike = [labels[other] for other in others if cosines[at, other] >= ALIKE]
            label, count = Counter(alike).most_common(1)[0] if alike else ("", 0)
            if count >= AGREEING and labels[start + at] not in alike:
                found[start + at] = label
    return found


def _nearer_to_another(context: CheckContext, labels: Sequence[str]) -> dict[int, str]:
    """The label whose rows' middle is nearer to a row than that of its own label's other rows, by place."""
    names = sorted(name for name, count in Counter(labels).items() if count >= FEWEST_OF_A_LABEL)
    if len(names) < 2:
        return {}
    column = {name: number for number, name in enumerate(names)}
    vectors = context.vectors
    sums = np.stack([vectors[[label == name for label in labels]].sum(axis=0) for name in names])
    middles = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    found = {}
    for place, label in enumerate(labels):
        if label not in column:
            continue
        cosines = middles @ vectors[place]
        rest = sums[column[label]] - vectors[place]
        own = float(rest @ vectors[place]) / max(float(np.linalg.norm(rest)), 1e-9)
        cosines[column[label]] = -1.0
        best = int(cosines.argmax())
        if cosines[best] >= own + NEARER:
            found[place] = names[best]
    return found


CHECK = Check(
    "label-doubt",
    "Rows that are nearer to the middle of another label's rows than to their own label's (by embedding), and rows whose label "
    "none of the five most similar rows has while four of them agree on another one.",
    find,
    needs=("embedder",),
)
