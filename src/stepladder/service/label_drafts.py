"""What models say to unlabelled rows: a draft to begin from, and how much the base model contradicts itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from stepladder.data.readers.references import conform
from stepladder.data.unlabelled import Unlabelled
from stepladder.domain.errors import DataError, EngineError, MissingExtra, NotOffered
from stepladder.domain.messages import Example, Message
from stepladder.domain.prediction import Generation, Score
from stepladder.domain.protocols import Decoding, Engine, Grammar, Progress, Prompt
from stepladder.domain.task import Task
from stepladder.evaluation.graders import Grader
from stepladder.techniques.forms import Form, bank_of, own_forms
from stepladder.techniques.shape import grammar_of

DRAFT_TOKENS = 256
"""Longest draft. There are no answers yet to tell how long they are; a draft that is cut is shown, never accepted."""

FORMS_ASKED = 3
"""Prompt forms whose answers are compared; enough to tell a settled answer from a wavering one."""


@dataclass(frozen=True)
class Draft:
    """A model's answer in the project's one form. `problem` says why it cannot be accepted as it is; empty when it can."""

    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Drafter:
    """Asks the base model or a teacher. Both keep what they say (see `engines.cache`), so nothing is asked twice.

    `base` and `teacher` load a model when they are first called, and give the same engine every time.
    """

    task: Task
    base: Callable[[], Engine]
    teacher: Callable[[], Engine]
    grader: Grader
    progress: Progress

    def drafts(self, rows: Sequence[Unlabelled]) -> list[Draft]:
        """A draft for each row, in order."""
        self.progress.start("drafting", len(rows))
        try:
            spoken = self._ask(self.teacher(), self._forms[0], rows)
        finally:
            self.progress.finish()
        return [self._draft(row, one) for row, one in zip(rows, spoken, strict=True)]

    def disagreement(self, rows: Sequence[Unlabelled]) -> list[float]:
        """For each row, 0 when the base says the same under every prompt form, up to 1 when nothing agrees."""
        forms = self._forms
        self.progress.start("looking for rows the base model is unsure of", len(rows) * len(forms))
        try:
            said = [self._ask(self.base(), form, rows) for form in forms]
        finally:
            self.progress.finish()
        return [self._spread(row, [_text(one) for one in answers]) for row, *answers in zip(rows, *said, strict=True)]

    @property
    def _forms(self) -> tuple[Form, ...]:
        return (*own_forms(self.task), *bank_of(self.task, FORMS_ASKED))[:FORMS_ASKED]

    def _ask(self, engine: Engine, form: Form, rows: Sequence[Unlabelled]) -> list[Generation | str]:
        """A generation for each row, or why there is none: one row that is too long must not stop the others."""
        prompts = [form.render(self.task, row.input) for row in rows]
        decoding = Decoding(max_new_tokens=DRAFT_TOKENS, grammar=self._grammar(engine))
        try:
            return self._generate(engine, prompts, decoding)
        except (MissingExtra, NotOffered):  # no grammar here; the draft is checked like any other
            return self._generate(engine, prompts, replace(decoding, grammar=None))
        except EngineError as error:
            if engine.identity.served:
                raise  # the server is at fault, not the row
            if len(rows) > 1:
                return [one for row in rows for one in self._ask(engine, form, [row])]
            return [str(error)]

    def _generate(self, engine: Engine, prompts: Sequence[Prompt], decoding: Decoding) -> list[Generation | str]:
        found = engine.generate(prompts, decoding, on_answer=lambda index, one: self.progress.advance())
        return [one.fault or one for one in found]

    def _grammar(self, engine: Engine) -> Grammar | None:
        grammar = grammar_of(self.task)
        if grammar is None or "grammar" not in engine.can or (grammar.kind == "regex" and "regex" not in engine.can):
            return None
        return grammar

    def _draft(self, row: Unlabelled, spoken: Generation | str) -> Draft:
        if isinstance(spoken, str):
            return Draft("", spoken)
        text = self._as_label(spoken.text)
        if spoken.cut:
            return Draft(text, f"it was cut at {DRAFT_TOKENS} tokens")
        answer = checked_answer(self.task, row, text)
        return Draft(text, answer) if isinstance(answer, str) else Draft(answer.reference.content)

    def _as_label(self, text: str) -> str:
        """A model without a grammar may write a label in other letters, or with a full stop."""
        plain = text.strip().strip(".").casefold()
        return next((label for label in self.task.settings.output.labels if label.casefold() == plain), text)

    def _spread(self, row: Unlabelled, answers: Sequence[str]) -> float:
        pairs = list(combinations(answers, 2))
        return 1.0 - sum(agreement(self.grader, row, *pair) for pair in pairs) / len(pairs) if pairs else 0.0


def checked_answer(task: Task, row: Unlabelled, text: str) -> Example | str:
    """The row with `text` as its reference, in the project's one form; or what is wrong with the text."""
    if not text.strip():
        return "the answer is empty"
    example = Example(row.input, Message("assistant", text, weight=1.0), row.metadata, row.sources, line=1)
    try:
        return conform(task, (example,), {example.id: Path("the answer")})[0]
    except DataError as error:
        return error.problem.removeprefix("the answer ").rstrip(".")


def agreement(grader: Grader, row: Unlabelled, first: str, second: str) -> float:
    """How far two answers say the same by the task's own grader, from 0 to 1; equal texts always do."""
    if first.strip() == second.strip():
        return 1.0
    grade = grader.grade(Example(row.input, Message("assistant", first)), second)
    return grade.value if isinstance(grade, Score) else 0.0


def _text(spoken: Generation | str) -> str:
    return "" if isinstance(spoken, str) else spoken.text
