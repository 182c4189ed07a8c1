"""Rows of a JSONL file: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stepladder.data.readers.draft import Row
from stepladder.data.readers.lines import numbered_lines
from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.errors import DataError

ONE_OBJECT = "JSONL holds one object a line, in double quotes."


def read_rows(path: Path) -> Iterator[Row]:
    """Every row with its line; blank lines hold none.

    Raises:
        DataError: A line is not one JSON object.
    """
    for number, text in numbered_lines(path):
        if not text.strip():
            continue
        try:
            value = parse_json(text)
        except JsonFault as error:
            hint = "The file looks like one JSON array: write each of its objects on a line of its own."
            raise DataError(path, number, str(error), hint if text.strip() in ("[", "{") else ONE_OBJECT) from error
        if not isinstance(value, dict):
            kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number or truth value")
            raise DataError(path, number, f"the line is {kind}, not an object.", ONE_OBJECT)
        yield Row(path, number, value)
