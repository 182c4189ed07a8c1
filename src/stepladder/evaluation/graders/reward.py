"""What a grader of OpenAI's kind looks at, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from stepladder.domain.errors import EvaluationError
from stepladder.domain.prediction import Ungraded


class Trouble(StrEnum):
    """What went wrong, by the names that OpenAI's grader runs report."""

    FORMULA = "formula_parse_error"
    SAMPLE = "sample_parse_error"
    VARIABLE = "invalid_variable_error"
    PYTHON_SERVER = "python_grader_server_error"
    PYTHON_RUN = "python_grader_runtime_error"
    MODEL_SERVER = "model_grader_server_error"
    MODEL_PARSE = "model_grader_parse_error"
    OTHER = "other_error"


@dataclass(frozen=True, slots=True)
class Fault(Ungraded):
    """No grade, and whose fault that is; never the answer's."""

    trouble: Trouble = Trouble.OTHER


@dataclass(frozen=True, slots=True)
class Reward:
    """A number in the grader's own range. `parts`: the numbers it was made of, by name, for a `multi` grader.

    `trouble` is set where the answer itself earned the lowest number by not being what a template reads, such as JSON.
    """

    value: float
    low: float = 0.0
    high: float = 1.0
    parts: Mapping[str, float] = field(default_factory=dict)
    trouble: Trouble | None = None

    @property
    def share(self) -> float:
        """`value` as a share of the range; below 0 or above 1 when a formula or a function left its range."""
        return (self.value - self.low) / (self.high - self.low)


Outcome = Reward | Fault


class GraderRefused(EvaluationError):
    """A grader cannot be used as it is written. `param` is the key at fault, as "calculate_output"."""

    def __init__(self, problem: str, hint: str = "", param: str = "") -> None:
        Exception.__init__(self, problem, hint, param)
        self.problem = problem
        self.hint = hint
        self.param = param


@dataclass(frozen=True, slots=True)
class Subject:
    """One answer with the row it belongs to: the namespaces `sample` and `item` of OpenAI's templates."""

    item: Mapping[str, Any]
    answer: str

    @property
    def sample(self) -> dict[str, Any]:
        """`output_text`, `choices`, and `output_json` when the answer is JSON."""
        found: dict[str, Any] = {
            "output_text": self.answer,
            "choices": [{"message": {"role": "assistant", "content": self.answer}}],
        }
        with suppress(ValueError, RecursionError):
            found["output_json"] = json.loads(self.answer)
        return found

    def with_answer(self, answer: str) -> Subject:
        return replace(self, answer=answer)


class Rewarding(Protocol):
    """A grader of OpenAI's kind. `reward` never raises, whatever the texts hold, but `BudgetError` of a judge."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def variables(self) -> frozenset[str]:
        """What its templates read, as written: "item.reference"."""
        ...

    @property
    def asks_a_model(self) -> bool: ...

    def reward(self, subject: Subject) -> Outcome: ...

    def prepare(self, subjects: Sequence[Subject]) -> None:
        """Ask for what many rewards need at once; graders that ask nobody do nothing."""
        ...

    def template_fault(self, subject: Subject) -> Fault | None:
        """What its templates miss in this row, found without asking anybody."""
        ...
