"""Checkpoints: everything a training needs to go on as if it had never stopped, whole or not there at all.

A checkpoint is a folder `step-000040` with the adapter, the optimizer's moments, what happened so far, and a manifest with the
size and hash of each and of itself, written last. The folder is filled aside and renamed, so one that carries its name and
matches its manifest is complete. The order of the rows is a pure function of seed and step, and nothing else is random (no
dropout): the step is the cursor, and no state of a random generator is kept. A checkpoint also needs the adapters of the earlier
steps that may still be the one to keep; its manifest names them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from stepladder.domain.errors import RunError
from stepladder.domain.protocols import TrainPoint
from stepladder.files import hash_bytes, hash_file, hash_json, new_folder, write_bytes, write_text
from stepladder.training.binding import versions

MANIFEST = "manifest.json"
ADAPTER, OPTIMIZER, STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 2
NEWEST_KEPT = 2
NAME = re.compile(r"step-([0-9]{6,})")


@dataclass(frozen=True, slots=True)
class Progressed:
    """What a training has seen so far. `evaluations` holds the steps that may still be the one to keep, and the newest."""

    step: int = 0
    history: tuple[TrainPoint, ...] = ()
    evaluations: Mapping[int, tuple[float, ...]] | None = None
    tokens: int = 0
    seconds: float = 0.0

    @property
    def evaluated(self) -> bool:
        """Whether the evaluation that may be due after its step is done."""
        return self.step in (self.evaluations or {})


def save_checkpoint(
    folder: Path, progressed: Progressed, adapter: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, binding: str
) -> None:
    """Write the checkpoint of `progressed.step` into `folder`. `binding`: hash of settings, data and base it belongs to.

    Raises:
        OSError: The disk is full or fails; every earlier checkpoint is as it was, and none is half there.
    """
    contents = {
        ADAPTER: save({name: value.detach().contiguous() for name, value in adapter.items()}),
        OPTIMIZER: save(_moments(optimizer)),
        STATE: json.dumps(_as_json(progressed)).encode("utf-8"),
    }
    manifest = {
        "format": FORMAT,
        "step": progressed.step,
        "evaluated": progressed.evaluated,
        "needs": sorted({*(progressed.evaluations or {})} - {progressed.step}),
        "binding": binding,
        "files": {name: hash_bytes(content) for name, content in contents.items()},
        "bytes": {name: len(content) for name, content in contents.items()},
        "versions": versions(),
    }
    manifest["sha256"] = hash_json(manifest)
    with new_folder(_path(folder, progressed.step)) as fresh:
        for name, content in contents.items():
            write_bytes(fresh / name, content)
        write_text(fresh / MANIFEST, json.dumps(manifest, indent=2))


def newest_checkpoint(folder: Path, binding: str, note: Callable[[str], None]) -> Progressed | None:
    """The newest complete checkpoint in `folder` whose kept steps are complete too; broken ones are named and passed over."""
    found = _checkpoints(folder)
    strays = sorted(path.name for path in folder.glob("step-*") if path not in found.values())
    for name in strays:
        note(f"{name} in {folder.name} has no checkpoint's name; it is passed over.")
    for path in found.values():
        fault = _fault(path, binding)
        if fault is None:
            needed = [_path(folder, step) for step in _manifest(path)["needs"]]
            fault = next((f"it needs {other.name}: {why}" for other in needed if (why := _fault(other, binding))), None)
        if fault is None:
            return _from_json(json.loads((path / STATE).read_text(encoding="utf-8")))
        note(f"Checkpoint {path.name} cannot be used ({fault}); going back to the one before.")
    if found or strays:
        note("No checkpoint can be used: the training starts from the beginning.")
    return None


def load_adapter(folder: Path, step: int) -> dict[str, Tensor]:
    """Adapter tensors of a checkpoint, by parameter name."""
    tensors: dict[str, Tensor] = load_file(_path(folder, step) / ADAPTER)
    return tensors


def restore_optimizer(folder: Path, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Put the moments of a checkpoint into an optimizer over the same parameters.

    Raises:
        RunError: They are not those of exactly these parameters after exactly `step` steps.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(_path(folder, step) / OPTIMIZER).items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fitting = [
        number
        for number, parameter in enumerate(parameters)
        if all(
            value.shape == parameter.shape
            for key, value in moments.get(number, {"none": torch.empty(0)}).items()
            if key != "step"
        )
    ]
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if len(moments) != len(parameters) or len(fitting) != len(parameters) or steps_taken(optimizer) != step:
        raise RunError(
            f"the optimizer of checkpoint step-{step:06d} fits {len(fitting)} of {len(parameters)} tensors and says that "
            f"{steps_taken(optimizer)} steps were taken.",
            f"Move the folder {folder.parent.name} away to train from the start.",
        )


def steps_taken(optimizer: torch.optim.Optimizer) -> int | None:
    """Steps by the optimizer's own counters, which it raises before it touches a parameter; None when they disagree."""
    counters = {int(values["step"]) for values in optimizer.state.values()}
    if not counters:
        return 0
    return counters.pop() if len(counters) == 1 else None


def prune(folder: Path, step: int) -> None:
    """Delete the checkpoints up to `step` that no way back needs.

    Kept are the two newest, the two newest with an evaluation, and what these need: one damaged file, whichever, costs some
    steps and not the training. Those beyond `step`, and those that cannot be read, were found broken; they stay.
    """
    known = _checkpoints(folder)
    manifests = {number: _manifest(path) for number, path in known.items() if number <= step}
    manifests = {number: manifest for number, manifest in manifests.items() if _is_list_of_steps(manifest.get("needs"))}
    newest = list(manifests)[:NEWEST_KEPT]
    evaluated = [number for number, manifest in manifests.items() if manifest.get("evaluated")][:NEWEST_KEPT]
    kept = {*newest, *evaluated}
    kept |= {need for number in kept for need in manifests[number]["needs"]}
    for number in manifests.keys() - kept:
        shutil.rmtree(known[number], ignore_errors=True)


def _checkpoints(folder: Path) -> dict[int, Path]:
    """What is named as a checkpoint of `folder`, newest first, by step. A copy that a file manager made is not."""
    steps = sorted((int(named[1]) for path in folder.glob("step-*") if (named := NAME.fullmatch(path.name))), reverse=True)
    return {step: path for step in steps if (path := _path(folder, step)).exists()}


def _is_list_of_steps(value: object) -> bool:
    return isinstance(value, list) and all(type(step) is int for step in value)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest; empty when it cannot be read or is not as it was written (older ones hold no hash of theirs)."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict):
        return {}
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return manifest if manifest.get("sha256", hash_json(rest)) == hash_json(rest) else {}


def _fault(path: Path, binding: str) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when it is whole."""
    manifest = _manifest(path)
    if not manifest:
        return f"its {MANIFEST} is missing or damaged"
    try:
        files: dict[str, str] = manifest["files"]
        if manifest["format"] != FORMAT:
            return "another version wrote it"
        if manifest["binding"] != binding:
            return "it belongs to other settings or data"
        sizes = {name: (path / name).stat().st_size for name in files}
        cut = [name for name, size in manifest.get("bytes", {}).items() if sizes[name] != size]
        damaged = [name for name in (ADAPTER, OPTIMIZER, STATE) if hash_file(path / name) != files[name]]
        misplaced = _path(path.parent, manifest["step"]) != path
        if not _is_list_of_steps(manifest["needs"]):
            return f"its {MANIFEST} is missing or damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is incomplete: {type(error).__name__}"
    if misplaced:
        return "its manifest is another checkpoint's"
    if cut:
        return f"{cut[0]} has {sizes[cut[0]]:,} bytes, not {manifest['bytes'][cut[0]]:,}"
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
