"""Every model that a project may ask, by name: base models and their aliases, tuned models and checkpoints, rungs of climbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from stepladder.domain.errors import ModelError
from stepladder.domain.jobs import TunedModel
from stepladder.service.serving.bases import BaseModel, Bases
from stepladder.service.serving.question import Speaker
from stepladder.service.serving.rungs import Rungs
from stepladder.service.serving.speakers import WeightsSpeaker
from stepladder.storage.tuned_models import TunedModels


class UnknownModel(ModelError):
    """No model of this name may be asked by this project."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a list of models says of one. `created_at` in Unix seconds; 0 for a base model, whose birthday nobody knows."""

    name: str
    created_at: int
    owner: str
    deletable: bool = False


class ModelNames:
    """The models of a server, as each project sees them.

    Args:
        tuned: The tuned models of a project.
        others: Models that answer no conversation, such as an embedder; they are listed only.
    """

    def __init__(self, bases: Bases, rungs: Rungs, tuned: Callable[[str], TunedModels], *, others: tuple[str, ...] = ()) -> None:
        self.others = others
        self.bases = bases
        self.rungs = rungs
        self.tuned = tuned

    def list(self, project: str) -> list[ModelCard]:
        """Base models, rungs, then the project's tuned models, newest first. Aliases are other names and not listed."""
        tuned = [self._tuned_card(model) for model in self.tuned(project).list()]
        rungs = [ModelCard(rung.name, rung.created_at, "stepladder") for rung in self.rungs.list(project)]
        return [*(_base_card(name) for name in (*self.bases.models, *self.others)), *rungs, *tuned]

    def card(self, project: str, name: str) -> ModelCard:
        """One model. An alias is answered under the name it was asked by.

        Raises:
            UnknownModel: The project has none of this name.
        """
        if self.bases.find(name) is not None or name in self.others:
            return _base_card(name)
        model = self.tuned(project).get(name)
        if model is not None:
            return self._tuned_card(model)
        rung = self.rungs.find(project, name)
        if rung is None:
            raise self._unknown(name)
        return ModelCard(rung.name, rung.created_at, "stepladder")

    def speaker(self, project: str, name: str) -> Speaker:
        """Who answers to a name.

        Raises:
            UnknownModel: The project has none of this name.
        """
        base = self.bases.find(name)
        if base is not None:
            return self._on(name, base.location)
        model = self.tuned(project).get(name)
        if model is not None:
            folder = self.tuned(project).folder(model)
            return WeightsSpeaker(name, model.base, partial(self.bases.engine, model.base), folder)
        rung = self.rungs.speaker(project, name)
        if rung is None:
            raise self._unknown(name)
        return rung

    def base_of(self, project: str, name: str) -> tuple[BaseModel, TunedModel | None]:
        """What a training on `name` begins with: a base model, and the tuned model on it that is trained on, if it is one.

        Raises:
            UnknownModel: The project has no trainable model of this name.
        """
        base = self.bases.find(name)
        if base is not None:
            return base, None
        model = self.tuned(project).get(name)
        if model is None:
            raise self._unknown(name)
        return BaseModel(self.bases.name_of(model.base), model.base), model

    def _on(self, name: str, location: str) -> WeightsSpeaker:
        return WeightsSpeaker(name, location, partial(self.bases.engine, location))

    def _unknown(self, name: str) -> UnknownModel:
        return UnknownModel(f"The model '{name}' does not exist or you do not have access to it.", self.bases.advice(name))

    def _tuned_card(self, model: TunedModel) -> ModelCard:
        return ModelCard(model.name, model.created_at, model.project, deletable=True)


def _base_card(name: str) -> ModelCard:
    return ModelCard(name, 0, "stepladder")
