"""`receipt.json`: size and hash of every file of a finished run, so that a changed byte is found and named.

It finds damage and absent-mindedness. Who changes a file on purpose can write a new receipt as well: what speaks against that
is that grades, verdict and what the record lists of test rows follow from the rows, which `service.verify` reckons again.
What that takes as recorded (its `TAKEN`), a new receipt hides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepladder import files

FILE = "receipt.json"
FORMAT = 1
SMALLEST_BLOCK = 4096  # bytes
MOST_BLOCKS = 256
GROWING = frozenset({"generations.jsonl", "replay.jsonl", "money.jsonl"})
"""Line files that a finished run may still add to (`predict` with another rung); what they held must stay."""
LATER = frozenset({"review.jsonl", "review.json"})
"""Files that people add after the climb."""


class FileReceipt(BaseModel):
    """One file: hash of the whole, and short hashes of its blocks, so that a change can be located."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int = Field(ge=0)
    sha256: str
    block: int = Field(ge=1)
    blocks: list[str]


@dataclass(frozen=True, slots=True)
class Difference:
    """What is wrong with one file, relative to the run folder."""

    file: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


def write_receipt(folder: Path, pending: Mapping[str, bytes]) -> None:
    """Write the receipt of a run folder.

    Args:
        pending: Files that are about to be written, by name.
    """
    found = {_name(folder, path): path.read_bytes for path in _files(folder)}
    made = {name: _receipt_of(read()) for name, read in found.items() if name not in pending and name not in LATER}
    made |= {name: _receipt_of(content) for name, content in pending.items()}
    _write(folder, made)


def renew_receipt(folder: Path, name: str) -> None:
    """Enter one file anew; the others keep what the receipt says of them. A broken receipt is left as it is."""
    known = _read(folder)
    if isinstance(known, dict):
        _write(folder, {**known, name: _receipt_of((folder / name).read_bytes())})


def compare_with_receipt(folder: Path) -> tuple[list[Difference], list[str], int]:
    """The run folder against its receipt.

    Returns:
        What differs; files that came later, which is no fault; number of files that are in the receipt.
    """
    known = _read(folder)
    if isinstance(known, Difference):
        return [known], [], 0
    present = {_name(folder, path) for path in _files(folder)}
    differences = []
    for name, receipt in known.items():
        problem = "it is missing." if name not in present else _problem(name, (folder / name).read_bytes(), receipt)
        if problem:
            differences.append(Difference(name, problem))
    return differences, sorted(present - known.keys()), len(known)


def _files(folder: Path) -> Iterator[Path]:
    """Every file but the receipt itself, locks and temporary files."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path != folder / FILE:
            yield path


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _receipt_of(content: bytes, block: int | None = None) -> FileReceipt:
    block = block or max(SMALLEST_BLOCK, ceil(len(content) / MOST_BLOCKS))
    parts = [content[start : start + block] for start in range(0, len(content), block)]
    return FileReceipt(
        size=len(content),
        sha256=files.hash_bytes(content),
        block=block,
        blocks=[hashlib.sha256(part).hexdigest()[:8] for part in parts],
    )


def _problem(name: str, content: bytes, receipt: FileReceipt) -> str:
    """What differs, as closely as the blocks tell; empty when nothing does."""
    if name in GROWING and len(content) > receipt.size:
        content = content[: receipt.size]
    now = _receipt_of(content, receipt.block)
    if now == receipt:
        return ""
    place = next(
        (number for number, pair in enumerate(zip(now.blocks, receipt.blocks, strict=False)) if pair[0] != pair[1]),
        min(len(now.blocks), len(receipt.blocks)),
    )
    start = place * receipt.block
    end = min(start + receipt.block, max(len(content), receipt.size))
    lines = f"line {content[:start].count(10) + 1} on, " if b"\x00" not in content else ""
    sizes = "" if len(content) == receipt.size else f" It has {len(content):,} bytes and had {receipt.size:,}."
    return f"it was changed: {lines}bytes {start:,} to {end:,} differ first.{sizes}"


def _write(folder: Path, made: Mapping[str, FileReceipt]) -> None:
    entries = {name: receipt.model_dump() for name, receipt in sorted(made.items())}
    head = f'"format": {FORMAT}, "checksum": {json.dumps(files.hash_json(entries))}'
    lines = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(entry)}" for name, entry in entries.items())
    files.write_text(folder / FILE, f'{{{head}, "files": {{\n{lines}\n}}}}\n')


def _read(folder: Path) -> dict[str, FileReceipt] | Difference:
    path = folder / FILE
    if not path.is_file():
        return Difference(FILE, "it is missing: nothing says what the files were like.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT or raw["checksum"] != files.hash_json(raw["files"]):
            return Difference(FILE, "it was changed: its entries do not fit its checksum.")
        return {name: FileReceipt.model_validate(entry) for name, entry in raw["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        return Difference(FILE, f"it cannot be read: {str(error).splitlines()[0]}.")
