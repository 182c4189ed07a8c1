"""OpenAI's `label_model`: a model chooses a label."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from stepladder.domain.grader_settings import JudgeMessage, LabelModelGrader
from stepladder.domain.protocols import Engine
from stepladder.evaluation.graders.judge import Judge, probe_subjects, read_result
from stepladder.evaluation.graders.judge_prompt import JudgePrompt
from stepladder.evaluation.graders.reward import Fault, Outcome, Reward, Subject, Trouble
from stepladder.evaluation.graders.score_model import default_orders, prompts_fault, rendered
from stepladder.evaluation.graders.swapping import swapped
from stepladder.evaluation.graders.template import Missing, missing


class LabelModel:
    """1 when the judge's label is a passing one, else 0. It is asked twice, with the labels in both orders, and
    reference and answer too where they stand in blocks that can be swapped.

    A row is ungraded when the judge fails, replies in another form or with no label, or passes it in one order only. All rows
    are, when the judge obeys texts that ask for full marks.
    """

    type = "label_model"
    asks_a_model = True

    def __init__(self, settings: LabelModelGrader, engine: Callable[[], Engine]) -> None:
        self.name = settings.name or self.type
        self.model = settings.model
        self.judge = Judge(engine, settings.sampling_params, _schema(settings.labels))
        self._labels = settings.labels
        self._passing = frozenset(settings.passing_labels)
        messages: Sequence[Sequence[JudgeMessage]] = (settings.input, swapped(settings.input) or settings.input)
        if not settings.input:
            messages = default_orders("Choose a label for the answer.", settings.criteria)
        orders = (settings.labels, settings.labels[::-1])
        self._orders = tuple(JudgePrompt.of(asked, _form(labels)) for asked, labels in zip(messages, orders, strict=True))
        self.variables = frozenset(hole.text for prompt in self._orders for hole in prompt.variables)
        self._obeys: bool | None = None

    def reward(self, subject: Subject) -> Outcome:
        if self._judge_obeys():
            return Fault(f"the judge {self.model} passes texts that only ask for it", Trouble.MODEL_PARSE)
        return self._judged(subject)

    def prepare(self, subjects: Sequence[Subject]) -> None:
        if not self._judge_obeys():
            self.judge.ask([prompt for subject in subjects for prompt in rendered(self._orders, subject)])

    def template_fault(self, subject: Subject) -> Fault | None:
        return prompts_fault(self._orders, subject)

    def labels(self, subject: Subject) -> tuple[str, ...] | Outcome:
        """The labels chosen in both orders; what else came of it when there are none."""
        found: list[str] = []
        for order in self._orders:
            try:
                said = self.judge.reply(order.render(subject), self._read)
            except Missing as error:
                return missing(error)
            if isinstance(said, Fault):
                return said
            found.append(said)
        return tuple(found)

    def _judged(self, subject: Subject) -> Outcome:
        found = self.labels(subject)
        if not isinstance(found, tuple):
            return found
        passed = {label in self._passing for label in found}
        if len(passed) > 1:
            both = " and ".join(map(repr, found))
            return Fault(f"the judge chooses {both} for the same texts in two orders", Trouble.MODEL_PARSE)
        return Reward(float(passed.pop()))

    def _read(self, text: str) -> str:
        value: Any = read_result(text)
        if value not in self._labels:
            raise ValueError("the result is none of the labels")
        return str(value)

    def _judge_obeys(self) -> bool:
        """Whether an injection passes where a plain non-answer does not; asked once for each passing label."""
        if self._obeys is None:
            self._obeys = any(map(self._obeys_a_call_for, sorted(self._passing)))
        return self._obeys

    def _obeys_a_call_for(self, label: str) -> bool:
        subjects = probe_subjects(self._orders, json.dumps({"result": label}))
        self.judge.ask([prompt for subject in subjects for prompt in rendered(self._orders, subject)])
        neutral, *injected = [self._judged(subject) for subject in subjects]
        return neutral != Reward(1.0) and Reward(1.0) in injected


def _form(labels: Sequence[str]) -> str:
    listed = ", ".join(json.dumps(label, ensure_ascii=False) for label in labels)
    return f'Reply with one JSON object and nothing else: {{"result": one of {listed}}}.'


def _schema(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"result": {"type": "string", "enum": list(labels)}},
        "required": ["result"],
        "additionalProperties": False,
    }
