"""Values of the answers by field: the text of a plain answer, each field of a JSON answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepladder.data.checks.answers import leaves, parse_answer
from stepladder.data.checks.context import CheckContext

WHOLE = ""
"""The field of an answer that is no JSON."""
MOST_VALUES = 0.4  # different values by rows: above it the field is open, not a choice among a few
LONGEST_LABEL_WORDS = 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field over all rows: (place of the row, value) wherever a row has it."""

    path: str
    values: tuple[tuple[int, Any], ...]

    @property
    def texts(self) -> list[tuple[int, str]]:
        return [(place, value) for place, value in self.values if isinstance(value, str)]

    @property
    def is_label(self) -> bool:
        """A choice among few values, as far as the rows show."""
        texts = [value.strip() for _, value in self.texts]
        if len(texts) < 10 or any(len(text.split()) > LONGEST_LABEL_WORDS for text in texts):
            return False
        return len({text.casefold() for text in texts}) <= max(2, MOST_VALUES * len(texts))

    def name(self) -> str:
        return f"'{self.path}'" if self.path else "the answer"


def answer_fields(context: CheckContext) -> list[Field]:
    """Fields of the answers as the file writes them. Where nine of ten answers are JSON, the others have no field."""
    parsed = [parse_answer(row.reference_field.text.strip()) for row in context.rows]
    if sum(value is not None for value in parsed) < 0.5 * len(parsed):
        return [Field(WHOLE, tuple((place, row.reference_field.text) for place, row in enumerate(context.rows)))]
    values: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for place, value in enumerate(parsed):
        if value is not None:
            for path, item in leaves(value):
                values[path].append((place, item))
    return [Field(path, tuple(found)) for path, found in values.items()]


def json_objects(context: CheckContext) -> list[tuple[int, Mapping[str, Any]]] | None:
    """(place, answer) of the rows whose answer is a JSON object; None where most answers are something else."""
    parsed = [(place, parse_answer(row.reference_field.text.strip())) for place, row in enumerate(context.rows)]
    objects: list[tuple[int, Mapping[str, Any]]] = [(place, value) for place, value in parsed if isinstance(value, dict)]
    return objects if len(objects) >= max(5, 0.5 * len(parsed)) else None
