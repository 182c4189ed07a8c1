"""Which adapter a folder holds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from stepladder.domain.errors import EngineError
from stepladder.files import hash_file, hash_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def hash_adapter_weights(folder: Path) -> str:
    """sha256 of the weights in a PEFT folder.

    Raises:
        EngineError: The folder holds no adapter weights.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise EngineError(f"{folder} holds no adapter: '{WEIGHTS}' is missing.", "Give the folder a fine-tune wrote.")
    return _hash_once(weights)


def hash_adapter(folder: Path) -> str:
    """Hash of everything in a PEFT folder that changes an answer: the weights, and the settings (scale, modules) beside them."""
    config = folder / CONFIG
    return hash_json([hash_adapter_weights(folder), _hash_once(config) if config.is_file() else None])


def _hash_once(path: Path) -> str:
    """The file's sha256, read again only when the file system says that it changed: a single answer may take less time."""
    stat = path.stat()
    return _hash(path.resolve(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=64)
def _hash(path: Path, *version: int) -> str:
    return hash_file(path)
