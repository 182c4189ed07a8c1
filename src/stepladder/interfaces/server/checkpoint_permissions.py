"""`/v1/fine_tuning/checkpoints/{name}/permissions`: which other projects may ask a tuned model of this one."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from stepladder.domain.errors import UsageError
from stepladder.domain.jobs import CheckpointPermission
from stepladder.interfaces.server.chat_request import Strict
from stepladder.interfaces.server.errors import ApiError, invalid, not_found
from stepladder.interfaces.server.limits import read_body
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, page
from stepladder.service.serving.house import House

router = APIRouter()
PATH = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"


class GrantPermissions(Strict):
    project_ids: Annotated[list[str], Field(min_length=1, max_length=100)]


@router.post(PATH)
async def create_permissions(checkpoint: str, request: Request, project: ProjectId, house: TheHouse) -> JsonObject:
    """Lend a model. Only a key that was made for it may: a model is worth what its training data are worth."""
    asked = await read_body(request, GrantPermissions)
    _refuse_without_right(request)
    _own(house, project, checkpoint)
    try:
        made = house.tuned(project).permit(checkpoint, asked.project_ids)
    except UsageError as error:
        raise invalid(str(error), "project_ids") from None
    return page([_object(permission) for permission in made], len(made), ids=True)


@router.get(PATH)
def list_permissions(
    checkpoint: str,
    project: ProjectId,
    house: TheHouse,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    after: str | None = None,
    order: Literal["ascending", "descending"] = "descending",
    project_id: str | None = None,
) -> JsonObject:
    _own(house, project, checkpoint)
    try:
        found = house.tuned(project).permissions(
            checkpoint, granted_to=project_id, after=after, limit=limit + 1, newest_first=order == "descending"
        )
    except UsageError as error:
        raise not_found(str(error), "after") from None
    return page([_object(permission) for permission in found], limit, ids=True)


@router.delete(PATH + "/{permission_id}")
def delete_permission(checkpoint: str, permission_id: str, request: Request, project: ProjectId, house: TheHouse) -> JsonObject:
    _refuse_without_right(request)
    _own(house, project, checkpoint)
    if not house.tuned(project).forbid(checkpoint, permission_id):
        raise not_found(f"No such permission: {permission_id}", "permission_id")
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def _refuse_without_right(request: Request) -> None:
    if not request.state.admin:
        raise ApiError(
            403,
            "This key may not lend models to other projects. Make one with: stepladder keys create --admin",
            code="insufficient_permissions",
        )


def _own(house: House, project: str, checkpoint: str) -> None:
    """Raises ApiError 404 unless the model is the project's own: one that was lent cannot be lent on."""
    model = house.tuned(project).get(checkpoint)
    if model is None or model.project != project:
        raise not_found(f"The checkpoint '{checkpoint}' does not exist.", "fine_tuned_model_checkpoint")


def _object(permission: CheckpointPermission) -> JsonObject:
    return {
        "id": permission.id,
        "object": "checkpoint.permission",
        "created_at": permission.created_at,
        "project_id": permission.granted_to,
    }
