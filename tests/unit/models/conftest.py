from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from stepladder.models.chat_template import ChatTemplate
from stepladder.models.loading import LoadedModel, load
from stepladder.models.pull import pull
from stepladder.models.tokenizer import Tokenizer
from tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def starter_folder() -> Path:
    """The real starter model, in the user's own cache (93 MB the first time)."""
    return pull("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def starter_template(starter_folder: Path) -> ChatTemplate:
    return ChatTemplate.from_folder(starter_folder)


@pytest.fixture(scope="session")
def starter_tokenizer(starter_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(starter_folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_template(tiny_folder: Path) -> ChatTemplate:
    return ChatTemplate.from_folder(tiny_folder)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder)


@pytest.fixture(scope="session")
def transformers_tokenizer(tiny_folder: Path) -> Any:
    """The tiny model's tokenizer as transformers loads it: the oracle."""
    return AutoTokenizer.from_pretrained(str(tiny_folder), local_files_only=True)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no wheels lying about."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("STEPLADDER_CACHE", str(cache))
    monkeypatch.delenv("STEPLADDER_WHEELS", raising=False)
    monkeypatch.delenv("STEPLADDER_DTYPE", raising=False)
    return cache


@pytest.fixture
def tiny(tiny_folder: Path, own_cache: Path) -> LoadedModel:
    return load(str(tiny_folder), device="cpu", dtype="float32")


class Recorder:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.notes: list[str] = []
        self.open = 0

    def start(self, label: str, total: int | None = None) -> None:
        self.labels.append(label)
        self.open += 1

    def advance(self, count: int = 1, detail: str = "") -> None: ...

    def finish(self) -> None:
        self.open -= 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def recorder() -> Any:
    return Recorder()
