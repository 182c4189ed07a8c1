"""Putting a server's house together from what an operator asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from stepladder.domain.protocols import Embedder, Predictor
from stepladder.domain.task import Task
from stepladder.models.catalog import STARTER_EMBEDDER, STARTER_MODEL, is_remote
from stepladder.models.hardware import memory_available_bytes
from stepladder.service import wiring
from stepladder.service.predict import restore_rung
from stepladder.service.serving.asking import AskingThread
from stepladder.service.serving.bases import Alias, BaseModel, Bases
from stepladder.service.serving.house import House, HouseSettings
from stepladder.service.serving.names import ModelNames
from stepladder.service.serving.news import News
from stepladder.service.serving.rungs import Rungs
from stepladder.service.spending import ServedPurses
from stepladder.storage.run_folder import RunFolder
from stepladder.storage.store import Store

MEMORY_SHARE = 0.6
"""Of the memory that is free at the start: answering takes room beside the weights, and so does a training."""
MEMORY_UNKNOWN_BYTES = 8 * 1024**3


@dataclass(frozen=True)
class Wishes:
    """What an operator asked for.

    Attributes:
        folder: Where everything is kept.
        models: `--model`, as given: `LOCATION` or `NAME=LOCATION`.
        aliases: `--alias`, as given: `PATTERN=NAME`.
        runs: Run folders, or task folders, whose rungs are models.
        memory_bytes: For the weights of all loaded base models; None for a share of what is free.
    """

    folder: Path
    models: tuple[str, ...] = (STARTER_MODEL.name,)
    aliases: tuple[str, ...] = ()
    runs: tuple[Path, ...] = ()
    device: str = "auto"
    memory_bytes: int | None = None
    chats_waiting: int = 256
    settings: HouseSettings = field(default_factory=HouseSettings)


def open_house(wishes: Wishes) -> House:
    """The house of a server. Nothing is loaded yet: a model is when it is first asked.

    Raises:
        UsageError: A model or an alias cannot be understood.
        RunError: The store is damaged, or a newer version wrote it.
    """
    aliases = [Alias.parse(text) for text in wishes.aliases]
    for_embedder = tuple(alias.pattern for alias in aliases if alias.base == STARTER_EMBEDDER.name)
    store = Store(wishes.folder)

    def forget() -> None:
        rungs.forget()  # they hold models too
        wiring.forget_models()

    bases = build_bases(wishes, [alias for alias in aliases if alias.base != STARTER_EMBEDDER.name], forget=forget)
    purses = ServedPurses()
    rungs = Rungs(
        wishes.runs,
        restore=partial(_restore, device=wishes.device, purses=purses),
        known=partial(_finished_climbs, store),
        hold=partial(hold_base, bases),
    )
    return House(
        store=store,
        names=ModelNames(bases, rungs, store.models, others=(STARTER_EMBEDDER.name,)),
        asking=AskingThread(most_waiting=wishes.chats_waiting),
        news=News(store.database),
        embedder=_embedder,
        plain_texts=wiring.build_plain_texts,
        embedder_name=STARTER_EMBEDDER.name,
        embedder_aliases=for_embedder,
        settings=wishes.settings,
        purses=purses,
    )


def build_bases(wishes: Wishes, aliases: Sequence[Alias], *, forget: Callable[[], None]) -> Bases:
    free = memory_available_bytes() or MEMORY_UNKNOWN_BYTES
    return Bases(
        [BaseModel.parse(text) for text in wishes.models],
        aliases,
        build=partial(wiring.build_local_engine, device=wishes.device),
        weigh=wiring.weights_bytes,
        memory_bytes=int(MEMORY_SHARE * free) if wishes.memory_bytes is None else wishes.memory_bytes,
        forget=forget,
    )


def hold_base(bases: Bases, run: Path, rung: str) -> None:
    """Have the local model that a rung stands on in memory, counted among the loaded ones; the rung shares its weights."""
    compared = rung.partition(" @ ")[2]
    location = compared or Task.load(RunFolder.open(run).task_folder).settings.model.base
    if not is_remote(location):
        bases.engine(location)


def _finished_climbs(store: Store) -> list[Path]:
    entries = store.runs().list()
    return [Path(entry.folder) for entry in entries if entry.kind == "climb" and entry.status == "finished"]


def _restore(run: Path, rung: str, *, device: str, purses: ServedPurses) -> Predictor:
    return restore_rung(RunFolder.open(run), rung, device=device, purse=purses.of(run))


@lru_cache(maxsize=1)
def _embedder() -> Embedder:
    return wiring.build_embedder()
