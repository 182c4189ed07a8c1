"""A real server on a free port of this machine, over a house of fakes: what tests ask goes through sockets, as in life."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from stepladder.domain.jobs import TunedModel
from stepladder.domain.protocols import Engine
from stepladder.engines.fake import FakeEngine
from stepladder.engines.fake_plain import FakePlainTexts
from stepladder.interfaces.server.app import build_app
from stepladder.interfaces.server.guard import Places
from stepladder.interfaces.server.limits import Limits
from stepladder.interfaces.server.serve import make_server
from stepladder.service.serving.asking import AskingThread
from stepladder.service.serving.bases import Alias, BaseModel, Bases
from stepladder.service.serving.house import House, HouseSettings
from stepladder.service.serving.names import ModelNames
from stepladder.service.serving.news import News
from stepladder.service.serving.rungs import Rungs
from stepladder.storage.store import Store
from stepladder.storage.tuned_models import record_model

BASE = "fake"
ALIAS = "gpt-4o-mini*"


class LetterEmbedder:
    """Three numbers a text, of length 1."""

    name = "wordllama"

    def embed(self, texts: Any) -> NDArray[np.float32]:
        raw = np.array([[1.0 + len(text), text.count("a"), text.count("e")] for text in texts], dtype=np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def fake_house(
    folder: Path,
    *,
    engine: Engine | None = None,
    models: tuple[str, ...] = (BASE,),
    aliases: tuple[str, ...] = (f"{ALIAS}={BASE}",),
    rungs: Rungs | None = None,
    chats_waiting: int = 256,
    settings: HouseSettings | None = None,
) -> House:
    """A house whose models are fakes: they repeat the last user turn unless `engine` says otherwise."""
    store = Store(folder)
    bases = Bases(
        [BaseModel(name, name) for name in models],
        [Alias.parse(text) for text in aliases],
        build=lambda location: engine or FakeEngine(name=location),
        weigh=lambda location: 0,
        memory_bytes=1,
        forget=lambda: None,
    )
    return House(
        store=store,
        names=ModelNames(bases, rungs or Rungs((), restore=_no_rung), store.models),
        asking=AskingThread(most_waiting=chats_waiting),
        news=News(store.database),
        embedder=LetterEmbedder,
        plain_texts=lambda engine: FakePlainTexts(),
        embedder_aliases=("text-embedding-*",),
        settings=settings or HouseSettings(),
    )


def _no_rung(run: Path, rung: str) -> Any:
    raise AssertionError("there are no rungs here")


@dataclass
class LiveServer:
    """Where it listens, and what it draws on."""

    port: int
    house: House

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = None, **options: Any) -> httpx2.Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.root, headers=headers, timeout=30, **options)


@contextmanager
def live_server(
    house: House, *, limits: Limits | None = None, places: Places | None = None, silence_seconds: float = 20.0
) -> Iterator[LiveServer]:
    """The server in a thread of this process; it is shut down and its house closed at the end of the block."""
    app = build_app(house, limits=limits, places=places)
    server = make_server(app, host="127.0.0.1", port=0, silence_seconds=silence_seconds)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        _wait_until(lambda: server.started)
        yield LiveServer(server.port, house)
    finally:
        server.should_exit = True
        thread.join(10)
        house.close()


def _wait_until(holds: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1000):
        if holds():
            return
        tick.wait(0.01)
    raise AssertionError("the server does not start")


def put_model(
    store: Store, project: str, name: str, *, base: str = BASE, step: int | None = None, adapter_folder: Path | None = None
) -> str:
    """A tuned model as a worker would leave it; without a folder, its adapter is none."""
    files = [] if adapter_folder is None else sorted(path for path in adapter_folder.iterdir() if path.is_file())
    content = {path.name: path.read_bytes() for path in files} or {"adapter_model.safetensors": name.encode()}
    with store.blobs.receive_folder(project, content) as adapter, store.database.write() as connection:
        store.blobs.keep_folder(adapter)
        model = TunedModel(name, project, "ftjob-made-up", base, adapter.digest, store.database.now(), step)
        record_model(connection, model)
    return name
