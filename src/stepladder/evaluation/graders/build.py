"""From settings to graders."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example
from stepladder.domain.task import GraderSettings, NumericGrader, RegexGrader, Task
from stepladder.evaluation.graders.base import Grader
from stepladder.evaluation.graders.chrf import Chrf
from stepladder.evaluation.graders.json_fields import JsonFields
from stepladder.evaluation.graders.labels import Labels
from stepladder.evaluation.graders.normalised_match import NormalisedMatch
from stepladder.evaluation.graders.numeric import Numeric
from stepladder.evaluation.graders.regex import Regex
from stepladder.evaluation.graders.style import Style
from stepladder.evaluation.graders.token_f1 import TokenF1
from stepladder.evaluation.graders.tool_calls import ToolCalls


def build_graders(task: Task, examples: Iterable[Example] = ()) -> tuple[Grader, ...]:
    """The task's graders in order: the first decides, the rest are reported.

    Without any in task.toml, `tool_calls` decides when some of the examples expect tool calls, else the output's shape.
    """
    if not task.settings.graders and wants_tool_calls(examples):
        return (ToolCalls(),)
    return tuple(build_grader(settings, task) for settings in task.settings.decided_graders())


def build_grader(settings: GraderSettings, task: Task) -> Grader:
    """One grader.

    Raises:
        DataError: The regular expression or the output schema cannot be used.
    """
    if isinstance(settings, RegexGrader):
        return Regex(_checked_pattern(settings.pattern, task))
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


def _checked_pattern(pattern: str, task: Task) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise DataError(
            task.path("task.toml"), None, f"the grader's pattern is no regular expression: {error}.", "Correct `pattern`."
        ) from error
    return pattern


def _json_fields(task: Task) -> JsonFields:
    try:
        return JsonFields(task.output_schema)
    except ValueError as error:
        path = task.path(task.settings.output.json_schema or "task.toml")
        problem = str(error).splitlines()[0]
        raise DataError(path, None, f"not a JSON Schema: {problem}.", "Correct the schema.") from error
