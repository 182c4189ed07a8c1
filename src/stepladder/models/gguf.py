"""Reading a GGUF file's header with every count and offset checked against the file, before any loader sees it.

Layout: ggml's docs/gguf.md. Loaders trust these numbers; a file that lies about them has made one leak memory
(CVE-2026-7482), so a lying file is refused here.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from stepladder.domain.errors import ModelError

MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_ENTRIES = 1_000_000  # of metadata or tensors; real files hold hundreds
MAX_DEPTH = 2  # of arrays in arrays; real files hold none

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}

# ggml type number -> (name, elements a block, bytes a block)
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's place. `offset` counts from the start of the file, in bytes."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A header whose every number has been checked."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def quantisation(self) -> str:
        """The type that holds the most elements, for example "Q4_1"."""
        elements: dict[str, int] = {}
        for tensor in self.tensors:
            elements[tensor.type_name] = elements.get(tensor.type_name, 0) + prod(tensor.shape)
        return max(elements, key=lambda name: elements[name])


def read_header(path: Path) -> GgufHeader:
    """The checked header of a GGUF file.

    Raises:
        ModelError: The file cannot be read, is no GGUF, or names a place outside itself.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except OSError as error:
        raise ModelError(f"{path}: the file cannot be read ({error.strerror}).", "Check the path.") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise ModelError(f"{path}: not a GGUF file (it is empty).", "Download it again.") from error


class _Reader:
    """A cursor over the mapped file that refuses to step outside it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0

    def read(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            raise self.refuse("it does not begin with GGUF")
        self.at = 4
        version = self.number("<I")
        if version not in (2, 3):
            raise self.refuse(f"its version is {version}, not 2 or 3")
        tensor_count, entry_count = self.number("<Q"), self.number("<Q")
        if max(tensor_count, entry_count) > MAX_ENTRIES:
            raise self.refuse(f"it claims {tensor_count} tensors and {entry_count} metadata entries")
        metadata = self.metadata(entry_count)
        infos = [self.tensor_info() for _ in range(tensor_count)]
        return GgufHeader(self.path, version, metadata, self.place(infos, metadata))

    def metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self.string()
            if key in metadata:
                raise self.refuse(f"the key {key!r} stands twice")
            metadata[key] = self.value(self.number("<I"), depth=0)
        return metadata

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        dimensions = self.number("<I")
        if not 1 <= dimensions <= 4:
            raise self.refuse(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))
        return name, shape, self.number("<I"), self.number("<Q")

    def place(self, infos: list[tuple[str, tuple[int, ...], int, int]], metadata: Mapping[str, Any]) -> tuple[GgufTensor, ...]:
        """Tensors with their place in the file, checked to lie inside it, apart from each other."""
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 65536 or alignment % 8:
            raise self.refuse(f"its alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        tensors = [self.one_tensor(*info, start, alignment) for info in infos]
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise self.refuse("two tensors share a name")
        in_order = sorted(tensors, key=lambda tensor: tensor.offset)
        for before, after in pairwise(in_order):
            if before.offset + before.size_bytes > after.offset:
                raise self.refuse(f"tensors {before.name!r} and {after.name!r} overlap")
        return tuple(tensors)

    def one_tensor(
        self, name: str, shape: tuple[int, ...], type_number: int, offset: int, start: int, alignment: int
    ) -> GgufTensor:
        if type_number not in TENSOR_TYPES:
            raise self.refuse(f"tensor {name!r} has the unknown type {type_number}")
        type_name, block_elements, block_bytes = TENSOR_TYPES[type_number]
        if min(shape) == 0 or shape[0] % block_elements:
            raise self.refuse(f"tensor {name!r} has the impossible shape {shape} for {type_name}")
        size_bytes = prod(shape) // block_elements * block_bytes
        if offset % alignment or start + offset + size_bytes > self.size:
            raise self.refuse(f"tensor {name!r} lies outside the file or between its places")
        return GgufTensor(name, shape, type_name, start + offset, size_bytes)

    def value(self, kind: int, *, depth: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            if depth >= MAX_DEPTH:
                raise self.refuse("its arrays are nested too deeply")
            inner, count = self.number("<I"), self.number("<Q")
            return self.array(inner, count, depth)
        if kind not in _SCALARS:
            raise self.refuse(f"a metadata value has the unknown type {kind}")
        number = self.number(_SCALARS[kind])
        return bool(number) if kind == _BOOL else number

    def array(self, kind: int, count: int, depth: int) -> list[Any]:
        if kind in _SCALARS:
            layout = f"<{count}{_SCALARS[kind][1]}"
            raw = self.take(count * struct.calcsize(_SCALARS[kind]))
            return list(struct.unpack(layout, raw))
        if count > self.size - self.at:  # every string or array takes at least a byte: no need to try
            raise self.refuse(f"an array claims {count} entries")
        return [self.value(kind, depth=depth + 1) for _ in range(count)]

    def string(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > min(self.size, MAX_HEADER_BYTES):
            raise self.refuse("its header runs past the end of the file, or past 64 MB")
        raw = self.data[self.at : end]
        self.at = end
        return raw

    def refuse(self, reason: str) -> ModelError:
        return ModelError(f"{self.path}: not a sound GGUF file: {reason}.", "Download it again, from a source you trust.")
