"""A LoRA adapter made weaker: the same folder with its effect multiplied, so that whoever loads it gets the scaled model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from stepladder import files
from stepladder.domain.errors import ModelError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
SIDE_FILE = "stepladder.json"
CARD_FILE = "README.md"
_SECOND_MATRICES = (".lora_B.", ".lora_embedding_B")  # an adapter adds scale · B·A, so scaling every B scales the whole


def write_scaled(source: Path, target: Path, scale: float) -> str:
    """Write the adapter of `source` with its effect times `scale` to `target`; the sha256 of its weights.

    The weights themselves are scaled, not the settings beside them: the file's hash then names exactly what answers, in
    every program that reads it.

    Raises:
        ModelError: No plain LoRA weights, or ones whose effect is not linear in them (DoRA).
    """
    tensors = _read(source / WEIGHTS_FILE)
    scaled = {name: _times(tensor, scale) if _is_second(name) else tensor for name, tensor in tensors.items()}
    if not any(map(_is_second, tensors)) or any("magnitude" in name for name in tensors):
        raise ModelError(f"{source}: only plain LoRA adapters can be scaled.", "Train the adapter as plain LoRA.")
    with files.new_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / WEIGHTS_FILE).write_bytes(save(scaled, metadata={"format": "pt"}))
        digest = files.hash_file(folder / WEIGHTS_FILE)
        _note_scale(folder, scale, digest)
    return digest


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: the weights cannot be read as numbers ({error}).", "Save the adapter in fp32.") from error
    return tensors


def _is_second(name: str) -> bool:
    return any(part in name for part in _SECOND_MATRICES)


def _times(tensor: NDArray[Any], scale: float) -> NDArray[Any]:
    return np.asarray(tensor * np.asarray(scale, dtype=tensor.dtype), dtype=tensor.dtype)


def _note_scale(folder: Path, scale: float, digest: str) -> None:
    """Say in the adapter's own papers what was done to it."""
    side = folder / SIDE_FILE
    if side.is_file():
        said = json.loads(side.read_text(encoding="utf-8"))
        said |= {"scale": scale, "scaled_from_sha256": said.get("adapter_sha256", ""), "adapter_sha256": digest}
        side.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    card = folder / CARD_FILE
    if card.is_file():
        note = f"\nThe adapter's effect was then scaled to {scale:g} of what was trained, to keep the base's general abilities.\n"
        card.write_text(card.read_text(encoding="utf-8") + note, encoding="utf-8")
