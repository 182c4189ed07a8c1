"""Model judges of a task: allowed before they are asked, held against people before they decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stepladder import files
from stepladder.domain.grader_settings import ModelGraderSettings, MultiGrader, judges_in
from stepladder.domain.messages import Example
from stepladder.domain.task import Task
from stepladder.evaluation.graders import Grader
from stepladder.evaluation.graders.calibration import HumanGrade, agreement, lacking, read_human_grades
from stepladder.evaluation.graders.multi import Multi
from stepladder.evaluation.graders.on_examples import OnExamples
from stepladder.evaluation.graders.score_model import ScoreModel
from stepladder.models.catalog import is_remote
from stepladder.service import wiring
from stepladder.storage.run_folder import RunFolder

WEAK = 0.6
"""Agreement below which a reader is told to take care."""


def check_judges(task: Task) -> None:
    """Refuse, before anything is asked, what may not be asked and what nobody has checked.

    Raises:
        PrivacyError: A judge is hosted and the data may not leave.
        DataError: A hosted judge has no prices; a judge has fewer than 30 answers graded by people, or only right or only wrong
            ones, and the task does not accept that; or its file is broken.
    """
    for place, settings in _placed_judges(task):
        if is_remote(settings.model):
            wiring.check_hosted(settings.model, task)
        lack = lacking(_human_grades(task, settings), settings)
        if lack and not settings.accept_uncalibrated:
            raise task.fault(
                ("graders", place),
                f"the judge '{_name(settings)}' has {lack}.",
                "Name a file of them in `human_grades`, or set `accept_uncalibrated = true`; every report will then say so.",
            )


def plan_remark(task: Task) -> str:
    """What a plan cannot count: the questions to model judges; "" without any."""
    models = dict.fromkeys(settings.model for settings in _judges(task))
    if not models:
        return ""
    return f"Every answer is also put to {', '.join(models)} as judge, twice as a rule: that time and money is not in this plan."


def judge_remarks(task: Task, graders: tuple[Grader, ...], examples: tuple[Example, ...]) -> tuple[str, ...]:
    """One line a judge: how far it agrees with people, or that nobody knows. Asks the judge about what people have graded.

    Raises:
        DataError: A judge agrees with people no better than chance, and the task does not accept that.
    """
    by_id = {example.id: example for example in examples}
    lines = []
    for place, (grader, settings) in enumerate(zip(graders, task.settings.decided_graders(), strict=True)):
        for judge, part in _built_judges(grader, settings):
            lines.append(_remark(task, place, judge, part, by_id))
    return tuple(lines)


def keep_judgements(task: Task, run: RunFolder, *, cache: bool = True) -> None:
    """Copy what the judges said into the run, so that its grades can be reckoned again wherever it lies.

    Args:
        cache: Whether it is kept for other climbs, too.
    """
    if not any(True for _ in _judges(task)):
        return
    said = wiring.judgements_path(task, cache=cache)
    for name, source in ((wiring.JUDGEMENTS, said), (wiring.JUDGES, task.folder / "runs" / wiring.JUDGES)):
        if source.is_file():
            files.write_bytes(run.path / name, source.read_bytes())
    if not cache:
        said.unlink(missing_ok=True)


def _remark(task: Task, place: int, judge: OnExamples, settings: ModelGraderSettings, examples: Mapping[str, Example]) -> str:
    who = f"Judge '{_name(settings)}' ({settings.model})"
    if settings.sampling_params.reasoning_effort is not None:
        who += ", asked without its `reasoning_effort`"
    if isinstance(judge.inner, ScoreModel) and judge.inner.one_order:
        who += ", asked in one order"
    grades = _human_grades(task, settings)
    if lack := lacking(grades, settings):
        return f"{who} is uncalibrated: it has {lack}, to know what its scores mean."
    path = task.path(settings.human_grades or "")
    found = agreement(judge, settings, grades, examples, path)
    if not found.above_chance and settings.accept_uncalibrated:
        return f"{who} is uncalibrated: it agrees with people no better than chance. {found}."
    if not found.above_chance:
        raise task.fault(
            ("graders", place),
            f"the judge '{_name(settings)}' agrees with people no better than chance. {found}.",
            "Choose another `model`, or say in `criteria` what to look at; `accept_uncalibrated = true` takes it all the same.",
        )
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
