"""`/v1/models`: base models, rungs of climbs, and the project's tuned models and checkpoints."""

from __future__ import annotations

from fastapi import APIRouter

from stepladder.interfaces.server.answers import unknown_model
from stepladder.interfaces.server.errors import ApiError
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse
from stepladder.service.serving.names import ModelCard, UnknownModel

router = APIRouter()


@router.get("/v1/models")
def list_models(project: ProjectId, house: TheHouse) -> JsonObject:
    return {"object": "list", "data": [model_object(card) for card in house.names.list(project)]}


@router.get("/v1/models/{model:path}")
def retrieve_model(model: str, project: ProjectId, house: TheHouse) -> JsonObject:
    try:
        return model_object(house.names.card(project, model))
    except UnknownModel as error:
        raise unknown_model(error) from None


@router.delete("/v1/models/{model:path}")
def delete_model(model: str, project: ProjectId, house: TheHouse) -> JsonObject:
    """Forget a tuned model. What another project lent stays the other's."""
    try:
        card = house.names.card(project, model)
    except UnknownModel as error:
        raise unknown_model(error) from None
    if not card.deletable or not house.tuned(project).delete(model):
        raise ApiError(403, f"You may not delete the model '{model}': only tuned models of your own can go.", param="model")
    return {"id": model, "object": "model", "deleted": True}


def model_object(card: ModelCard) -> JsonObject:
    return {"id": card.name, "object": "model", "created": card.created_at, "owned_by": card.owner}
