"""Model judges of a task: allowed before they are asked, held against people before they decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stepladder import files
from stepladder.domain.grader_settings import ModelGraderSettings, MultiGrader, judges_in
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.evaluation.graders import Grader
from stepladder.evaluation.graders.calibration import LEAST_HUMAN_GRADES, HumanGrade, agreement, read_human_grades
from stepladder.evaluation.graders.multi import Multi
from stepladder.evaluation.graders.on_examples import OnExamples
from stepladder.models.catalog import is_remote
from stepladder.service import wiring
from stepladder.storage.run_folder import RunFolder

WEAK = 0.6
"""Agreement below which a reader is told to take care."""


def check_judges(task: Task) -> None:
    """Refuse, before anything is asked, what may not be asked and what nobody has checked.

    Raises:
        PrivacyError: A judge is hosted and the data may not leave.
        DataError: A hosted judge has no prices; a judge has fewer than 30 human grades, and the task does not accept that; or its
            file is broken.
    """
    for place, settings in _placed_judges(task):
        if is_remote(settings.model):
            wiring.check_hosted(settings.model, task)
        found = len(_human_grades(task, settings))
        if found < LEAST_HUMAN_GRADES and not settings.accept_uncalibrated:
            raise task.fault(
                ("graders", place),
                f"the judge '{_name(settings)}' has {found} human grades and needs {LEAST_HUMAN_GRADES}.",
                "Name a file of them in `human_grades`, or set `accept_uncalibrated = true`; every report will then say so.",
            )


def plan_remark(task: Task) -> str:
    """What a plan cannot count: the questions to model judges; "" without any."""
    models = dict.fromkeys(settings.model for settings in _judges(task))
    if not models:
        return ""
    return f"Every answer is also put to {', '.join(models)} as judge, twice as a rule: that time and money is not in this plan."


def judge_remarks(task: Task, graders: tuple[Grader, ...], examples: tuple[Example, ...]) -> tuple[str, ...]:
    """One line a judge: how far it agrees with people, or that nobody knows. Asks the judge about what people have graded."""
    by_id = {example.id: example for example in examples}
    lines = []
    for grader, settings in zip(graders, task.settings.decided_graders(), strict=True):
        for judge, part in _built_judges(grader, settings):
            lines.append(_remark(task, judge, part, by_id))
    return tuple(lines)


def keep_judgements(task: Task, run: RunFolder) -> None:
    """Copy what the judges said into the run, so that its grades can be reckoned again wherever it lies."""
    if not any(True for _ in _judges(task)):
        return
    for name in (wiring.JUDGEMENTS, wiring.JUDGES):
        source = task.folder / "runs" / name
        if source.is_file():
            files.write_bytes(run.path / name, source.read_bytes())


def _remark(task: Task, judge: OnExamples, settings: ModelGraderSettings, examples: Mapping[str, Example]) -> str:
    who = f"Judge '{_name(settings)}' ({settings.model})"
    if settings.sampling_params.reasoning_effort is not None:
        who += ", asked without its `reasoning_effort`"
    grades = _human_grades(task, settings)
    if len(grades) < LEAST_HUMAN_GRADES:
        return f"{who} is uncalibrated: {len(grades)} human grades, {LEAST_HUMAN_GRADES} are needed to know what its scores mean."
    path = task.path(settings.human_grades or "")
    found = agreement(judge, settings, grades, examples, path)
    weak = found.value is None or found.value < WEAK
    return f"{who}: {found}." + (" Read its scores with care." if weak else "")


def _human_grades(task: Task, settings: ModelGraderSettings) -> tuple[HumanGrade, ...]:
    return () if settings.human_grades is None else read_human_grades(task.path(settings.human_grades), settings)


def _judges(task: Task) -> Iterator[ModelGraderSettings]:
    return (settings for _, settings in _placed_judges(task))


def _placed_judges(task: Task) -> Iterator[tuple[int, ModelGraderSettings]]:
    """Each judge behind its grader's place in task.toml."""
    for place, settings in enumerate(task.settings.decided_graders()):
        for judge in judges_in(settings):
            yield place, judge


def _built_judges(grader: Grader, settings: object) -> Iterator[tuple[OnExamples, ModelGraderSettings]]:
    """Each judge among a grader's parts with its settings."""
    if not isinstance(grader, OnExamples):
        return
    if isinstance(settings, MultiGrader) and isinstance(grader.inner, Multi):
        for name, part in settings.graders.items():
            for judge in judges_in(part):
                yield grader.of_part(grader.inner.parts[name]), judge
        return
    for judge in judges_in(settings):
        yield grader, judge


def _name(settings: ModelGraderSettings) -> str:
    return settings.name or settings.type
