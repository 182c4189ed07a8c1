"""Rows of a .json file that holds one array of objects, as Alpaca and ShareGPT files often come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stepladder.data.readers.draft import Row
from stepladder.data.readers.lines import numbered_lines
from stepladder.data.readers.strict_json import JsonFault, parse_json_at
from stepladder.domain.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_HINT = "A .json file holds one array of objects: [{…}, {…}]."


def is_array(path: Path) -> bool:
    """Whether the first sign that is no white space opens an array."""
    first = next((text.lstrip() for _, text in numbered_lines(path) if text.strip()), "")
    return first.startswith("[")


def read_rows(path: Path) -> Iterator[Row]:
    """Every object with the line it begins on.

    Raises:
        DataError: The file is not one array of objects.
    """
    text = "".join(line for _, line in numbered_lines(path))
    at, line, counted = _skip(text, text.index("[") + 1), 1, 0
    if text[at : at + 1] == "]":
        _check_end(path, text, at + 1)
        return
    while True:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = parse_json_at(text, at)
        except JsonFault as error:
            raise DataError(path, line, str(error), _HINT) from error
        if not isinstance(value, dict):
            raise DataError(path, line, "an element of the array is no object.", _HINT)
        yield Row(path, line, value)
        end = _skip(text, end)
        sign = text[end : end + 1]
        if sign == "]":
            _check_end(path, text, end + 1)
            return
        if sign != ",":
            found = f"{sign!r} stands" if sign else "the file ends"
            raise DataError(path, text.count("\n", 0, end) + 1, f"{found} where a comma or ']' should.", _HINT)
        at = _skip(text, end + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _check_end(path: Path, text: str, at: int) -> None:
    at = _skip(text, at)
    if at < len(text):
        raise DataError(path, text.count("\n", 0, at) + 1, "something stands after the end of the array.", _HINT)
