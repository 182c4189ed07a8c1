"""Labels that all similar rows contradict."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stepladder.data.checks.answer_fields import WHOLE, answer_fields
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity

NEIGHBOURS = 5
AGREEING = 4  # of them have one other label, and none has the row's own
ALIKE = 0.5  # cosine; less similar rows say nothing
FEWEST = 30
BLOCK = 512


def find(context: CheckContext) -> list[Finding]:
    fields = [field for field in answer_fields(context) if field.path == WHOLE]
    if len(context.rows) < FEWEST or not fields or not (context.task.settings.output.labels or fields[0].is_label):
        return []
    labels = [row.reference.strip() for row in context.rows]
    clusters = np.array([context.clusters[row.id] for row in context.rows])
    marks: list[Mark] = []
    for start in range(0, len(labels), BLOCK):
        cosines = context.vectors[start : start + BLOCK] @ context.vectors.T
        cosines[clusters[start : start + BLOCK][:, None] == clusters[None, :]] = -1.0  # copies are contradictions already
        nearest = np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        for at, others in enumerate(nearest):
            place = start + at
            alike = [labels[other] for other in others if cosines[at, other] >= ALIKE]
            label, count = Counter(alike).most_common(1)[0] if alike else ("", 0)
            if count >= AGREEING and labels[place] not in alike:
                marks.append(context.rows[place].mark(f"{quote(labels[place])}, and the most similar rows are {quote(label)}"))
    return finding(
        "label-doubt",
        Severity.NOTE,
        marks,
        "{rows} have another label than the rows most like them. Some are wrong, some only hard.",
        "Read them, and correct what is wrong.",
    )


CHECK = Check(
    "label-doubt",
    "Rows whose label none of the five most similar rows has (by embedding), and four of them agree on another one.",
    find,
    needs=("embedder",),
)
