"""Tasks that come with Stepladder, written for it row by row."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from shutil import copytree

from stepladder.domain.errors import UsageError
from stepladder.files import new_folder

NAMES = ("tickets", "handbook", "voice", "clinic", "repairs")


def copy_bundled(name: str, folder: Path) -> Path:
    """Copy a bundled task to `folder`, unless one lies there already (then it is used, and a broken-off climb continues).

    Raises:
        UsageError: There is no bundled task of that name, or other files lie at `folder`.
    """
    if name not in NAMES:
        raise UsageError(f"there is no bundled task '{name}'.", f"Choose one of: {', '.join(NAMES)}.")
    if (folder / "task.toml").exists():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty and holds no task.", "Choose another --folder.")
    with as_file(files(__package__) / name) as source, new_folder(folder) as target:
        copytree(source, target, dirs_exist_ok=True)
    return folder
