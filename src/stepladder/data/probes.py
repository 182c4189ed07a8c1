"""Retention probes from files: the built-in ones, written for this project, and the user's beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stepladder.data import bundled
from stepladder.data.readers.json_lines import read_rows
from stepladder.data.readers.lines import look_at
from stepladder.domain.errors import DataError
from stepladder.domain.probes import ChoiceProbe, InstructionProbe, Probes, ReplayPrompt, TextProbe, WelcomeProbe
from stepladder.domain.task import Task

Probe = InstructionProbe | ChoiceProbe | TextProbe | WelcomeProbe | ReplayPrompt

BUILT_IN = ("instructions", "choices", "texts", "welcome", "replay")
_SHAPES: dict[str, type[Probe]] = {  # by the key that only this shape has
    "checks": InstructionProbe,
    "question": ChoiceProbe,
    "text": TextProbe,
    "welcome": WelcomeProbe,
    "replay": ReplayPrompt,
}


def load_probes(task: Task) -> Probes:
    """The built-in probes and those of `[use] probes`.

    Raises:
        DataError: The user's file cannot be read, or a line is no probe; named.
    """
    found: list[Probe] = []
    with as_file(files(bundled) / "probes") as folder:
        for name in BUILT_IN:
            found += read_probes(folder / f"{name}.jsonl")
    if task.settings.use.probes is not None:
        found += read_probes(task.path(task.settings.use.probes))
    return _sorted(found)


def read_probes(path: Path) -> list[Probe]:
    """The probes of one JSONL file, in order.

    Raises:
        DataError: As `load_probes`.
    """
    look_at(path)
    return [_probe(path, row.line, row.values) for row in read_rows(path)]


def _probe(path: Path, line: int, content: Mapping[str, Any]) -> Probe:
    shape = next((shape for key, shape in _SHAPES.items() if key in content), None)
    if shape is None:
        raise DataError(
            path,
            line,
            "this is no retention probe.",
            "Give `prompt` and `checks`, or `question`, `options` and `answer`, or `text`, `welcome` or `replay` alone.",
        )
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        raise DataError(
            path, line, f"{f'{where!r}: ' if where else ''}{said}.", "Correct the probe, or drop the line."
        ) from error


def _sorted(found: Iterable[Probe]) -> Probes:
    probes = list(found)
    return Probes(
        instructions=tuple(probe for probe in probes if isinstance(probe, InstructionProbe)),
        choices=tuple(probe for probe in probes if isinstance(probe, ChoiceProbe)),
        texts=tuple(probe.text for probe in probes if isinstance(probe, TextProbe)),
        welcome=tuple(probe.welcome for probe in probes if isinstance(probe, WelcomeProbe)),
        replay=tuple(probe.replay for probe in probes if isinstance(probe, ReplayPrompt)),
    )
