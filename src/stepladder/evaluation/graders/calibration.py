"""How far a model judge agrees with people: a judge nobody has checked decides nothing unasked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from stepladder.domain.errors import DataError
from stepladder.domain.grader_settings import LabelModelGrader, ModelGraderSettings
from stepladder.domain.messages import Example
from stepladder.evaluation.graders.on_examples import OnExamples
from stepladder.evaluation.graders.reward import Reward
from stepladder.files import read_lines

LEAST_HUMAN_GRADES = 30
"""Different answers."""
FEWEST_OF_A_KIND = 3
"""Right answers and wrong ones among them: how well a judge tells the two apart cannot be seen on one kind alone."""
DRAWS = 1_000

Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], float | None]


@dataclass(frozen=True, slots=True)
class HumanGrade:
    """What a person thinks of one answer to one example, as a share of the judge's range: 1 is best, or passed."""

    id: str
    answer: str
    share: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Judge against people. `value` is in [-1, 1], None where it cannot be measured; `low` and `high` a 95 % interval.

    `ungraded` rows got no grade from the judge, the first for the reason `fault`, and count in nothing else.
    """

    measure: str  # "Cohen's kappa" (passed or not) or "Spearman's correlation"
    rows: int
    ungraded: int
    value: float | None
    low: float | None = None
    high: float | None = None
    fault: str = ""

    @property
    def above_chance(self) -> bool:
        return self.value is not None and self.value > 0

    def __str__(self) -> str:
        if not self.rows and self.fault:
            return (
                f"{self.measure} with people cannot be measured: the judge graded none of {self.ungraded} answers ({self.fault})"
            )
        left = f", {self.ungraded} more without a grade from the judge" if self.ungraded else ""
        if self.value is None or self.low is None or self.high is None:
            return f"{self.measure} with people cannot be measured on {self.rows} answers{left}: one side always says the same"
        return (
            f"{self.measure} with people is {self.value:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}) "
            f"on {self.rows} answers{left}"
        )


def lacking(grades: Sequence[HumanGrade], settings: ModelGraderSettings) -> str:
    """What people's grades have too few of to tell a judge by; "" when they suffice. An answer graded again counts once."""
    shares = {(grade.id, grade.answer): grade.share for grade in grades}
    if len(shares) < LEAST_HUMAN_GRADES:
        again = f" ({len(grades) - len(shares)} more grade the same answers again)" if len(shares) < len(grades) else ""
        return f"{len(shares)} human grades{again} and needs {LEAST_HUMAN_GRADES}"
    right = sum(share >= _right_from(settings) for share in shares.values())
    wrong = len(shares) - right
    if min(right, wrong) < FEWEST_OF_A_KIND:
        return f"human grades of {right} right and {wrong} wrong answers and needs {FEWEST_OF_A_KIND} of each"
    return ""


def _right_from(settings: ModelGraderSettings) -> float:
    """Share of the range from which a person's grade counts as right: the threshold, else the middle."""
    threshold = getattr(settings, "pass_threshold", None)
    if threshold is None or isinstance(settings, LabelModelGrader):
        return 0.5
    low, high = settings.range
    return float((threshold - low) / (high - low))


def read_human_grades(path: Path, settings: ModelGraderSettings) -> tuple[HumanGrade, ...]:
    """The rows of a file of human grades: `id` of an example, `answer`, and `score` in the judge's range or `label`.

    Raises:
        DataError: The file is missing, or a line is none of this; named.
    """
    if not path.is_file():
        raise DataError(path, None, "the file of human grades is missing.", "Correct `human_grades`, or add the file.")
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            found.append(_human_grade(line, settings, path, number))
    return tuple(found)


def agreement(
    judge: OnExamples, settings: ModelGraderSettings, grades: Sequence[HumanGrade], examples: Mapping[str, Example], path: Path
) -> Agreement:
    """Ask the judge for what people have graded, and compare. Passing or not for labels, ranks for numbers.

    Raises:
        DataError: A grade names an example that is not there.
    """
    unknown = next((grade.id for grade in grades if grade.id not in examples), None)
    if unknown is not None:
        raise DataError(path, None, f"it grades '{unknown}', which is no example's id.", "Correct the id, or drop the line.")
    judge.prepare([examples[grade.id] for grade in grades], [grade.answer for grade in grades])
    pairs, fault = [], ""
    for grade in grades:
        outcome = judge.inner.reward(judge.subject(examples[grade.id], grade.answer))
        if isinstance(outcome, Reward):
            pairs.append((grade.share, outcome.share))
        else:
            fault = fault or outcome.reason
    measure, statistic = ("Spearman's correlation", spearman)
    if isinstance(settings, LabelModelGrader):
        measure, statistic = ("Cohen's kappa", kappa)
    found = _measured(measure, statistic, np.array(pairs, dtype=np.float64).reshape(-1, 2), len(grades) - len(pairs))
    return replace(found, fault=fault)


def kappa(people: NDArray[np.float64], judge: NDArray[np.float64]) -> float | None:
    """Agreement beyond chance of two yes-or-no judgements (0 or 1); None where chance alone agrees always.

    Source:
        Cohen (1960), A Coefficient of Agreement for Nominal Scales.
    """
    if not len(people):
        return None
    observed = float((people == judge).mean())
    chance = float(people.mean() * judge.mean() + (1 - people.mean()) * (1 - judge.mean()))
    return None if chance == 1 else (observed - chance) / (1 - chance)


def spearman(people: NDArray[np.float64], judge: NDArray[np.float64]) -> float | None:
    """Correlation of ranks; None where one side always says the same."""
    if len(people) < 2 or np.ptp(people) == 0 or np.ptp(judge) == 0:
        return None
    return float(spearmanr(people, judge).statistic)


def _measured(measure: str, statistic: Statistic, pairs: NDArray[np.float64], ungraded: int) -> Agreement:
    """With a percentile bootstrap over the answers; draws in which one side always says the same are left out."""
    value = statistic(pairs[:, 0], pairs[:, 1])
    if value is None:
        return Agreement(measure, len(pairs), ungraded, None)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(pairs), size=(DRAWS, len(pairs)))
    drawn = [statistic(pairs[pick, 0], pairs[pick, 1]) for pick in picks]
    low, high = np.quantile([one for one in drawn if one is not None], [0.025, 0.975])
    return Agreement(measure, len(pairs), ungraded, value, float(low), float(high))


def _human_grade(line: str, settings: ModelGraderSettings, path: Path, number: int) -> HumanGrade:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise DataError(path, number, "not JSON.", "Each line is one JSON object.") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("answer"), str):
        raise DataError(path, number, "'id' and 'answer' are texts that a human grade needs.", "Add them.")
    share = _label_share(row, settings) if isinstance(settings, LabelModelGrader) else _score_share(row, settings.range)
    if share is None:
        wanted = (
            "'label', one of the judge's labels" if isinstance(settings, LabelModelGrader) else "'score', in the judge's range"
        )
        raise DataError(path, number, f"a human grade for this judge needs {wanted}.", "Correct the line.")
    return HumanGrade(row["id"], row["answer"], share)


def _label_share(row: Mapping[str, Any], settings: LabelModelGrader) -> float | None:
    """1 for a passing label; `score` 1 and 0 say the same without naming a label."""
    label, score = row.get("label"), row.get("score")
    if label is None:
        return float(score) if score in (0, 1) else None
    return float(label in settings.passing_labels) if label in settings.labels else None


def _score_share(row: Mapping[str, Any], bounds: tuple[float, float]) -> float | None:
    score = row.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return None
    share = (score - bounds[0]) / (bounds[1] - bounds[0])
    return share if 0 <= share <= 1 else None
