"""What a training is bound to, row by row, so that a resume with other data or another base is refused with the difference."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stepladder.domain.errors import RunError
from stepladder.files import hash_json, write_text
from stepladder.models.hardware import cpu_model
from stepladder.models.prefix.rows import EncodedRow

BINDING_FILE = "binding.json"
PACKAGES = ("stepladder", "torch", "transformers", "peft", "safetensors")
PASSES = "tokens_per_pass"
NAMES_SHOWN = 3
HEX_SHOWN = 12
NAME_LENGTH = 16  # of a checkpoint folder's name, from the digest of what it is bound to

RowHashes = Mapping[str, Mapping[str, str]]
"""Of the training and the held-out rows: row id -> hash of its tokens and weights."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Everything an adapter depends on. `pins` as `record.pins` makes them."""

    pins: Mapping[str, Any]
    rows: RowHashes

    @property
    def digest(self) -> str:
        """Equal for trainings of the same bits. The base counts by its weights, not by its name or its place."""
        return hash_json({key: value for key, value in self.pins.items() if key != "base" or not self.pins["base_sha256"]})

    @property
    def training(self) -> str:
        """Equal for trainings that may continue each other: how rows are cut into passes changes no more than the rounding."""
        settings = {key: value for key, value in self.pins["settings"].items() if key != PASSES}
        return replace(self, pins={**self.pins, "settings": settings}).digest

    @property
    def tokens_per_pass(self) -> int:
        return int(self.pins["settings"][PASSES])


def bind(pinned: Mapping[str, Any], rows: Sequence[EncodedRow], held_out: Sequence[EncodedRow]) -> Binding:
    return Binding(pinned, {"training": row_hashes(rows), "held-out": row_hashes(held_out)})


def row_hashes(rows: Sequence[EncodedRow]) -> dict[str, str]:
    """By id, of all that is learned of a row; what is excluded counts where there is something."""
    return {
        row.id: hash_json([row.token_ids, row.weights, *([row.excluded] if row.excluded else [])])[:16] for row in rows
    }  # fmt: skip


def versions() -> dict[str, str]:
    """The libraries that decide a training's bits."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def circumstances(device: torch.device) -> dict[str, str]:
    """What else decides a training's bits: where, and in how many parts at once, its sums are taken."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    cpu = {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    return {"device": device.type, "processor": cpu_model(), **(cpu if device.type == "cpu" else {})}


def write_binding(folder: Path, binding: Binding, device: torch.device) -> None:
    """Leave beside the checkpoints what they belong to."""
    content = {"pins": dict(binding.pins), "rows": binding.rows, "versions": versions(), "circumstances": circumstances(device)}
    write_text(folder / BINDING_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_binding(folder: Path) -> Binding | None:
    """What the checkpoints in `folder` belong to; None when that cannot be read."""
    raw = _read(folder)
    try:
        binding = Binding(dict(raw["pins"]), {part: dict(rows) for part, rows in raw["rows"].items()})
        whole = binding.digest[:NAME_LENGTH] == folder.name and binding.tokens_per_pass > 0
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return binding if whole else None


def changed_since(folder: Path, device: torch.device) -> list[str]:
    """What decides the bits and is no longer as it was when a training was begun, in words: libraries, then the machine."""
    raw = _read(folder)
    found = {
        "with other versions": _changes(raw.get("versions"), versions()),
        "under other circumstances": _changes(raw.get("circumstances"), circumstances(device)),
    }
    return [f"{what} ({changes})" for what, changes in found.items() if changes]


def _changes(recorded: object, here: Mapping[str, str]) -> str:
    if not isinstance(recorded, dict):
        return ""
    return ", ".join(f"{name} {recorded[name]} -> {here[name]}" for name in here if recorded.get(name, here[name]) != here[name])


def place_of(checkpoints: Path, binding: Binding) -> Path:
    """Where below `checkpoints` a training keeps its own."""
    return checkpoints / binding.digest[:NAME_LENGTH]


def as_begun(checkpoints: Path, wanted: Binding) -> Binding:
    """`wanted`, with the passes of the training that was broken off below `checkpoints` and that it continues, if there is one.

    Passes are cut by the machine's memory unless the user says otherwise, so on another machine the same training wants others.
    """
    folders = _broken_off(checkpoints)
    if place_of(checkpoints, wanted) in folders:
        return wanted
    folders.sort(key=lambda folder: max(path.name for path in folder.glob("step-*")))
    same = [other for folder in folders if (other := read_binding(folder)) is not None and other.training == wanted.training]
    if not same:
        return wanted
    settings = {**wanted.pins["settings"], PASSES: same[-1].tokens_per_pass}  # of the one that came furthest
    return replace(wanted, pins={**wanted.pins, "settings": settings})


def refuse_others(checkpoints: Path, wanted: Binding) -> None:
    """Whether a training of other data, settings or base was broken off below `checkpoints`, and none of the one wanted.

    Raises:
        RunError: There is one; it says what differs, or that this is no longer known.
    """
    if place_of(checkpoints, wanted).is_dir():
        return
    for folder in _broken_off(checkpoints):
        other = read_binding(folder)
        if other is not None:
            raise other_training(f"a training that was broken off at {checkpoints}", other, wanted)
        raise RunError(
            f"a training that was broken off at {folder} belongs to other data, settings or another base; its {BINDING_FILE}, "
            "which would say what differs, cannot be read.",
            "Bring the former ones back to continue it; to train on these, choose another folder or move that one away.",
        )


def _broken_off(checkpoints: Path) -> list[Path]:
    """Folders below `checkpoints` with checkpoints in them, of whatever training."""
    found = sorted(checkpoints.iterdir()) if checkpoints.is_dir() else []
    return [folder for folder in found if folder.is_dir() and any(folder.glob("step-*"))]


def other_training(what: str, recorded: Binding, wanted: Binding) -> RunError:
    """The error about `what` that belongs to something else, with the difference in words."""
    changes = "; ".join(differences(recorded, wanted)) or "something that is not recorded"
    return RunError(
        f"{what} belongs to other data, settings or another base: {changes}.",
        "Bring the former ones back to continue it; to train on the new ones, choose another folder or move that one away.",
    )


def differences(recorded: Binding, wanted: Binding) -> list[str]:
    """What differs, in words, old before new: pins one by one, rows by id."""
    old, new = (_flat(side.pins) for side in (recorded, wanted))
    if old.get("base_sha256") and old.get("base_sha256") == new.get("base_sha256"):
        old.pop("base", None), new.pop("base", None)
    old.pop(PASSES, None), new.pop(PASSES, None)
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    said = [f"{key} {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in changed if key not in _ROW_PINS]
    for pin, part in _ROW_PINS.items():
        if pin in changed:
            said.append(f"{part} rows: {_row_changes(recorded.rows.get(part, {}), wanted.rows.get(part, {}))}")
    return said


_ROW_PINS = {"data_sha256": "training", "held_out_sha256": "held-out"}


def _row_changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    found = {
        "added": [id for id in new if id not in old],
        "removed": [id for id in old if id not in new],
        "changed": [id for id in new if id in old and new[id] != old[id]],
    }
    said = [f"{len(ids)} {how} ({_names(ids)})" for how, ids in found.items() if ids]
    return ", ".join(said) or "the same in another order"


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMES_SHOWN]) + (", …" if len(ids) > NAMES_SHOWN else "")


def _flat(pins: Mapping[str, Any]) -> dict[str, Any]:
    """Pins and settings on one level, as they come back from a file (tuples become lists there)."""
    plain = json.loads(json.dumps(dict(pins)))
    settings = plain.pop("settings", {})
    return {**plain, **settings}


def _shown(value: Any) -> str:
    if value is None:
        return "(not recorded)"
    return f"{value[:HEX_SHOWN]}…" if isinstance(value, str) and len(value) == 64 else str(value)


def _read(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / BINDING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
