"""What every table of a settings file has in common, and how such a file is read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stepladder.domain.errors import DataError
from stepladder.domain.text_file import read_text
from stepladder.domain.toml_lines import line_of, line_of_fault


class Settings(BaseModel):
    """A table of a settings file: frozen, and a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


Table = TypeVar("Table", bound=Settings)


def read_settings(path: Path, model: type[Table]) -> Table:
    """The file's settings.

    Raises:
        DataError: It is not TOML, or a key or value is wrong (named with its line, and what to do).
    """
    text = read_text(path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(path, line_of_fault(error), f"not TOML: {error}.", "Correct the line.") from error
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise DataError(path, line_of(text, error.errors()[0]["loc"]), *_explain(error, model)) from error


def _explain(error: ValidationError, model: type[Settings]) -> tuple[str, str]:
    """The first fault of a settings file in words, and what to do: the key's own description."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{where}'.", "Remove it, or correct its spelling; the reference lists every key."
    if fault["type"] == "missing":
        return f"'{where}' is missing.", _description(fault["loc"], model) or "Add it."
    message = fault["msg"].removeprefix("Value error, ")
    return f"'{where}': {message}.", _description(fault["loc"], model)


def _description(location: tuple[int | str, ...], model: Any) -> str:
    found = ""
    for part in location:
        fields = getattr(model, "model_fields", {})
        key = next((name for name, info in fields.items() if part in (name, info.alias)), None)
        if key is None:
            break
        found = fields[key].description or ""
        model = fields[key].annotation
    return found
