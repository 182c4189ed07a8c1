"""One answer a row where a rung answered with several training seeds: scored by the mean, as the verdict does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stepladder.domain.climb import GradedRow


def averaged(rows: Sequence[GradedRow], *, best: bool = False) -> dict[str, GradedRow]:
    """By row id, the mean score over the seeds that have one, on the answer of the seed that scored lowest (`best`: highest)."""
    by_id: dict[str, list[GradedRow]] = {}
    for row in rows:
        by_id.setdefault(row.id, []).append(row)
    return {id: _averaged(own, best) for id, own in by_id.items()}


def _averaged(rows: Sequence[GradedRow], best: bool) -> GradedRow:
    scored = [(row.score, row) for row in rows if row.score is not None]
    if not scored:
        return rows[0]
    shown = (max if best else min)(scored, key=lambda pair: pair[0])[1]
    return replace(shown, score=float(np.mean([score for score, _ in scored])))
