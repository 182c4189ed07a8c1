"""What `POST /v1/fine_tuning/jobs` takes, as a request to the queue."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import JobRequest, MethodType
from stepladder.evaluation.graders.build import GraderTools
from stepladder.evaluation.graders.openai import validate_openai
from stepladder.evaluation.graders.reward import GraderRefused
from stepladder.interfaces.server.chat_request import Strict
from stepladder.interfaces.server.errors import ApiError, invalid, validation_error
from stepladder.service.job_settings import check_hyperparameters
from stepladder.service.serving.bases import BaseModel

LARGEST_SEED = 2**31 - 1

Auto = Literal["auto"]
Hyperparameters = dict[str, Any]
"""OpenAI's, and beside them our own; `service.job_settings` knows them all."""


class ReinforcementHyperparameters(Strict):
    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = "auto"
    compute_multiplier: Auto | Annotated[float, Field(gt=1e-5, le=10)] = "auto"
    eval_interval: Auto | Annotated[int, Field(ge=1)] = "auto"
    eval_samples: Auto | Annotated[int, Field(ge=1)] = "auto"
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


class Supervised(Strict):
    hyperparameters: Hyperparameters | None = None


class Dpo(Strict):
    hyperparameters: Hyperparameters | None = None


class Reinforcement(Strict):
    grader: dict[str, Any]
    hyperparameters: Hyperparameters | None = None
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

    def request(self, base: BaseModel, start: str | None) -> JobRequest:
        """What is put into the queue.

        Args:
            base: What is really trained.
            start: The tuned model on it to go on from.
        Raises:
            ApiError: 400: the method and its settings do not belong together, or a grader cannot be used.
        """
        method, hyperparameters, grader = self._method()
        return JobRequest(
            model=base.location,
            public_model=base.name,
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
        kind: MethodType = "supervised" if self.method is None else self.method.type
        below = None if self.method is None else self._below(self.method)
        if below is not None and self.hyperparameters:
            raise invalid("Give hyper-parameters under 'method' or at the top, not both.", "hyperparameters")
        param = "hyperparameters" if below is None else f"method.{kind}.hyperparameters"
        asked = {name: value for name, value in (below or self.hyperparameters or {}).items() if value is not None}
        if kind == "reinforcement":
            return kind, _checked_reinforcement(asked, param), self._grader()
        try:
            check_hyperparameters(kind, asked)
        except UsageError as error:
            raise invalid(str(error), f"{param}.{error.problem.partition(':')[0]}") from None
        return kind, asked, None

    def _below(self, method: Method) -> Hyperparameters | None:
        """The hyper-parameters under the method's own name."""
        for name in ("supervised", "dpo", "reinforcement"):
            if name != method.type and getattr(method, name) is not None:
                raise invalid(f"'method.{name}' does not belong to a method of type '{method.type}'.", f"method.{name}")
        settings: Supervised | Dpo | Reinforcement | None = getattr(method, method.type)
        return None if settings is None else settings.hyperparameters

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


def _checked_reinforcement(asked: Hyperparameters, param: str) -> dict[str, Any]:
    """Raises ApiError 400 for what OpenAI's method does not take."""
    try:
        return ReinforcementHyperparameters.model_validate(asked).model_dump()
    except ValidationError as error:
        fault = validation_error(error.errors(include_url=False, include_context=False, include_input=False))
        raise invalid(fault.message, f"{param}.{fault.param}") from None


def _no_engine(name: str) -> Any:
    raise AssertionError("a grader that is only checked asks nobody")


_ANY_JUDGE = GraderTools(engine=_no_engine, embedder=lambda: _no_engine("embedder"))
