"""Rows of a JSONL file: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stepladder.data.readers.draft import Row
from stepladder.data.readers.lines import numbered_lines
from stepladder.data.readers.strict_json import JsonFault, parse_json
from stepladder.domain.errors import DataError

ONE_OBJECT = "Write one JSON object on each line, keys and texts in double quotes."
ONE_ARRAY = "Write each of its objects on a line of its own, or call the file NAME.json."


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
            raise DataError(path, number, str(error), hint_for(error, text)) from error
        if not isinstance(value, dict):
            kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number or truth value")
            hint = ONE_ARRAY if isinstance(value, list) else ONE_OBJECT
            raise DataError(path, number, f"the line is {kind}, not an object.", hint)
        yield Row(path, number, value)


def hint_for(fault: JsonFault, line: str) -> str:
    """What to do about a line that is not read."""
    if not fault.syntax:
        return "Correct the line, or drop it."
    return f"The file looks like one JSON array. {ONE_ARRAY}" if line.strip() in ("[", "{") else ONE_OBJECT
