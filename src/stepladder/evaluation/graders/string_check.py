"""OpenAI's `string_check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepladder.domain.grader_settings import StringCheckGrader
from stepladder.evaluation.graders.reward import Fault, Outcome, Reward, Subject
from stepladder.evaluation.graders.template import Missing, Template, missing

_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda given, reference: given == reference,
    "ne": lambda given, reference: given != reference,
    "like": lambda given, reference: reference in given,
    "ilike": lambda given, reference: reference.casefold() in given.casefold(),
}


class StringCheck:
    """1 when the operation holds between both rendered texts, exactly as they are, white space included; else 0."""

    type = "string_check"
    asks_a_model = False

    def __init__(self, settings: StringCheckGrader) -> None:
        self.name = settings.name or self.type
        self._holds = _OPERATIONS[settings.operation]
        self._texts = TwoTexts(settings.input, settings.reference)
        self.variables = self._texts.variables

    def reward(self, subject: Subject) -> Outcome:
        try:
            given, reference = self._texts.render(subject)
        except Missing as error:
            return missing(error)
        return Reward(float(self._holds(given, reference)))

    def prepare(self, subjects: Sequence[Subject]) -> None:
        """Nobody is asked."""

    def template_fault(self, subject: Subject) -> Fault | None:
        return self._texts.fault(subject)


class TwoTexts:
    """The templates `input` and `reference`, which two kinds of graders hold against each other."""

    def __init__(self, given: str, reference: str) -> None:
        self._templates = (Template.parse(given, "input"), Template.parse(reference, "reference"))
        self.variables = frozenset(hole.text for template in self._templates for hole in template.variables)

    def render(self, subject: Subject) -> tuple[str, str]:
        """Raises `Missing` for what the row or the answer lacks."""
        given, reference = self._templates
        return given.render(subject), reference.render(subject)

    def fault(self, subject: Subject) -> Fault | None:
        try:
            self.render(subject)
        except Missing as error:
            outcome = missing(error)
            return outcome if isinstance(outcome, Fault) else None
        return None
