"""Which column is the input, which the reference, which the id: by names, types, lengths and how often values repeat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import log2
from typing import Any

from stepladder.data.guess.closed import closed_set
from stepladder.data.guess.names import ID_NAMES, INPUT_NAMES, OTHER_NAMES, REFERENCE_NAMES
from stepladder.data.readers.draft import as_text

_PARTS = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NUMBER = re.compile(r"[-+]?[0-9][0-9.,'\s]*%?")
_DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?|\d{1,2}:\d{2}(:\d{2})?"
)
_CODE = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{20,}|https?://\S+|\S+@\S+\.\S+|[A-Za-z]{0,5}[-_#]?\d{2,}")
MOSTLY = 0.5
"""A column with gaps may still be meant; the reader will name the first gap."""
SURE_BY = 1.0
"""Points by which the best pair of columns has to lead for the guess to be called sure."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a column holds. Shares are of the filled rows, but `filled`, which is of all."""

    name: str
    place: int
    filled: float
    distinct: float  # different values by filled rows
    characters: float  # mean length
    plain: float  # share of texts that are no number, date, address or code
    coded: float  # share of dates, addresses and codes
    closed: bool  # few answers that repeat
    objects: float  # share of JSON objects and lists
    texts: float  # share of values that are texts at all


@dataclass(frozen=True, slots=True)
class ColumnGuess:
    """The columns taken, each with its reason; `doubt` says what else it might have been, "" when little speaks for it."""

    input: str
    reference: str
    id: str | None
    why: Mapping[str, str]
    doubt: str
    left: tuple[str, ...]


def guess_columns(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    input: str | None = None,
    reference: str | None = None,
) -> ColumnGuess | None:
    """The likeliest meaning of the columns; `input` and `reference` are taken as given. None when no pair makes sense."""
    facts = [_look(name, place, rows) for place, name in enumerate(names)]
    pairs = [
        (_input_points(one) + _reference_points(other) + (0.5 if other.place > one.place else 0.0), one, other)
        for one, other in permutations(facts, 2)
        if input in (None, one.name) and reference in (None, other.name)
    ]
    pairs.sort(key=lambda pair: -pair[0])
    if not pairs or not (_can_ask(pairs[0][1]) or input) or not (_can_answer(pairs[0][2]) or reference):
        return None
    _, asked, answered = pairs[0]
    left = tuple(fact.name for fact in facts if fact not in (asked, answered))
    identity = _guess_id([fact for fact in facts if fact.name in left], len(rows))
    return ColumnGuess(
        input=asked.name,
        reference=answered.name,
        id=None if identity is None else identity.name,
        why={
            "input": "you named it" if input else _why(asked, INPUT_NAMES),
            "reference": "you named it" if reference else _why(answered, REFERENCE_NAMES),
            "id": "" if identity is None else "its name says so, and every row has another value",
        },
        doubt=_doubt(pairs),
        left=tuple(name for name in left if identity is None or name != identity.name),
    )


def name_words(name: str) -> list[str]:
    """The words of a column's name, lower case: "customerMessage_text" has three."""
    return [part.casefold() for part in _PARTS.findall(_CAMEL.sub(" ", name))]


def _look(name: str, place: int, rows: Sequence[Mapping[str, Any]]) -> Facts:
    values = [value for row in rows if (value := row.get(name)) is not None and value != ""]
    texts = [as_text(value).strip() for value in values]
    count = max(1, len(texts))
    return Facts(
        name=name,
        place=place,
        filled=sum(bool(text) for text in texts) / max(1, len(rows)),
        distinct=len(set(texts)) / count,
        characters=sum(map(len, texts)) / count,
        plain=sum(not any(kind.fullmatch(text) for kind in (_NUMBER, _DATE, _CODE)) for text in texts) / count,
        coded=sum(any(kind.fullmatch(text) for kind in (_DATE, _CODE)) for text in texts) / count,
        closed=closed_set(texts) is not None,
        objects=sum(text[:1] in ("{", "[") and text[-1:] in ("}", "]") for text in texts) / count,
        texts=sum(isinstance(value, str) for value in values) / count,
    )


def _can_ask(fact: Facts) -> bool:
    return fact.filled > MOSTLY and fact.texts > MOSTLY and (fact.plain > 0.5 or _named(fact, INPUT_NAMES) > 0)


def _can_answer(fact: Facts) -> bool:
    named = _named(fact, REFERENCE_NAMES) > 0
    return fact.filled > 0 and (
        named or (_named(fact, OTHER_NAMES) == 0 and fact.coded < 0.5 and (fact.plain > 0.5 or fact.closed))
    )


def _input_points(fact: Facts) -> float:
    points = 3 * _named(fact, INPUT_NAMES) - 2 * _named(fact, REFERENCE_NAMES) - 2 * _named(fact, OTHER_NAMES)
    points += min(3.0, log2(1 + fact.characters / 8)) + 2 * fact.distinct
    points -= 4 * (1 - fact.plain) + 3 * fact.objects + 6 * (1 - fact.texts)
    return points - _gaps(fact)


def _reference_points(fact: Facts) -> float:
    named_answer = _named(fact, REFERENCE_NAMES) > 0
    points = 3 * _named(fact, REFERENCE_NAMES) - 2 * _named(fact, INPUT_NAMES) - 3 * _named(fact, OTHER_NAMES)
    points += 2.0 * fact.closed + 3.0 * fact.objects - 4.0 * fact.coded * (not named_answer)
    points -= 0 if fact.closed else 3 * (1 - fact.plain)
    points -= 4 * _named(fact, ID_NAMES) if fact.distinct == 1.0 else 0
    points -= 6 if fact.distinct * fact.filled > 0 and not fact.closed and fact.distinct < 0.02 else 0
    return points - _gaps(fact)


def _gaps(fact: Facts) -> float:
    return 0.0 if fact.filled == 1.0 else 2.0 + 8.0 * (1.0 - fact.filled)


def _named(fact: Facts, names: frozenset[str]) -> float:
    """1 when the whole name is one of the words, 2/3 when its last word is, 1/3 for any other, else 0."""
    words = name_words(fact.name)
    if not words:
        return 0.0
    if "".join(words) in names or "_".join(words) in names:
        return 1.0
    return 2 / 3 if words[-1] in names else 1 / 3 if set(words) & names else 0.0


def _guess_id(facts: Sequence[Facts], rows: int) -> Facts | None:
    possible = [fact for fact in facts if fact.filled == 1.0 and fact.distinct == 1.0 and rows > 1 and fact.characters <= 64]
    return max((fact for fact in possible if _named(fact, ID_NAMES) > 0.5), key=lambda fact: _named(fact, ID_NAMES), default=None)


def _why(fact: Facts, names: frozenset[str]) -> str:
    reasons = []
    if _named(fact, names) > 0:
        reasons.append("its name says so")
    if fact.closed and names is REFERENCE_NAMES:
        reasons.append("few values that repeat")
    elif fact.objects > 0.5:
        reasons.append("it holds JSON")
    else:
        reasons.append(f"{fact.characters:.0f} characters on average, {fact.distinct:.0%} of them different")
    return "; ".join(reasons)


def _doubt(pairs: Sequence[tuple[float, Facts, Facts]]) -> str:
    if len(pairs) < 2 or pairs[0][0] - pairs[1][0] >= SURE_BY:
        return ""
    _, asked, answered = pairs[1]
    return f"it might as well be '{asked.name}' → '{answered.name}'"
