"""What a model folder is: where it came from and the hashes of what matters in it. Knows no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from stepladder.domain.errors import ModelError
from stepladder.files import hash_file, hash_json, hash_text, write_text

MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest.json"
TEMPLATE_NAME = "chat_template.jinja"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LIBRARIES = ("stepladder", "torch", "transformers", "tokenizers", "safetensors", "gguf")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """One model, as recorded when it was put where it is. Hashes are sha256 in hex.

    `folder` is where config, weights and tokenizer lie; `files` gives the size of each in bytes, so that a folder that
    lost or changed one is noticed without reading it.
    """

    name: str
    kind: str
    folder: Path
    source: str
    weights_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    files: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    revision: str = ""
    licence: str = ""
    original: str = ""
    gguf_sha256: str = ""
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        record = {"format": MANIFEST_FORMAT, **asdict(self), "folder": str(self.folder)}
        write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> ModelManifest | None:
        """The manifest at `path`; None when there is none or it is of another format."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("format") != MANIFEST_FORMAT:
            return None
        known = {entry.name for entry in fields(cls)}
        values = {key: value for key, value in record.items() if key in known}
        try:
            return cls(**{**values, "folder": Path(values["folder"]), "notes": tuple(values.get("notes", ()))})
        except (KeyError, TypeError):
            return None

    def is_whole(self) -> bool:
        """Whether every recorded file is still there with its size."""
        return all(_size(self.folder / name) == size for name, size in self.files.items())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def describe(folder: Path, **known: Any) -> ModelManifest:
    """Hash a Hugging Face folder; `known` are the fields only the caller can say (`name`, `kind`, `source`, ...).

    Raises:
        ModelError: As `refuse_unsafe`.
    """
    refuse_unsafe(folder)
    weights = weight_files(folder)
    hashes = {path.name: hash_file(path) for path in weights}
    return ModelManifest(
        folder=folder,
        weights_sha256=next(iter(hashes.values())) if len(hashes) == 1 else hash_json(hashes),
        tokenizer_sha256=hash_file(folder / "tokenizer.json"),
        template_sha256=hash_text(read_template(folder)),
        files=file_sizes(folder),
        parameters=sum(count_parameters(path) for path in weights),
        versions=library_versions(),
        **known,
    )


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder that cannot be loaded, or only by running what is in it.

    Raises:
        ModelError: No config, `auto_map` (the model brings its own code), no safetensors weights (pickles can run code),
            or no `tokenizer.json`; each named.
    """
    config = read_json(folder / "config.json")
    if not config:
        raise ModelError(f"{folder}: there is no readable config.json.", "Give a folder saved by `save_pretrained`.")
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in read_json(folder / name):
            raise ModelError(
                f"{folder / name}: the model brings its own Python code (`auto_map`), which Stepladder never runs.",
                "Use a model whose architecture is part of transformers.",
            )
    if not weight_files(folder):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        held = f"only pickles ({', '.join(pickles)}), which can run code" if pickles else "no weights"
        raise ModelError(f"{folder}: it holds {held}.", "Convert the weights to safetensors, or take another revision.")
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder}: there is no tokenizer.json.", "Save the tokenizer with transformers' fast tokenizer.")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files transformers would load: those of the index, else `model.safetensors`, else all."""
    index = read_json(folder / "model.safetensors.index.json").get("weight_map")
    if isinstance(index, dict):
        return [folder / name for name in sorted({str(name) for name in index.values()})]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model*.safetensors"))


def count_parameters(weights: Path) -> int:
    """Numbers in a safetensors file, from its header alone.

    Raises:
        ModelError: The header is no safetensors header, or points outside the file.
    """
    problem = f"{weights}: not a sound safetensors file"
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(weights.stat().st_size, 100_000_000):
            raise ModelError(f"{problem} (its header claims {length} bytes).", "Download it again.")
        try:
            header = json.loads(file.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            ends = [entry["data_offsets"][1] for entry in tensors]
            counts = [_product(entry["shape"]) for entry in tensors]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ModelError(f"{problem} (its header cannot be read).", "Download it again.") from error
    if 8 + length + max(ends, default=0) > weights.stat().st_size:
        raise ModelError(f"{problem} (it is cut off).", "Download it again.")
    return sum(counts)


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= int(size)
    return product


def read_template(folder: Path) -> str:
    """The chat template of a model folder; empty when it has none."""
    path = folder / TEMPLATE_NAME
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template", "")
    if isinstance(template, list):  # several named templates: transformers takes the one called "default"
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default") or ""
    return str(template)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def file_sizes(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_size
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja") and path.name != MANIFEST_NAME
    }


def library_versions() -> dict[str, str]:
    """Versions of the libraries that shaped the files, those installed."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
