"""The hyper-parameters of a fine-tuning job: OpenAI's names, and beside them those of `[rungs.lora]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import MethodType
from stepladder.domain.protocols import TrainPlan
from stepladder.domain.task import DpoSettings, LoraSettings

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class JobHyperparameters(BaseModel):
    """What every method takes. `auto` is what `stepladder tune` does by default (see `[rungs.lora]`).

    Ours is `learning_rate`, the peak rate itself. The multiplier multiplies the rate that we choose from the model's width.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Positive = "auto"
    learning_rate: Auto | Positive = "auto"


class SupervisedHyperparameters(JobHyperparameters):
    """Of `supervised`: OpenAI's, and the knobs of a LoRA as `[rungs.lora]` describes them."""

    rank: Auto | Annotated[int, Field(ge=1, le=512)] = Field("auto", validation_alias=AliasChoices("lora_rank", "lora_r"))
    alpha: Auto | Positive = Field("auto", validation_alias=AliasChoices("lora_alpha"))
    rank_stabilised: bool = False
    target_modules: tuple[str, ...] = ()
    prompt_loss_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_tokens: Auto | Annotated[int, Field(ge=8)] = "auto"


class DpoHyperparameters(JobHyperparameters):
    """Of `dpo`."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


_KINDS: Mapping[str, type[JobHyperparameters]] = {"supervised": SupervisedHyperparameters, "dpo": DpoHyperparameters}


def check_hyperparameters(method: MethodType, asked: Mapping[str, Any]) -> None:
    """Refuse values that no job could follow; those of `reinforcement` are not looked at.

    Raises:
        UsageError: The first fault; its message begins with the name of the hyper-parameter.
    """
    if method in _KINDS:
        _read(method, asked)


def lora_settings(asked: Mapping[str, Any], *, base_rate: float) -> LoraSettings:
    """Settings of a supervised job. `base_rate`: what the multiplier multiplies.

    Raises:
        UsageError: As `check_hyperparameters`.
    """
    given = _read("supervised", asked)
    assert isinstance(given, SupervisedHyperparameters)
    return LoraSettings(
        rank=_value(given.rank),
        alpha=_value(given.alpha),
        learning_rate=_rate(given, base_rate),
        epochs=_value(given.n_epochs),
        batch_size=_value(given.batch_size),
        max_tokens=_value(given.max_tokens),
        prompt_loss_weight=given.prompt_loss_weight,
        label_smoothing=given.label_smoothing,
        rank_stabilised=given.rank_stabilised,
        target_modules=given.target_modules,
    )


def dpo_settings(asked: Mapping[str, Any], *, base_rate: float) -> DpoSettings:
    """Settings of a preference job; see `lora_settings`."""
    given = _read("dpo", asked)
    assert isinstance(given, DpoHyperparameters)
    beta = _value(given.beta)
    return DpoSettings(
        beta=DpoSettings().beta if beta is None else beta,
        learning_rate=_rate(given, base_rate),
        epochs=_value(given.n_epochs),
        batch_size=_value(given.batch_size),
    )


def resolved(asked: Mapping[str, Any], plan: TrainPlan, *, base_rate: float, beta: float | None = None) -> dict[str, Any]:
    """What is really used, under OpenAI's names, and our own knobs with it."""
    found: dict[str, Any] = {
        **{name: value for name, value in asked.items() if value is not None},
        "n_epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "learning_rate_multiplier": round(plan.learning_rate / base_rate, 6),
        "learning_rate": plan.learning_rate,
        "lora_rank": plan.rank,
        "lora_alpha": plan.alpha,
    }
    return found if beta is None else {**found, "beta": beta}


def _read(method: str, asked: Mapping[str, Any]) -> JobHyperparameters:
    known = _KINDS[method]
    try:
        return known.model_validate({name: value for name, value in asked.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "hyperparameters"
        takes = ", ".join(_public_name(name, field) for name, field in known.model_fields.items())
        said = "is not known" if first["type"] == "extra_forbidden" else str(error.errors()[-1]["msg"]).lower()
        raise UsageError(f"{name}: {said}.", f"Method {method} takes {takes}.") from error


def _public_name(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else name


def _rate(given: JobHyperparameters, base_rate: float) -> float | None:
    rate: float | None = _value(given.learning_rate)
    multiplier: float | None = _value(given.learning_rate_multiplier)
    if rate is not None:
        return rate
    return None if multiplier is None else multiplier * base_rate


def _value(given: Any) -> Any:
    return None if given == "auto" else given
