"""The weights that answer: the base, or the base under an adapter, whose matrices are read once and kept beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer

from stepladder.domain.errors import EngineError
from stepladder.engines.adapter import hash_adapter, hash_adapter_weights
from stepladder.models.loading import LoadedModel
from stepladder.models.prefix.anatomy import NotRead, read_anatomy
from stepladder.models.prefix.products import Voice, read_voice

KEPT_ADAPTERS = 8


@dataclass(frozen=True, slots=True)
class Speaker:
    """The weights that answer.

    Attributes:
        folder: Of the adapter; None for the base.
        weights_sha256: Of the adapter.
        key: Hash of everything in the adapter that changes keys and values; "" for the base.
        voice: The adapter for the written-out decoder.
        readable: Whether the written-out decoder can speak so; else the model's own modules must.
    """

    folder: Path | None = None
    weights_sha256: str | None = None
    key: str = ""
    voice: Voice | None = None
    readable: bool = True


class Speakers:
    """The last adapters asked for, by their hashes: a folder whose files change is another adapter."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._known: dict[str, Speaker] = {}

    def of(self, folder: Path | None, *, read: bool) -> Speaker:
        """The speaker of an adapter folder.

        Args:
            read: Whether its matrices are wanted for the written-out decoder.
        Raises:
            EngineError: The folder holds no adapter, or changes while it is read.
            ModelError: The adapter does not fit.
        """
        if folder is None:
            return Speaker()
        bare = Speaker(folder, hash_adapter_weights(folder), hash_adapter(folder), readable=False)
        if not read:
            return bare
        known = self._known.pop(bare.key, None)
        if known is None:
            voice = self._read(folder)
            _check_unchanged(folder, bare.key)
            known = Speaker(folder, bare.weights_sha256, bare.key, voice, readable=voice is not None)
        self._known[bare.key] = known  # the last one asked for stands last
        if len(self._known) > KEPT_ADAPTERS:
            del self._known[next(iter(self._known))]
        return replace(known, folder=folder)  # the same adapter may lie elsewhere, and be gone from where it was first read

    def _read(self, folder: Path) -> Voice | None:
        """The adapter's matrices; None when it changes more than the layers that are written out."""
        with self._loaded.adapter(folder) as model:
            try:
                anatomy = read_anatomy(model)
            except NotRead:
                return None
            if len(anatomy.loras) != sum(isinstance(module, LoraLayer) for module in model.modules()):
                return None
            return read_voice(anatomy)


@contextmanager
def speaking(loaded: LoadedModel, speaker: Speaker) -> Iterator[Any]:
    """The model's own modules, with the speaker's adapter on them for the time of the block.

    Raises:
        EngineError: Its folder holds another adapter by now.
        ModelError: The adapter does not fit.
    """
    if speaker.folder is None:
        yield loaded.model
        return
    with loaded.adapter(speaker.folder) as model:
        _check_unchanged(speaker.folder, speaker.key)
        yield model


def _check_unchanged(folder: Path, key: str) -> None:
    if hash_adapter(folder) != key:
        raise EngineError(f"{folder} changed while it was read.", "Write adapters to a new folder, then ask again.")
