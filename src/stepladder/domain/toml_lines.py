"""On which line of a TOML file a key stands; tomllib keeps no places."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

Part = int | str


def line_of(text: str, location: Sequence[Part]) -> int | None:
    """The line (from 1) of the key, table header or array table at `location`; None where nothing of it is in the file.

    Parts that the file does not hold are passed over: a missing key leads to its table, and the names that pydantic puts in for
    the variant of a union lead nowhere.

    The file's own parser says where: the statement that brings the key begins behind the longest beginning of the file, in whole
    lines, that can be parsed and lacks it. Takes one parse a line, which is little for a file that somebody writes.
    """
    held = _held(tomllib.loads(text), location)
    if not held:
        return None
    lines = text.replace("\r\n", "\n").split("\n")  # not `splitlines`, which also cuts at signs that a string may hold
    start = 1
    for count in range(1, len(lines) + 1):
        try:
            beginning = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # a value over several lines has begun
        if _held(beginning, held) == held:
            return start
        start = count + 1
    return None


def line_of_fault(error: tomllib.TOMLDecodeError) -> int | None:
    """The line that tomllib complains about; None where the file ends too early."""
    found = re.search(r"\(at line (\d+)", str(error))
    return int(found[1]) if found else None


def _held(value: Any, location: Sequence[Part]) -> list[Part]:
    """The parts of `location` that lead somewhere, one inside the other."""
    held: list[Part] = []
    for part in location:
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            held.append(part)
    return held
