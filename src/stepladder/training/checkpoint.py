"""Checkpoints: everything a training needs to go on as if it had never stopped, whole or not there at all.

A checkpoint is a folder `step-000040` with the adapter, the optimizer's moments, what happened so far, and a manifest with the
hash of each, written last. The folder is filled aside and renamed, so one that carries its name and matches its manifest is
complete. The order of the rows is a pure function of seed and step, and nothing else is random (no dropout): the step is
the cursor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepladder.domain.protocols import TrainPoint
from stepladder.files import hash_file, new_folder, write_text

MANIFEST = "manifest.json"
ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1
NEWEST_KEPT = 2


@dataclass(frozen=True, slots=True)
class Progressed:
    """What a training has seen so far. `evaluations` holds the steps that may still be the one to keep, and the newest."""

    step: int = 0
    history: tuple[TrainPoint, ...] = ()
    evaluations: Mapping[int, tuple[float, ...]] | None = None
    tokens: int = 0
    seconds: float = 0.0


def save_checkpoint(
    folder: Path, progressed: Progressed, adapter: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, binding: str
) -> None:
    """Write the checkpoint of `progressed.step` into `folder`. `binding`: hash of settings, data and base it belongs to."""
    with new_folder(_path(folder, progressed.step)) as fresh:
        save_file({name: value.detach().contiguous() for name, value in adapter.items()}, fresh / ADAPTER)
        save_file(_moments(optimizer), fresh / OPTIMIZER)
        write_text(fresh / STATE, json.dumps(_as_json(progressed)))
        files = {name: hash_file(fresh / name) for name in (ADAPTER, OPTIMIZER, STATE)}
        manifest = {"format": FORMAT, "step": progressed.step, "binding": binding, "files": files}
        write_text(fresh / MANIFEST, json.dumps(manifest, indent=2))


def newest_checkpoint(folder: Path, binding: str, note: Callable[[str], None]) -> Progressed | None:
    """The newest complete checkpoint in `folder` whose kept steps are complete too; broken ones are named and passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        fault = _fault(path, binding)
        if fault is None:
            progressed = _from_json(json.loads((path / STATE).read_text(encoding="utf-8")))
            needed = [_path(folder, step) for step in progressed.evaluations or ()]
            fault = next((f"it needs {other.name}: {why}" for other in needed if (why := _fault(other, binding))), None)
            if fault is None:
                return progressed
        note(f"Checkpoint {path.name} cannot be used ({fault}); going back to the one before.")
    return None


def load_adapter(folder: Path, step: int) -> dict[str, Tensor]:
    """Adapter tensors of a checkpoint, by parameter name."""
    tensors: dict[str, Tensor] = load_file(_path(folder, step) / ADAPTER)
    return tensors


def restore_optimizer(folder: Path, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Put the moments of a checkpoint into an optimizer over the same parameters."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(_path(folder, step) / OPTIMIZER).items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def prune(folder: Path, kept: Sequence[int]) -> None:
    """Delete the checkpoints that are neither among the `kept` steps nor among the two newest."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))
    for step in steps[:-NEWEST_KEPT]:
        if step not in kept:
            shutil.rmtree(_path(folder, step))


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _fault(path: Path, binding: str) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        if manifest["format"] != FORMAT:
            return "another version wrote it"
        if manifest["binding"] != binding:
            return "it belongs to other settings or data"
        damaged = [name for name in (ADAPTER, OPTIMIZER, STATE) if hash_file(path / name) != files[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is incomplete: {type(error).__name__}"
    return f"{damaged[0]} is damaged" if damaged else None


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}/{key}": value.contiguous() for number, values in state.items() for key, value in values.items()}


def _as_json(progressed: Progressed) -> dict[str, Any]:
    return {
        "step": progressed.step,
        "history": [asdict(point) for point in progressed.history],
        "evaluations": {str(step): list(nll) for step, nll in (progressed.evaluations or {}).items()},
        "tokens": progressed.tokens,
        "seconds": progressed.seconds,
    }


def _from_json(raw: Mapping[str, Any]) -> Progressed:
    return Progressed(
        step=raw["step"],
        history=tuple(TrainPoint(**point) for point in raw["history"]),
        evaluations={int(step): tuple(nll) for step, nll in raw["evaluations"].items()},
        tokens=raw["tokens"],
        seconds=raw["seconds"],
    )
