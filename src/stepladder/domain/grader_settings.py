"""Settings of the graders that OpenAI's API knows too: the same type names and keys, in task.toml and in JSON.

Keys that OpenAI requires have defaults here, since a task already says what is input, answer and reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stepladder.domain.settings import Settings

ANSWER = "{{ sample.output_text }}"
REFERENCE = "{{ item.reference }}"

StringOperation = Literal["eq", "ne", "like", "ilike"]
SimilarityMetric = Literal[
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
    "cosine",
]


class StringCheckGrader(Settings):
    """Right when `input` relates to `reference` as `operation` says; both are templates."""

    type: Literal["string_check"] = "string_check"
    name: str | None = Field(None, min_length=1, description="Name in the report; by default the type.")
    input: str = Field(ANSWER, description="Template of the text that is judged.")
    reference: str = Field(REFERENCE, description="Template of the text it is held against.")
    operation: StringOperation = Field(
        "eq", description="`eq` equal, `ne` not equal, `like` contains the reference, `ilike` the same without letter case."
    )


class TextSimilarityGrader(Settings):
    """How alike `input` and `reference` are, by one of the usual metrics."""

    type: Literal["text_similarity"] = "text_similarity"
    name: str | None = Field(None, min_length=1, description="Name in the report; by default the type.")
    input: str = Field(ANSWER, description="Template of the text that is judged.")
    reference: str = Field(REFERENCE, description="Template of the text it is held against.")
    evaluation_metric: SimilarityMetric = Field(description="Which metric; the how-to says what each one measures and needs.")
    pass_threshold: float | None = Field(None, description="With it, the score is 1 from this value on, else 0.")


class JudgeMessage(Settings):
    """One turn said to a judge: a role and a template."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(description="Template of what is said.")

    @field_validator("content", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        """OpenAI allows a text, a content part, or a list of them; here they become one text."""
        if isinstance(value, Mapping):
            return _part_text(value)
        if isinstance(value, list | tuple):
            return "\n".join(_part_text(part) if isinstance(part, Mapping) else str(part) for part in value)
        return value


def _part_text(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    if kind not in ("input_text", "output_text", "text"):
        raise ValueError(f"a content part of type '{kind}' is not supported; judges here read text only")
    if not isinstance(part.get("text"), str):
        raise ValueError("a content part has no 'text'")
    return str(part["text"])


class SamplingParams(Settings):
    """How a judge's reply is drawn."""

    temperature: float | None = Field(None, ge=0, description="0 by default, so that a judge says the same again.")
    top_p: float | None = Field(None, gt=0, le=1, description="Only 1 is supported.")
    seed: int | None = Field(None, description="Counts only above temperature 0.")
    max_completions_tokens: int | None = Field(None, ge=1, description="Longest reply; 512 by default.")
    reasoning_effort: str | None = Field(None, description="Read for OpenAI's sake; not passed on, and reports say so.")

    @field_validator("top_p")
    @classmethod
    def _whole(cls, value: float | None) -> float | None:
        if value not in (None, 1.0):
            raise ValueError("engines here draw from all tokens; leave `top_p` out, or set it to 1")
        return value


class ModelGrader(Settings):
    """What both kinds of model judges share."""

    name: str | None = Field(None, min_length=1, description="Name in the report; by default the type.")
    model: str = Field(min_length=1, description="The judge: any model name that `[model] base` takes.")
    input: tuple[JudgeMessage, ...] = Field(
        (), description="What the judge is told, as a list of roles and templates; by default task, input, reference and answer."
    )
    criteria: str | None = Field(None, description="What to look at, in your words; put into the default `input`.")
    sampling_params: SamplingParams = Field(default_factory=SamplingParams, description="How the reply is drawn.")
    human_grades: str | None = Field(
        None,
        description="JSONL file of grades by people: `id`, `answer`, and `score` or `label`; at least 30 different answers, "
        "right ones and wrong ones.",
    )
    accept_uncalibrated: bool = Field(
        False,
        description="Use the judge without such grades, or where it agrees with them no better than chance; every report will "
        "say that it is uncalibrated.",
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> ModelGrader:
        if self.input and self.criteria is not None:
            raise ValueError("`criteria` belongs to the default `input`; put it into your own messages instead")
        return self


class ScoreModelGrader(ModelGrader):
    """A model gives a number within `range`, which is mapped to [0, 1]."""

    type: Literal["score_model"] = "score_model"
    range: tuple[float, float] = Field((0.0, 1.0), description="Lowest and highest number the judge may give.")
    pass_threshold: float | None = Field(None, description="In units of `range`: the score is 1 from this value on, else 0.")

    @field_validator("range")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -1e9 <= value[0] < value[1] <= 1e9:
            raise ValueError("`range` is [lowest, highest]")
        return value


class LabelModelGrader(ModelGrader):
    """A model chooses a label; right when it is one of `passing_labels`."""

    type: Literal["label_model"] = "label_model"
    labels: tuple[str, ...] = Field(min_length=2, description="Labels the judge chooses from.")
    passing_labels: tuple[str, ...] = Field(min_length=1, description="Labels that count as right.")

    @model_validator(mode="after")
    def _subset(self) -> LabelModelGrader:
        if len(set(self.labels)) != len(self.labels) or any(not label.strip() for label in self.labels):
            raise ValueError("`labels` must be different and not empty")
        if not set(self.passing_labels) <= set(self.labels):
            raise ValueError("every one of `passing_labels` must be one of `labels`")
        return self


class PythonGrader(Settings):
    """A function of your own, `grade(sample, item) -> float`, run in a sandbox."""

    type: Literal["python"] = "python"
    name: str | None = Field(None, min_length=1, description="Name in the report; by default the type.")
    source: str | None = Field(None, max_length=256_000, description="The source text.")
    file: str | None = Field(None, description="File in the task folder that holds the source, instead of `source`.")
    image_tag: str | None = Field(None, description="Read for OpenAI's sake; there is one sandbox here.")
    pass_threshold: float | None = Field(None, description="With it, the score is 1 from this value on, else 0.")

    @model_validator(mode="after")
    def _one_source(self) -> PythonGrader:
        if (self.source is None) == (self.file is None):
            raise ValueError("give either `source` or `file`")
        return self


PartSettings = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | LabelModelGrader | PythonGrader, Field(discriminator="type")
]


class MultiGrader(Settings):
    """Several graders, joined by a formula."""

    type: Literal["multi"] = "multi"
    name: str | None = Field(None, min_length=1, description="Name in the report; by default the type.")
    graders: dict[str, PartSettings] = Field(
        min_length=1, description="Tables `[graders.graders.NAME]`: the graders by the names that the formula uses."
    )
    calculate_output: str = Field(
        max_length=2_000,
        description="The formula: names, numbers, `+ - * / ^`, parentheses, `min max abs floor ceil exp sqrt log`.",
    )


OpenAIGraderSettings = StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | LabelModelGrader | PythonGrader | MultiGrader
ModelGraderSettings = ScoreModelGrader | LabelModelGrader


def judges_in(settings: object) -> list[ModelGraderSettings]:
    """The model judges among a grader and its parts."""
    if isinstance(settings, ScoreModelGrader | LabelModelGrader):
        return [settings]
    if isinstance(settings, MultiGrader):
        return [part for part in settings.graders.values() if isinstance(part, ScoreModelGrader | LabelModelGrader)]
    return []


def grader_files(settings: object) -> list[str]:
    """Files of the task folder that a grader and its parts read."""
    parts = list(settings.graders.values()) if isinstance(settings, MultiGrader) else [settings]
    named = [part.file for part in parts if isinstance(part, PythonGrader)]
    named += [part.human_grades for part in parts if isinstance(part, ScoreModelGrader | LabelModelGrader)]
    return [name for name in named if name is not None]
