"""OpenAI's grader JSON: read, checked, and run with an answer in the shape of `graders/run`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stepladder.domain.grader_settings import MultiGrader, OpenAIGraderSettings, PartSettings
from stepladder.evaluation.graders.build import GraderTools, build_rewarding
from stepladder.evaluation.graders.label_model import LabelModel
from stepladder.evaluation.graders.multi import Multi
from stepladder.evaluation.graders.on_examples import share_of
from stepladder.evaluation.graders.reward import Fault, GraderRefused, Outcome, Rewarding, Subject, Trouble
from stepladder.evaluation.graders.score_model import ScoreModel

REQUIRED = {
    "string_check": ("input", "reference", "operation"),
    "text_similarity": ("input", "reference", "evaluation_metric"),
    "score_model": ("model", "input"),
    "label_model": ("model", "input", "labels", "passing_labels"),
    "python": ("source",),
    "multi": ("graders", "calculate_output"),
}
"""Keys that OpenAI asks for, beside `type`. `name` is required by its schema and left out in its guide; here it has a default."""
_OURS = ("criteria", "human_grades", "accept_uncalibrated", "file")
"""Keys of task.toml that mean nothing in OpenAI's JSON."""
_part: TypeAdapter[PartSettings] = TypeAdapter(PartSettings)


def from_openai(grader: Mapping[str, Any], tools: GraderTools | None = None) -> Rewarding:
    """A grader of OpenAI's JSON.

    Raises:
        GraderRefused: The JSON is no grader, or one that cannot be used; `param` is the key at fault ("grader.input").
        MissingExtra: It is a python grader and the sandbox is not installed.
    """
    settings = _settings(grader)
    try:
        return build_rewarding(settings, tools or GraderTools())
    except GraderRefused as error:
        raise GraderRefused(error.problem, error.hint, _under("grader", error.param)) from error


def validate_openai(grader: Mapping[str, Any], tools: GraderTools | None = None) -> dict[str, Any]:
    """The reply of `graders/validate`: the grader as it was sent, with its name filled in. Raises as `from_openai`."""
    built = from_openai(grader, tools)
    return {"grader": {"name": built.name, **grader}}


def run_openai(grader: Rewarding, answer: str, item: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The reply of `graders/run`: the reward in the grader's own range, and what went wrong under OpenAI's names.

    As there, a grader that failed rewards 0; its error says that this is no judgement of the answer.
    """
    judges = _judges(grader)
    before = {id(judge): judge.judge.tokens for judge in judges}
    start = time.perf_counter()
    outcome = _in_range(grader.reward(Subject(dict(item or {}), answer)))
    seconds = time.perf_counter() - start
    spent: dict[str, int] = {}
    for judge in judges:
        spent[judge.model] = spent.get(judge.model, 0) + judge.judge.tokens - before[id(judge)]
    parts = {} if isinstance(outcome, Fault) else dict(outcome.parts)
    return {
        "reward": 0.0 if isinstance(outcome, Fault) else outcome.value,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": _errors(outcome),
            "execution_time": seconds,
            "scores": parts,
            "token_usage": sum(spent.values()) if judges else None,
            "sampled_model_name": None,
        },
        "sub_rewards": parts,
        "model_grader_token_usage_per_model": spent,
    }


def _in_range(outcome: Outcome) -> Outcome:
    """A number outside the grader's range is its fault."""
    if isinstance(outcome, Fault):
        return outcome
    share = share_of(outcome)
    return share if isinstance(share, Fault) else outcome


def _errors(outcome: Outcome) -> dict[str, bool | str | None]:
    trouble = outcome.trouble
    reason = outcome.reason if isinstance(outcome, Fault) else None
    flags: dict[str, bool | str | None] = {
        name: name == trouble
        for name in (
            "formula_parse_error",
            "sample_parse_error",
            "truncated_observation_error",
            "unresponsive_reward_error",
            "invalid_variable_error",
            "other_error",
            "python_grader_server_error",
            "python_grader_runtime_error",
            "model_grader_server_error",
            "model_grader_refusal_error",
            "model_grader_parse_error",
        )
    }
    return {
        **flags,
        "python_grader_server_error_type": reason if trouble is Trouble.PYTHON_SERVER else None,
        "python_grader_runtime_error_details": reason if trouble is Trouble.PYTHON_RUN else None,
        "model_grader_server_error_details": reason if trouble is Trouble.MODEL_SERVER else None,
    }


def _judges(grader: Rewarding) -> list[ScoreModel | LabelModel]:
    found = grader.parts.values() if isinstance(grader, Multi) else [grader]
    return [part for part in found if isinstance(part, ScoreModel | LabelModel)]


def _settings(grader: Mapping[str, Any]) -> OpenAIGraderSettings:
    if not isinstance(grader, Mapping):
        raise GraderRefused("a grader is a JSON object.", "Send one.", "grader")
    if grader.get("type") != "multi":
        return _checked(grader, "grader")
    _check_keys(grader, "grader")
    parts = {name: _checked(part, f"grader.graders.{name}") for name, part in _named_parts(grader["graders"]).items()}
    try:
        return MultiGrader(name=grader.get("name"), graders=parts, calculate_output=grader["calculate_output"])
    except ValidationError as error:
        raise _refusal(error, "grader") from error


def _checked(grader: Any, param: str) -> PartSettings:
    if not isinstance(grader, Mapping):
        raise GraderRefused("a grader is a JSON object.", "Send one.", param)
    if param != "grader" and grader.get("type") == "multi":
        raise GraderRefused("a multi grader cannot stand inside another.", "Write one formula over all parts.", param)
    _check_keys(grader, param)
    try:
        return _part.validate_python({key: value for key, value in grader.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error, param) from error


def _check_keys(grader: Mapping[str, Any], param: str) -> None:
    kind = grader.get("type")
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise GraderRefused(f"'{kind}' is no type of grader.", f"There are: {', '.join(REQUIRED)}.", f"{param}.type")
    missing = next((key for key in REQUIRED[kind] if grader.get(key) in (None, [])), None)
    if missing is not None:
        raise GraderRefused(f"'{missing}' is missing.", f"A {kind} grader needs it.", f"{param}.{missing}")
    ours = next((key for key in _OURS if key in grader), None)
    unknown = next(
        (key for key in grader if kind == "multi" and key not in ("type", "name", "graders", "calculate_output")), ours
    )
    if unknown is not None:
        raise GraderRefused(f"'{unknown}' is not known.", "Leave it out.", f"{param}.{unknown}")


def _named_parts(graders: Any) -> dict[str, Any]:
    """The parts by the names that a formula uses. OpenAI has three shapes: by name, as a list, and a single grader."""
    if isinstance(graders, Mapping):
        if isinstance(graders.get("type"), str):
            return _from_list([graders])
        return {str(name): part for name, part in graders.items()}
    if isinstance(graders, Sequence) and not isinstance(graders, str):
        return _from_list(graders)
    raise GraderRefused("the parts of a multi grader are an object of names and graders.", "Send one.", "grader.graders")


def _from_list(graders: Sequence[Any]) -> dict[str, Any]:
    """By the name of each, and as the specification's example has it, by its type with `_score` where that is unique."""
    parts: dict[str, Any] = {}
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in graders]
    for part, kind in zip(graders, kinds, strict=True):
        name = part.get("name") if isinstance(part, Mapping) else None
        if isinstance(name, str) and name.isidentifier():
            chosen = name
        elif kinds.count(kind) == 1:
            chosen = f"{kind}_score"
        else:
            raise GraderRefused(
                "two parts cannot be told apart in the formula.", "Give them names such as first_part.", "grader.graders"
            )
        if chosen in parts:
            raise GraderRefused(f"two parts are called '{chosen}'.", "Name them apart.", "grader.graders")
        parts[chosen] = part
    return parts


def _refusal(error: ValidationError, param: str) -> GraderRefused:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part not in REQUIRED)
    if fault["type"] == "extra_forbidden":
        return GraderRefused(f"'{where}' is not known.", "Leave it out.", _under(param, where))
    message = fault["msg"].removeprefix("Value error, ")
    return GraderRefused(f"'{where}': {message}.", "Correct it.", _under(param, where))


def _under(param: str, key: str) -> str:
    return f"{param}.{key}" if key else param
