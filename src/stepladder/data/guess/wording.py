"""A plain instruction from the names of the columns; a beginning for the user to correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.data.guess.answers import AnswerGuess
from stepladder.data.guess.names import PLAIN_NAMES

MOST_LISTED = 12
"""Labels that a sentence can hold; the prompt forms show longer lists in their own way."""


def guess_instruction(answers: AnswerGuess, *, input: str = "", reference: str = "") -> str:
    """One or two sentences for the kind of answer, with the columns' names where these say something."""
    asked = _noun(input, "input")
    wanted = _noun(reference, "")
    if answers.kind == "labels":
        return _for_labels(asked, wanted, answers.labels)
    if answers.kind == "schema":
        return _for_json(asked, answers.schema or {})
    if answers.kind == "numbers":
        return f"Read the {asked} and answer with {f'its {wanted}, ' if wanted else ''}one number, and nothing else."
    return f"Read the {asked} and write {f'its {wanted}' if wanted else 'the answer'}, and nothing else."


def _noun(name: str, otherwise: str) -> str:
    """The column's name in words; `otherwise` for names that only say what part the column plays."""
    words = " ".join(name.replace("_", " ").replace("-", " ").split())
    plain = words.casefold() in PLAIN_NAMES or len(words) < 3 or words.casefold().startswith("column ")
    return otherwise if plain else words.lower() if words.isupper() or words.istitle() else words


def _for_labels(asked: str, wanted: str, labels: Sequence[str]) -> str:
    opening = f"Read the {asked} and answer with {f'its {wanted}' if wanted else 'the label that fits'}"
    if len(labels) > MOST_LISTED:
        return f"{opening}, and nothing else."
    return f"{opening}: one of {', '.join(labels)}. Write nothing else."


def _for_json(asked: str, schema: Mapping[str, Any]) -> str:
    keys = list(schema.get("properties", {}))
    if schema.get("type") == "array":
        return f"Read the {asked} and answer with one JSON list, and nothing else."
    with_keys = f" with the keys {', '.join(keys)}" if 0 < len(keys) <= MOST_LISTED else ""
    return f"Read the {asked} and answer with one JSON object{with_keys}, and nothing else."
