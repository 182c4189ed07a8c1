"""Texts much longer or shorter than the rest."""

from __future__ import annotations

import numpy as np

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Severity

FEWEST = 20
SCORE = 4.0  # robust standard deviations of the logarithm of the length
LEAST_SPREAD = 0.2
TIMES = 3.0  # a long text has at least so many times the length of the 95th percentile of the others
FULL = 40  # characters; where some texts are shorter than this, a short one is no surprise
SHORT = 5.0  # a short one at most a fifth of the 5th percentile


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    if len(context.rows) < FEWEST:
        return []
    for part, lengths in (
        ("input", [len(row.input_text) for row in context.rows]),
        ("answer", [len(row.reference) for row in context.rows]),
    ):
        for place in outliers(np.array(lengths, dtype=np.float64)):
            typical = f"{np.median(lengths):,.0f}"
            marks.append(context.rows[place].mark(f"the {part} has {lengths[place]:,} characters, typically {typical}"))
    return finding(
        "length",
        Severity.WARN,
        marks,
        "{rows} have a text of a length far from the others.",
        "See whether two rows ran together, a document was pasted whole, or a text was lost.",
    )


def outliers(lengths: np.ndarray) -> list[int]:
    """Places of lengths that are far off on the scale of logarithms, and far off in plain characters too."""
    logs = np.log1p(lengths)
    middle = np.median(logs)
    spread = max(LEAST_SPREAD, 1.4826 * float(np.median(np.abs(logs - middle))))
    scores = (logs - middle) / spread
    high, low = np.quantile(lengths, 0.9), np.quantile(lengths, 0.1)
    long = (scores > SCORE) & (lengths > TIMES * high)
    long |= (lengths > 8 * high) & (lengths > 200)
    short = (scores < -SCORE) & (lengths * SHORT < low) & (low >= FULL)
    return [int(place) for place in np.nonzero(long | short)[0]]


CHECK = Check(
    "length",
    "Inputs or answers whose length is more than four robust standard deviations from the median (on a logarithmic "
    "scale) and three "
    "times the ninetieth percentile, or a fifth of the tenth.",
    find,
)
