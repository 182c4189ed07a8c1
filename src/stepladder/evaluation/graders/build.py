"""From settings to graders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.errors import DataError, MissingExtra
from stepladder.domain.grader_settings import (
    LabelModelGrader,
    MultiGrader,
    OpenAIGraderSettings,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from stepladder.domain.messages import Example
from stepladder.domain.protocols import Embedder, Engine
from stepladder.domain.task import GraderSettings, NumericGrader, RegexGrader, Task
from stepladder.evaluation.graders.base import Grader
from stepladder.evaluation.graders.chrf import Chrf
from stepladder.evaluation.graders.json_fields import JsonFields
from stepladder.evaluation.graders.label_model import LabelModel
from stepladder.evaluation.graders.labels import Labels
from stepladder.evaluation.graders.multi import Multi
from stepladder.evaluation.graders.normalised_match import NormalisedMatch
from stepladder.evaluation.graders.numeric import Numeric
from stepladder.evaluation.graders.on_examples import OnExamples
from stepladder.evaluation.graders.regex import Regex
from stepladder.evaluation.graders.reward import GraderRefused, Rewarding
from stepladder.evaluation.graders.score_model import ScoreModel
from stepladder.evaluation.graders.string_check import StringCheck
from stepladder.evaluation.graders.style import Style
from stepladder.evaluation.graders.text_similarity import TextSimilarity
from stepladder.evaluation.graders.token_f1 import TokenF1
from stepladder.evaluation.graders.tool_calls import ToolCalls


@dataclass(frozen=True)
class GraderTools:
    """What graders may ask, handed in by who knows: an engine by its name, and the embedder. Both are called at first use."""

    engine: Callable[[str], Engine] | None = None
    embedder: Callable[[], Embedder] | None = None
    folder: Path | None = None  # where a python grader's `file` lies
    misses: Callable[[], int] = lambda: 0  # judgements that were not known and had to be asked for

    def engine_of(self, model: str) -> Callable[[], Engine]:
        """Raises `GraderRefused` where no model can be asked."""
        if self.engine is None:
            raise GraderRefused("a model judge cannot be asked here.", "Choose a grader that asks no model.", "model")
        build = self.engine
        return lambda: build(model)


def build_graders(task: Task, tools: GraderTools | None = None, *, examples: Iterable[Example] = ()) -> tuple[Grader, ...]:
    """The task's graders in order: the first decides, the rest are reported.

    Without any in task.toml, `tool_calls` decides when some of the examples expect tool calls, else the output's shape.
    """
    if not task.settings.graders and wants_tool_calls(examples):
        return (ToolCalls(),)
    return tuple(build_grader(settings, task, tools) for settings in task.settings.decided_graders())


def build_grader(settings: GraderSettings, task: Task, tools: GraderTools | None = None) -> Grader:
    """One grader.

    Raises:
        DataError: The regular expression, schema, template, formula or source cannot be used, or a metric lacks its data.
        MissingExtra: The sandbox for python graders is not installed.
    """
    if isinstance(settings, OpenAIGraderSettings):
        return _on_examples(settings, task, tools or GraderTools())
    if isinstance(settings, RegexGrader):
        return Regex(_checked_pattern(settings, task), name=settings.name)
    if isinstance(settings, NumericGrader):
        return Numeric(settings.absolute, settings.relative)
    if settings.type == "labels":
        return Labels(task.settings.output.labels)
    if settings.type == "json_fields":
        return _json_fields(task)
    if settings.type == "tool_calls":
        return ToolCalls(ordered=settings.ordered)
    if settings.type == "style":
        return Style()
    if settings.type == "normalised_match":
        return NormalisedMatch(exact=settings.exact)
    return TokenF1() if settings.type == "token_f1" else Chrf()


def build_rewarding(settings: OpenAIGraderSettings, tools: GraderTools) -> Rewarding:
    """A grader of OpenAI's kind.

    Raises:
        GraderRefused: It cannot be used as written; `param` names the key.
        MissingExtra: The sandbox for python graders is not installed.
    """
    if isinstance(settings, StringCheckGrader):
        return StringCheck(settings)
    if isinstance(settings, TextSimilarityGrader):
        return TextSimilarity(settings, tools.embedder)
    if isinstance(settings, ScoreModelGrader):
        return ScoreModel(settings, tools.engine_of(settings.model))
    if isinstance(settings, LabelModelGrader):
        return LabelModel(settings, tools.engine_of(settings.model))
    if isinstance(settings, PythonGrader):
        return _python(settings, tools)
    return _multi(settings, tools)


def _multi(settings: MultiGrader, tools: GraderTools) -> Multi:
    parts: dict[str, Rewarding] = {}
    for name, part in settings.graders.items():
        try:
            parts[name] = build_rewarding(part, tools)
        except GraderRefused as error:
            raise GraderRefused(error.problem, error.hint, f"graders.{name}.{error.param}") from error
    return Multi(settings.name, parts, settings.calculate_output)


def _python(settings: PythonGrader, tools: GraderTools) -> Rewarding:
    try:
        from stepladder.evaluation.graders.python_function import PythonFunction
    except ModuleNotFoundError as error:
        raise MissingExtra("graders", "pydantic-monty, which runs python graders,") from error
    return PythonFunction(settings.name, _source(settings, tools))


def _source(settings: PythonGrader, tools: GraderTools) -> str:
    if settings.source is not None:
        return settings.source
    if tools.folder is None or settings.file is None:
        raise GraderRefused("a python grader's file cannot be read here.", "Give its `source`.", "file")
    path = tools.folder / settings.file
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GraderRefused(f"{settings.file} cannot be read: {error}.", "Check `file`; it is UTF-8 text.", "file") from error


def _on_examples(settings: OpenAIGraderSettings, task: Task, tools: GraderTools) -> OnExamples:
    try:
        inner = build_rewarding(settings, tools)
    except GraderRefused as error:
        name = settings.name or settings.type
        where = f"grader '{name}'" + (f", '{error.param}'" if error.param else "")
        place = (*_place(settings, task), *error.param.split("."))
        raise task.fault(place, f"{where}: {error.problem}", error.hint) from error
    threshold = getattr(settings, "pass_threshold", None)
    return OnExamples(inner, instruction=task.settings.instruction, pass_threshold=threshold)


def _checked_pattern(settings: RegexGrader, task: Task) -> str:
    try:
        re.compile(settings.pattern)
    except (re.error, RecursionError, OverflowError) as error:
        problem = f"the grader's pattern is no regular expression: {error}."
        raise task.fault((*_place(settings, task), "pattern"), problem, "Correct `pattern`.") from error
    return settings.pattern


def _place(settings: GraderSettings, task: Task) -> tuple[str | int, ...]:
    """Where a grader stands in task.toml; nowhere when it was not written there."""
    graders = task.settings.graders
    return ("graders", graders.index(settings)) if settings in graders else ()


def _json_fields(task: Task) -> JsonFields:
    try:
        return JsonFields(task.output_schema)
    except ValueError as error:
        path = task.path(task.settings.output.json_schema or "task.toml")
        problem = str(error).splitlines()[0]
        raise DataError(path, None, f"not a JSON Schema: {problem}.", "Correct the schema.") from error
