"""What `POST /v1/fine_tuning/jobs` takes, as a request to the queue."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepladder.domain.jobs import JobRequest, MethodType
from stepladder.domain.task import LoraSettings
from stepladder.evaluation.graders.build import GraderTools
from stepladder.evaluation.graders.openai import validate_openai
from stepladder.evaluation.graders.reward import GraderRefused
from stepladder.interfaces.server.chat_request import Strict
from stepladder.interfaces.server.errors import ApiError, invalid, validation_error

LARGEST_SEED = 2**31 - 1
OTHER_SPELLINGS = {"lora_r": "rank", "lora_rank": "rank", "lora_alpha": "alpha"}
"""How other services that speak this API call what `[rungs.lora]` calls otherwise."""
OWN_KEYS = frozenset(LoraSettings.model_fields) - {"epochs", "batch_size"}
"""Keys of `[rungs.lora]` that may stand among the hyper-parameters; for the two others OpenAI has words."""

Auto = Literal["auto"]


class Hyperparameters(BaseModel):
    """OpenAI's hyper-parameters, and beside them any of `[rungs.lora]`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = "auto"

    def asked(self, param: str) -> dict[str, Any]:
        """As the queue keeps them, our own under their own names.

        Raises:
            ApiError: 400: a key nobody knows, or a value out of its range.
        """
        own = {OTHER_SPELLINGS.get(key, key): value for key, value in (self.model_extra or {}).items() if value is not None}
        unknown = next((key for key in own if key not in OWN_KEYS), None)
        if unknown is not None:
            raise invalid(f"Unrecognized request argument supplied: {param}.{unknown}", f"{param}.{unknown}")
        try:
            LoraSettings.model_validate(own)
        except ValidationError as error:
            fault = validation_error(error.errors(include_url=False, include_context=False, include_input=False))
            raise invalid(fault.message, f"{param}.{fault.param}") from None
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {**{name: value for name, value in fields.items() if value is not None}, **own}


class DpoHyperparameters(Hyperparameters):
    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class ReinforcementHyperparameters(Hyperparameters):
    compute_multiplier: Auto | Annotated[float, Field(gt=1e-5, le=10)] = "auto"
    eval_interval: Auto | Annotated[int, Field(ge=1)] = "auto"
    eval_samples: Auto | Annotated[int, Field(ge=1)] = "auto"
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


class Supervised(Strict):
    hyperparameters: Hyperparameters | None = None


class Dpo(Strict):
    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(Strict):
    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: dict[str, Any] | None = None


class Method(Strict):
    type: MethodType
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class Wandb(Strict):
    project: str
    name: str | None = None
    entity: str | None = None
    tags: list[str] | None = None


class Integration(Strict):
    type: Literal["wandb"]
    wandb: Wandb


class CreateJob(Strict):
    model: Annotated[str, Field(min_length=1)]
    training_file: Annotated[str, Field(min_length=1)]
    validation_file: Annotated[str, Field(min_length=1)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: dict[str, str] | None = None

    def request(self, base: str, start: str | None) -> JobRequest:
        """What is put into the queue.

        Args:
            base: What is really trained.
            start: The tuned model on it to go on from.
        Raises:
            ApiError: 400: the method and its settings do not belong together, or a grader cannot be used.
        """
        method, hyperparameters, grader = self._method()
        return JobRequest(
            model=base,
            training_file=self.training_file,
            requested_model=self.model,
            validation_file=self.validation_file,
            start=start,
            suffix=self.suffix,
            seed=secrets.randbelow(LARGEST_SEED) if self.seed is None else self.seed,
            method=method,
            hyperparameters=hyperparameters,
            grader=grader,
            integrations=tuple(one.model_dump(exclude_none=True) for one in self.integrations or ()),
            metadata=self.metadata,
        )

    def _method(self) -> tuple[MethodType, dict[str, Any], Mapping[str, Any] | None]:
        """Method, hyper-parameters and grader. The old place for hyper-parameters is the top of the request."""
        if self.method is None:
            return "supervised", (self.hyperparameters or Hyperparameters()).asked("hyperparameters"), None
        kind = self.method.type
        others = [
            name for name in ("supervised", "dpo", "reinforcement") if name != kind and getattr(self.method, name) is not None
        ]
        if others:
            raise invalid(f"'method.{others[0]}' does not belong to a method of type '{kind}'.", f"method.{others[0]}")
        settings = getattr(self.method, kind)
        own = None if settings is None else settings.hyperparameters
        if own is not None and self.hyperparameters is not None and self.hyperparameters.model_fields_set:
            raise invalid("Give hyper-parameters under 'method' or at the top, not both.", "hyperparameters")
        param = f"method.{kind}.hyperparameters"
        if own is None:
            param = "hyperparameters"
            shape = {"supervised": Hyperparameters, "dpo": DpoHyperparameters, "reinforcement": ReinforcementHyperparameters}[
                kind
            ]
            try:
                own = shape.model_validate({} if self.hyperparameters is None else self.hyperparameters.model_dump())
            except ValidationError as error:
                fault = validation_error(error.errors(include_url=False, include_context=False, include_input=False))
                raise invalid(fault.message, f"{param}.{fault.param}") from None
        return kind, own.asked(param), self._grader()

    def _grader(self) -> Mapping[str, Any] | None:
        if self.method is None or self.method.type != "reinforcement":
            return None
        if self.method.reinforcement is None:
            raise invalid("Missing required parameter: 'method.reinforcement.grader'.", "method.reinforcement.grader")
        grader = self.method.reinforcement.grader
        try:
            validate_openai(grader, _ANY_JUDGE)
        except GraderRefused as error:
            raise ApiError(400, str(error), param=f"method.reinforcement.{error.param}", code="invalid_grader") from None
        return grader


def _no_engine(name: str) -> Any:
    raise AssertionError("a grader that is only checked asks nobody")


_ANY_JUDGE = GraderTools(engine=_no_engine, embedder=lambda: _no_engine("embedder"))
