"""The commands about this machine: `models`, `doctor`."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.util import find_spec

from stepladder.domain.errors import ModelError
from stepladder.engines.closing import closing_dates, says_when
from stepladder.interfaces.cli.climbing import watching
from stepladder.models.catalog import STARTER_EMBEDDER, STARTER_MODEL, cache_folder
from stepladder.models.pull import list_models, pull
from stepladder.service.openai_account import ending_lines, ending_models
from stepladder.service.setup import versions
from stepladder.storage.records import to_json

SMALLEST_FREE_GIGABYTES = 3.0
EXTRAS = {
    "train": ("torch", "transformers", "peft"),
    "qlora": ("bitsandbytes",),
    "constrained": ("llguidance",),
    "documents": ("pypdf",),
    "graders": ("pydantic_monty", "re2"),
    "data": ("pyarrow",),
    "serve": ("fastapi", "uvicorn", "sse_starlette", "python_multipart"),
}
OPTIONAL = ("documents", "qlora", "graders", "data", "serve", "openai")
"""Extras that a climb can do without."""


@dataclass(frozen=True)
class Check:
    """One line of `doctor`."""

    name: str
    ok: bool
    says: str


def pull_model(name: str, *, as_json: bool) -> None:
    """Fetch a model (and the embedder, which every climb needs) and say where it lies."""
    with watching() as watcher:
        folder = pull(name, progress=watcher.progress)
        if name == STARTER_MODEL.name:
            pull(STARTER_EMBEDDER.name, progress=watcher.progress)
    print(json.dumps({"name": name, "folder": str(folder)}) if as_json else f"{name} is ready in {folder}")


def show_models(*, as_json: bool) -> None:
    """The cache's models."""
    found = list_models()
    if as_json:
        print(json.dumps([{"name": model.name, "folder": str(model.folder), "source": model.source} for model in found]))
        return
    for model in found:
        print(f"{model.name:<32} {model.folder}")
    if not found:
        print("No model yet. Run: stepladder models pull smollm2-135m-instruct")


def doctor(*, openai: bool, as_json: bool) -> int:
    """Say what works here; 0 when a climb on this machine's own model can run, 4 otherwise.

    OpenAI is asked about the account's models only where `openai` says so, with its key.
    """
    today = datetime.now(UTC).date()
    checks = [*_extras(), *_torch(), _disk(), _models(), _closing(today)]
    ending = ending_models(today) if openai else []
    if as_json:
        print(
            json.dumps({"versions": versions(), "checks": [vars(check) for check in checks], "ending": to_json(ending)}, indent=2)
        )
    else:
        print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
        for check in checks:
            print(f"{'ok  ' if check.ok else 'MISS'} {check.name}: {check.says}")
        for line in ending_lines(ending, today) if openai else ():
            print(line)
    return 0 if all(check.ok for check in checks if check.name not in OPTIONAL) else 4


def _extras() -> list[Check]:
    found = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        says = "installed" if not missing else f"{', '.join(missing)} missing. Run: pip install 'stepladder[{extra}]'"
        found.append(Check(extra, not missing, says))
    return found


def _torch() -> list[Check]:
    if find_spec("torch") is None:
        return []
    from stepladder.models.hardware import probe

    found = probe()
    return [Check("device", True, f"{found.device}, numbers in {found.dtype}; {found.accelerator or found.cpu}")]


def _disk() -> Check:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    return Check("disk", free >= SMALLEST_FREE_GIGABYTES, f"{free:.0f} GB free in {folder}")


def _closing(today: date) -> Check:
    """Only what the package knows: nothing is fetched."""
    dates = closing_dates()
    jobs = says_when(dates.last_new_jobs, today, past="took its last fine-tuning jobs on", future="takes fine-tuning jobs until")
    asked = "" if not os.environ.get("OPENAI_API_KEY") else " `stepladder doctor --openai` looks at the account's models."
    return Check("openai", True, f"OpenAI {jobs}, as of {dates.looked_up}.{asked}")


def _models() -> Check:
    try:
        names = [model.name for model in list_models()]
    except ModelError as error:
        return Check("models", False, str(error))
    return Check("models", True, ", ".join(names) if names else "none yet; a climb pulls the starter model")
