"""The rivals' own virtual environments, under `benchmarks/work/environments/`: made once, pinned, by package name only."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.domain.errors import EngineError
from stepladder.files import write_text

FOLDER = Path(__file__).resolve().parents[1] / "work" / "environments"
CUDA_PARTS = ("nvidia-", "cuda-", "triton")
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


@dataclass(frozen=True, slots=True)
class Environment:
    """Packages with dependencies, and packages without on a CPU: Unsloth asks for GPU libraries that it does not import there."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


ENVIRONMENTS = {
    "trl": Environment(("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "trl==1.16.0", "bitsandbytes==0.50.2")),
    "unsloth": Environment(
        ("torch==2.13.0", "transformers==5.17.0", "peft==0.21.2", "trl==1.15.0", "datasets<5", "bitsandbytes==0.50.2"),
        ("unsloth==2026.10.9", "unsloth_zoo==2026.10.9"),
    ),
    "script": Environment(("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "trl==1.16.0", "llguidance==1.9.1")),
}


def interpreter(name: str, *, folder: Path = FOLDER) -> Path:
    """Python of an environment; "main" is the one that runs this."""
    return Path(sys.executable) if name == "main" else folder / name / "bin" / "python"


def prepare(name: str, *, gpu: bool = False, folder: Path = FOLDER) -> Path:
    """Make the environment unless it is there with these very packages. Returns its Python.

    Raises:
        EngineError: pip cannot install it, or would take a CUDA build of torch for a comparison on the CPU.
    """
    python = interpreter(name, folder=folder)
    if name == "main":
        return python
    wanted, stamp = ENVIRONMENTS[name], folder / name / "installed.json"
    described = json.dumps({"packages": wanted.packages, "alone": wanted.alone, "gpu": gpu})
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == described:
        return python
    print(
        f"{name}: installing {', '.join((*wanted.packages, *wanted.alone))} into {python.parents[1].name}/ (about 1.5 GB)",
        flush=True,
    )
    venv.EnvBuilder(with_pip=True, clear=True).create(folder / name)
    if not gpu:
        refuse_cuda(_would_install(python, wanted.packages))
    _pip(python, *wanted.packages)
    if wanted.alone:
        _pip(python, *(() if gpu else ("--no-deps",)), *wanted.alone)
    write_text(stamp, described)
    return python


def refuse_cuda(report: Mapping[str, Any]) -> None:
    """
    Args:
        report: Of `pip install --dry-run --report -`.
    Raises:
        EngineError: CUDA libraries are among what would be installed: gigabytes that a CPU comparison has no use for.
    """
    names = [str(one["metadata"]["name"]).lower() for one in report["install"]]
    found = sorted(name for name in names if name.startswith(CUDA_PARTS))
    if found:
        raise EngineError(
            f"pip would install a CUDA build of torch here ({found[0]} and {len(found) - 1} more).",
            "Let pip find the CPU build of torch 2.13.0 (PyTorch's install page names its index), then run this again.",
        )


def _would_install(python: Path, packages: Sequence[str]) -> dict[str, Any]:
    report = _pip(python, "--dry-run", "--report", "-", *packages)
    found = json.loads(report)
    assert isinstance(found, dict)
    return found


def _pip(python: Path, *arguments: str) -> str:
    done = subprocess.run([str(python), *PIP, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(
            f"pip could not install {', '.join(arguments)}: {last}", "Check the package index, then run this again."
        )
    return done.stdout
