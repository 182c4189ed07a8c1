"""OpenAI's `multi`: several graders, joined by a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stepladder.evaluation.graders.formula import Formula
from stepladder.evaluation.graders.reward import Fault, GraderRefused, Outcome, Reward, Rewarding, Subject, Trouble


class Multi:
    """The formula over the numbers of its parts, each in its own range; one part that cannot judge leaves all ungraded."""

    type = "multi"

    def __init__(self, name: str | None, parts: Mapping[str, Rewarding], calculate_output: str) -> None:
        self.name = name or self.type
        self._formula = Formula.parse(calculate_output)
        unknown = sorted(self._formula.names - parts.keys())
        if unknown:
            raise GraderRefused(
                f"the formula uses '{unknown[0]}', which is no grader here.",
                f"There are: {', '.join(parts)}.",
                "calculate_output",
            )
        self.parts = parts
        self.variables = frozenset(hole for part in parts.values() for hole in part.variables)
        self.asks_a_model = any(part.asks_a_model for part in parts.values())

    def reward(self, subject: Subject) -> Outcome:
        found: dict[str, float] = {}
        trouble = None
        for name, part in self.parts.items():
            outcome = part.reward(subject)
            if isinstance(outcome, Fault):
                return Fault(f"{name}: {outcome.reason}", outcome.trouble)
            found[name] = outcome.value
            trouble = trouble or outcome.trouble
        try:
            value = self._formula.value(found)
        except (ArithmeticError, ValueError) as error:
            return Fault(f"the formula gives no number: {error}", Trouble.OTHER)
        return Reward(value, parts=found, trouble=trouble)

    def prepare(self, subjects: Sequence[Subject]) -> None:
        for part in self.parts.values():
            part.prepare(subjects)

    def template_fault(self, subject: Subject) -> Fault | None:
        for part in self.parts.values():
            fault = part.template_fault(subject)
            if fault is not None:
                return fault
        return None
