"""The application: routes inside, the guard around them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from stepladder.interfaces.server import (
    chat,
    checkpoint_permissions,
    completions,
    embeddings,
    files,
    fine_tuning_jobs,
    graders,
    models,
    prometheus,
    uploads,
)
from stepladder.interfaces.server.errors import add_handlers
from stepladder.interfaces.server.guard import Guard, Places
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.metrics import Metrics
from stepladder.service.serving.house import House

RESOURCES = (
    files,
    uploads,
    fine_tuning_jobs,
    checkpoint_permissions,
    graders,
    models,
    chat,
    completions,
    embeddings,
    prometheus,
)


def build_app(house: House, *, places: Places | None = None, limits: Limits | None = None) -> ASGIApp:
    """Everything that is served. Nothing inside can be reached but through the guard."""
    limits, metrics = limits or Limits(), Metrics()
    inner = build_routes(house, limits, metrics)
    return Guard(inner, keys=house.store.keys, places=places or Places(), limits=limits, metrics=metrics)


def build_routes(house: House, limits: Limits, metrics: Metrics) -> FastAPI:
    """The routes by themselves; without the guard they answer nobody, since no request has a project."""
    app = FastAPI(title="Stepladder", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.house, app.state.limits, app.state.metrics = house, limits, metrics
    add_handlers(app)
    for resource in RESOURCES:
        app.include_router(resource.router)
    return app
