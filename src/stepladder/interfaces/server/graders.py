"""`/v1/fine_tuning/alpha/graders`: try a grader on one answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from stepladder.domain.protocols import Engine
from stepladder.evaluation.graders.build import GraderTools
from stepladder.evaluation.graders.openai import from_openai, run_openai, validate_openai
from stepladder.evaluation.graders.reward import GraderRefused
from stepladder.interfaces.server.chat_request import Strict
from stepladder.interfaces.server.errors import invalid
from stepladder.interfaces.server.limits import read_body
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse
from stepladder.service.serving.asked_engine import AskedEngine
from stepladder.service.serving.house import House
from stepladder.service.serving.names import UnknownModel
from stepladder.service.serving.speakers import WeightsSpeaker

router = APIRouter()


class ValidateGrader(Strict):
    grader: dict[str, Any]


class RunGrader(Strict):
    grader: dict[str, Any]
    model_sample: str
    item: dict[str, Any] | None = None


@router.post("/v1/fine_tuning/alpha/graders/validate")
async def validate_grader(request: Request, project: ProjectId, house: TheHouse) -> JsonObject:
    asked = await read_body(request, ValidateGrader)
    try:
        return validate_openai(asked.grader, _tools(house, project))
    except GraderRefused as error:
        raise invalid(str(error), error.param, "invalid_grader") from None


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run_grader(request: Request, project: ProjectId, house: TheHouse) -> JsonObject:
    asked = await read_body(request, RunGrader)

    def grade() -> JsonObject:
        return run_openai(from_openai(asked.grader, _tools(house, project)), asked.model_sample, asked.item)

    try:
        return await run_in_threadpool(grade)
    except GraderRefused as error:
        raise invalid(str(error), error.param, "invalid_grader") from None


def _tools(house: House, project: str) -> GraderTools:
    """Judges are models of this server; nothing is asked elsewhere, whatever a grader names."""

    def engine(name: str) -> Engine:
        try:
            speaker = house.names.speaker(project, name)
        except UnknownModel as error:
            raise GraderRefused(error.problem, error.hint, "model") from None
        if not isinstance(speaker, WeightsSpeaker):
            raise GraderRefused(f"'{name}' cannot judge here.", "Name a base model or a tuned model.", "model")
        return AskedEngine(speaker, house.asking)

    return GraderTools(engine=engine, embedder=house.embedder)
