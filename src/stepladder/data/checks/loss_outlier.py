"""Answers the base model finds far more surprising than the others."""

from __future__ import annotations

import numpy as np

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity

FEWEST = 20
SCORE = 4.0  # robust standard deviations above the median


def find(context: CheckContext) -> list[Finding]:
    assert context.losses is not None
    rows = [row for row in context.rows if row.id in context.losses and context.losses[row.id].tokens]
    if len(rows) < FEWEST:
        return []
    nll = np.array([-context.losses[row.id].log_probability / context.losses[row.id].tokens for row in rows])
    middle = float(np.median(nll))
    spread = max(0.1, 1.4826 * float(np.median(np.abs(nll - middle))))
    order = np.argsort(-nll)
    marks = [
        rows[place].mark(f"{nll[place]:.1f} nats a token, typically {middle:.1f}: {quote(rows[place].reference)}")
        for place in order
        if nll[place] > middle + SCORE * spread
    ]
    return finding(
        "loss-outlier",
        Severity.NOTE,
        marks,
        "The base model finds the answers of {rows} far less likely than the others. Some are wrong, some only hard: "
        "the model cannot tell.",
        "Read them. Correct what is wrong; keep what is hard. Stepladder never drops a row for its loss.",
    )


CHECK = Check(
    "loss-outlier",
    "Answers whose loss per token under the base model is more than four robust standard deviations above the median. "
    "To be read, never "
    "dropped for that alone.",
    find,
    needs=("losses",),
)
