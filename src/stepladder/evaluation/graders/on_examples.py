"""A grader of OpenAI's kind as a grader of examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.evaluation.graders.base import NO_REFERENCE
from stepladder.evaluation.graders.reward import Fault, Outcome, Reward, Rewarding, Subject, Trouble

ROUNDING = 1e-9
"""How far a formula may leave [0, 1] by adding up rounded shares."""


class OnExamples:
    """Its number as a score: a share of its range or, with a threshold (in units of the range), 1 from there on and else 0.

    A number outside the range leaves the row ungraded: a formula that gives 1.3 is wrong, and cutting it would hide that.
    """

    def __init__(self, inner: Rewarding, *, instruction: str = "", pass_threshold: float | None = None) -> None:
        self.inner = inner
        self.name = inner.name
        self._instruction = instruction
        self._threshold = pass_threshold
        self._needs_reference = any(name.split(".")[1:2] in (["reference"], ["reference_json"]) for name in _items(inner))

    def grade(self, example: Example, answer: str) -> Grade:
        if self._needs_reference and not expected_answer(example).strip():
            return NO_REFERENCE
        return self._score(self.inner.reward(self.subject(example, answer)))

    def prepare(self, examples: Sequence[Example], answers: Sequence[str]) -> None:
        """Let judges be asked for many rows at once."""
        self.inner.prepare([self.subject(example, answer) for example, answer in zip(examples, answers, strict=True)])

    def cannot_judge(self, example: Example) -> Ungraded | None:
        """Why this row can never be graded, found without asking a model: by grading its reference, or by its templates alone."""
        if self._needs_reference and not expected_answer(example).strip():
            return NO_REFERENCE
        if self.inner.asks_a_model:
            return self.inner.template_fault(self.subject(example, expected_answer(example)))
        grade = self.grade(example, expected_answer(example))
        return grade if isinstance(grade, Ungraded) else None

    def subject(self, example: Example, answer: str) -> Subject:
        return Subject(item_of(example, self._instruction), answer)

    def of_part(self, part: Rewarding) -> OnExamples:
        """A part of a `multi` grader, on the same examples."""
        return OnExamples(part, instruction=self._instruction)

    def _score(self, outcome: Outcome) -> Grade:
        if isinstance(outcome, Fault):
            return outcome
        if self._threshold is not None:
            return Score(float(outcome.value >= self._threshold))
        return share_of(outcome)


def share_of(reward: Reward) -> Grade:
    """The score that a reward is, or why it is none."""
    share = reward.share
    if not -ROUNDING <= share <= 1 + ROUNDING:
        reason = f"the grader gives {reward.value:g}, outside {reward.low:g} to {reward.high:g}"
        return Fault(reason, Trouble.OTHER)
    return Score(min(max(share, 0.0), 1.0))


def item_of(example: Example, instruction: str = "") -> dict[str, Any]:
    """The namespace `item`: the row's further columns by their names, then `id`, `instruction`, `input` and `reference`.

    `reference_json` is there when the reference is JSON; `metadata` holds the columns again, for those whose name is taken.
    """
    item: dict[str, Any] = {
        **example.metadata,
        "metadata": dict(example.metadata),
        "id": example.id,
        "instruction": instruction,
        "input": example.input.text,
        "reference": expected_answer(example),
    }
    try:
        item["reference_json"] = json.loads(expected_answer(example))
    except (ValueError, RecursionError):
        item.pop("reference_json", None)
    return item


def _items(inner: Rewarding) -> list[str]:
    return [name for name in inner.variables if name.startswith("item.")]
